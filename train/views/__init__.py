"""The views of each image: how they are augmented and perturbed."""
