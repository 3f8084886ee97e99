"""Image sources, and batches of decoded crops."""
