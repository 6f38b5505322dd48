"""Distillation losses: pure functions that give one float32 value an image."""
