"""Scripts that show how the parts work together."""
