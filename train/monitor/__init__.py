"""Watching a run: its log, guards, probes and signals."""
