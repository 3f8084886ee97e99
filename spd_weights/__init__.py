"""Backbones that see small defects: SPot-the-Difference pre-trained weights as ordinary timm models."""

__version__ = "0.1.0"
