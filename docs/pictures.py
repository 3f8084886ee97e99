"""Draw docs/heatmaps.webp: the heat maps of several weights on the same anomalies of VisA (Amazon, CC BY 4.0).

    python docs/pictures.py --data visa/ --weights local-dir:mobilenetv2_100.imagenet1k mobilenetv2_100_spd \\
        --labels "ImageNet" "adapted with SPD"

Evaluates the weights with --save-maps under --out, where finished cells are kept, then draws.

Blue is the median and yellow the 99.9 % quantile of the pixels of the object's normal test images, for each weight by
itself: yellow is what would be a false alarm in one of a thousand normal pixels.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

IMAGES = ["capsules/025", "capsules/075", "fryum/025", "fryum/075"]
"""Chosen by number, before anyone looked."""


def main() -> None:
    """Evaluate and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="VisA's folder")
    parser.add_argument("--weights", nargs="+", required=True, help="one column each; as `python -m eval` takes them")
    parser.add_argument("--labels", nargs="+", required=True, help="the columns' titles, one per weight")
    parser.add_argument("--method", default="padim", help="(%(default)s)")
    parser.add_argument("--images", nargs="+", default=IMAGES, help="anomalies: object/number (%(default)s)")
    parser.add_argument("--image-size", default="224", metavar="PX", help="(%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/pictures"), help="of the evaluation (%(default)s)")
    parser.add_argument("--to", type=Path, default=Path("docs/heatmaps.webp"), help="(%(default)s)")
    args = parser.parse_args()
    categories = dict.fromkeys(name.split("/")[0] for name in args.images)
    command = ["--weights", *args.weights, "--data", str(args.data), "--category", *categories, "--method", args.method,
               "--image-size", args.image_size, "--save-maps", "--out", str(args.out)]  # fmt: skip
    subprocess.run([sys.executable, "-m", "eval", *command], check=True)
    draw(args)


def draw(args: argparse.Namespace) -> None:
    """Draw one row per image and one column per weight."""
    rows, columns = len(args.images), 1 + len(args.weights)
    figure, axes = plt.subplots(rows, columns, figsize=(2.4 * columns, 1.62 * rows + 0.2), layout="compressed")
    for line, name in zip(np.atleast_2d(axes), args.images, strict=True):
        category, number = name.split("/")
        photo = Image.open(args.data / category / "Data" / "Images" / "Anomaly" / f"{number}.JPG").convert("RGB")
        left, right, bottom, top = extent = (0, photo.width, photo.height, 0)
        line[0].imshow(photo)
        for axis, weights in zip(line[1:], args.weights, strict=True):
            heat, mask = heat_and_mask(args.out, weights, category, args.method, f"{number}.JPG")
            axis.imshow(photo.convert("L"), cmap="gray")
            axis.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=0.7, extent=extent, interpolation="bilinear")
        for axis in line:
            axis.contour(mask, [0.5], colors="cyan", linewidths=0.8, extent=(left, right, top, bottom))
            axis.set_axis_off()
    for axis, label in zip(np.atleast_2d(axes)[0], ["defect outlined", *args.labels], strict=True):
        axis.set_title(label, fontsize=9)
    figure.savefig(args.to, dpi=110, pil_kwargs={"quality": 82})


def heat_and_mask(folder: Path, weights: str, category: str, method: str, image: str) -> tuple[np.ndarray, np.ndarray]:
    """The map of one image, scaled by the object's normal images, and its mask: two arrays (S, S)."""
    for cell in sorted(folder.glob(f"cells/*/*/{category}/1cls-{method}-seed0/cell.json")):
        if json.loads(cell.read_text())["rows"][0]["weights"] == weights:
            saved = np.load(cell.with_name("maps.npz"))
            normal = saved["maps"][~saved["anomalous"], ::2, ::2].astype(np.float32)
            low, high = np.quantile(normal, [0.5, 0.999])
            (which,) = [i for i, name in enumerate(saved["images"]) if name.endswith(f"Anomaly/{image}")]
            return (saved["maps"][which].astype(np.float32) - low) / (high - low), saved["masks"][which]
    raise SystemExit(f"{folder} holds no maps of {weights} on {category}")


if __name__ == "__main__":
    main()
