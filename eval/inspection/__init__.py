"""Fit a detector on photographs of parts, and use it."""
