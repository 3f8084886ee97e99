"""From photographs of good parts to a gallery of suspicious ones, on VisA's fryum or on drawn parts.

    python -m examples.inspection --visa VisA/ --out runs/inspection     # minutes on two cores
    python -m examples.inspection --out runs/inspection                  # draws its own parts

Fits a detector on 50 photographs of good parts, shows what each threshold would miss among some defective ones, scores
parts that the detector has not seen, and runs the exported detector without torch. `python -m eval fit`, `predict` and
`export` do the same from the command line.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from eval.detectors.methods import Settings
from eval.inspection.export import export
from eval.inspection.fit import FitOptions, fit
from eval.inspection.photographs import find_photographs
from eval.inspection.predict import predict
from eval.inspection.tradeoff import write_trade_off
from synthetic import folder, parts


def main(argv: list[str] | None = None) -> None:
    """Fit, choose a threshold, predict, export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--visa", type=Path, metavar="DIR", help="VisA's folder, with fryum in it")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--photographs", type=int, default=50, metavar="N", help="of good parts, to fit on (50)")
    parser.add_argument("--image-size", type=int, default=224, metavar="PX", help="(224)")
    given = parser.parse_args(argv)

    images = (given.visa / "fryum" if given.visa else drawn_parts(given.out, given.photographs)) / "Data" / "Images"
    good, bad = (find_photographs([images / kind]) for kind in ("Normal", "Anomaly"))
    known, new_bad = bad[::2], bad[1::2]
    train, new_good = good[: given.photographs], good[given.photographs :][: len(new_bad)]

    # 1. Fit. Features are adapted to the parts if synthetic defects on good parts say that this helps. The threshold
    # comes from the good parts alone: each is scored by a detector that has not seen it.
    detector = given.out / "part.safetensors"
    options = FitOptions(settings=Settings(image_size=given.image_size), false_alarms=0.05, adapt=True)
    fitted = fit(train, detector, options, defects=known)
    print(fitted.about["adaptation"]["note"])
    print(f"threshold {fitted.threshold.value:.4g}: {fitted.threshold.note}")

    # 2. Known defects show what a threshold costs. The detector learns nothing from them.
    for point in fitted.trade_off.table():
        print(f"  at {point.threshold:.4g}: {point.false_alarms} false alarms, {point.missed} of {len(known)} missed")
    write_trade_off(detector, fitted.trade_off, fitted.threshold.value)

    # 3. Predict, on parts that were not used so far.
    done = predict(detector, [*new_good, *new_bad], given.out / "scores")
    above = {row["image"] for row in done.rows if row["above"]}
    alarms, found = (sum(str(file) in above for file in files) for files in (new_good, new_bad))
    print(f"{alarms} of {len(new_good)} good parts and {found} of {len(new_bad)} defective ones are above it")
    print(f"gallery: {done.gallery}")

    # 4. Export, and run the graph as on a machine without torch.
    if all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))):
        run_without_torch(export(detector, "onnx"), new_bad[:3], given.out / "heat maps")
    else:
        print("to export the detector as well: pip install 'spd-weights[export]'")


def run_without_torch(graph: Path, photographs: Sequence[Path], out: Path) -> None:
    """Print the graph's scores of some photographs, and write their heat maps."""
    out.mkdir(exist_ok=True)
    files = [file.resolve() for file in (Path(__file__).with_name("run_onnx.py"), graph, *photographs)]
    subprocess.run([sys.executable, *files], cwd=out, check=True)


def drawn_parts(out: Path, train: int) -> Path:
    """Draw biscuits in VisA's layout."""
    arguments = {name: default for name, (default, _, _) in parts.OPTIONS.items()} | {"train": train, "size": 128}
    folder.write(out / "parts", "synthetic.parts", arguments, parts.files)
    return out / "parts" / "biscuit"


if __name__ == "__main__":
    main()
