"""Fit a detector on one's own parts and predict with it."""
