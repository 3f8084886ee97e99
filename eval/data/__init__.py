"""Data sets, their splits and their images."""
