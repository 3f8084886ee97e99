"""From the name of a weight to frozen feature maps."""
