"""Inspect photographs with an exported detector; needs onnxruntime, NumPy and Pillow, but not torch.

python run_onnx.py detector.onnx photo.jpg …
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
about = session.get_modelmeta().custom_metadata_map
size, (median, maximum) = int(about["image_size"]), json.loads(about["map_range"])
for name in sys.argv[2:]:
    photo = ImageOps.exif_transpose(Image.open(name)).convert("RGB")
    side = 7 / 8 * min(photo.size)  # of the middle square that "short-crop" sees; "square" sees the whole photograph
    left, top = ((length - side) / 2 for length in photo.size)
    box = (left, top, left + side, top + side) if about["resize"] == "short-crop" else (0, 0, *photo.size)
    pixels = np.asarray(photo.resize((size, size), Image.Resampling.BICUBIC, box))
    score, heat, above = session.run(["score", "map", "above"], {"pixels": pixels[None]})
    print(f"{score[0]:.6g} is {'above' if above[0] else 'below'} the threshold {about['threshold']}: {name}")
    # Red starts at the median of good parts' maps; their maximum is half red.
    red = np.clip((heat[0] - median) / (2 * (maximum - median)), 0, 1)[..., None]
    Image.fromarray(np.uint8(pixels * (1 - red) + (255, 0, 0) * red)).save(f"{Path(name).stem}-heat.png")
