"""From crops to the views that a method is trained on."""
