"""The 2-class protocols: a classifier and a U-Net, fine-tuned from the weights under test."""
