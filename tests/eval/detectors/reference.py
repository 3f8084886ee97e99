"""Maps as Pillow and SciPy make them."""

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter


def smoothed(distances: np.ndarray, side: int) -> np.ndarray:
    """Patch distances [B, H, W], upsampled bilinearly to [B, side, side] and smoothed by a Gaussian of sigma 4."""
    grown = [Image.fromarray(d.astype(np.float32)).resize((side, side), Image.Resampling.BILINEAR) for d in distances]
    return np.stack([gaussian_filter(np.asarray(d, np.float64), 4) for d in grown])
