"""Detectors that learn from normal images alone."""
