"""A small rendered inspection data set in VisA's folder layout, with exact ground truth.

`python -m synthetic.parts --to DIR` writes it. Every picture is a relief (albedo, height and gloss) lit by
one lamp and photographed by a noisy camera; a defect changes the relief or the parts on it, and the
mask is what the camera then sees differently. No pixel is cut, pasted or blended, so that nothing here
resembles the perturbations a backbone is trained with.
"""
