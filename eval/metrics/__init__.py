"""Exact metrics, and the statistics of comparisons."""
