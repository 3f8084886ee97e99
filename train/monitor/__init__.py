"""What watches a run: metrics, guards, measurements on held-out images, and stopping."""
