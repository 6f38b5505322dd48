"""Measuring on another machine, over OpenSSH."""
