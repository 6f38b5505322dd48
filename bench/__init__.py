"""Measuring artifacts on a device. Imports neither torch nor ultralytics nor ``compress``."""
