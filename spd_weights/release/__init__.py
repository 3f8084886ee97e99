"""What makers of weights need: export, convert, measure, publish. Loading a weight needs none of it."""
