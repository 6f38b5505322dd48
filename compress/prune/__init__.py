"""Structured pruning: which channels go, and taking them out."""
