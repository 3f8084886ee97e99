"""PatchCore's inference beside anomalib's, per photograph with decoding, in one run.

    pip install "anomalib==2.*" openvino
    python -m tests.bench.inference --photos DIR --weights W

Both have the same backbone, layers and image size, and the same bank of 10,000 patches. It is filled from other
photographs than those that are scored: patches of the bank itself would be found faster than new ones.

Ours is torch as in `predict`, with batches of one, and the exported graph in onnxruntime and in OpenVINO. anomalib's
is, as its documentation shows: TorchInferencer, Engine.predict, its ONNX export in onnxruntime, and OpenVINOInferencer.
Its score is the plain maximum of distances (`num_neighbors=1`), as ours, which is faster than its default.

Each contender has a process of its own. They take turns, `--rounds` times, so that a slow minute of the machine is slow
for all. Prints milliseconds per photograph (median of its rounds' medians), the process's peak memory, and the
correlation of its scores with ours (it resizes differently, and OpenVINO ignores that its resize is antialiased). It
then prints the ratio of two times from the same round: median, smallest and largest. Fails if the median is below 2 in
one of the runtimes.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch

SIZE = 224
Score = Callable[[Path], float]
Run = Callable[[Sequence[Path]], tuple[list[float], float]]  # scores, and milliseconds per photograph


def main() -> int:
    """Measure and print; 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="a folder of photographs")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--bank", type=int, default=10_000, help="patches")
    parser.add_argument("--limit", type=int, default=30, help="photographs at most; as many others for the bank")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--contender", nargs=2, metavar=("NAME", "FOLDER"), help="(what each process runs)")
    args = parser.parse_args()
    if args.contender:
        _take_turns(args.contender[0], Path(args.contender[1]), args.threads)
        return 0
    found = sorted(file for file in args.photos.iterdir() if file.is_file())
    photos, normal = found[: args.limit], found[args.limit :][: args.limit]
    with tempfile.TemporaryDirectory() as folder:
        for name, files in {"photos": photos, "normal": normal}.items():
            Path(folder, name).mkdir()
            for photo in files:
                Path(folder, name, photo.name).symlink_to(photo.resolve())
        _prepare(Path(folder), args.weights, args.bank)
        with ExitStack() as stack:
            processes = {name: stack.enter_context(_process(name, folder)) for name in CONTENDERS}
            rounds = [{name: _turn(name, process) for name, process in processes.items()} for _ in range(args.rounds)]
    print(f"{len(photos)} photographs, bank of {args.bank} patches, {args.threads} threads, {args.weights}")
    print(f"{'':28}{'ms':>8}{'peak MiB':>10}{'correlation':>13}")
    for name in CONTENDERS:
        taken = statistics.median(turns[name]["ms"] for turns in rounds)
        correlation = np.corrcoef(rounds[-1][name]["scores"], rounds[-1]["ours, torch"]["scores"])[0, 1]
        print(f"{name:28}{taken:8.1f}{rounds[-1][name]['mib']:10.0f}{correlation:13.4f}")
    medians = []
    for ours, theirs in RIVALS:
        ratios = [turns[theirs]["ms"] / turns[ours]["ms"] for turns in rounds]
        medians.append(statistics.median(ratios))
        print(f"{theirs} ÷ {ours}: {medians[-1]:.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    return 0 if min(medians) >= 2 else 1


def _process(name: str, folder: str) -> subprocess.Popen:
    """Start a contender, and let it score the photographs once: the first call is slower."""
    command = [sys.executable, "-m", "tests.bench.inference", *sys.argv[1:], "--contender", name, folder]
    environment = {**os.environ, "TRUST_REMOTE_CODE": "1"}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    _turn(name, process)
    return process


def _turn(name: str, process: subprocess.Popen) -> dict:
    """Let a contender score the photographs once."""
    print("score", file=process.stdin, flush=True)
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"{name}: its process ended early; its error is above")
    return json.loads(line)


def _take_turns(name: str, folder: Path, threads: int) -> None:
    """Score all photographs whenever a line arrives, and answer with scores, time and memory."""
    torch.set_num_threads(threads)
    photos = sorted((folder / "photos").iterdir())
    answers, sys.stdout = sys.stdout, sys.stderr  # where libraries may print
    run = _engine(folder) if name == ENGINE else _one_by_one(CONTENDERS[name](folder, threads))
    for _ in sys.stdin:
        scores, ms = run(photos)
        print(json.dumps({"scores": scores, "ms": ms, "mib": _peak_mib()}), file=answers, flush=True)


def _one_by_one(score: Score) -> Run:
    def run(photos: Sequence[Path]) -> tuple[list[float], float]:
        scores, seconds = [], []
        for photo in photos:
            started = time.perf_counter()
            scores.append(score(photo))
            seconds.append(time.perf_counter() - started)
        return scores, 1000 * statistics.median(seconds)

    return run


def _peak_mib() -> float:
    """Peak memory of this process. getrusage would count that of the process which started it, too."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) / 2**10


def _prepare(folder: Path, weights: str, bank: int) -> None:
    """Write our detector and its graphs, and anomalib's exports of the same."""
    from anomalib.models import Patchcore
    from anomalib.pre_processing import PreProcessor
    from torchvision.transforms.v2 import Compose, Normalize, Resize

    from eval.detectors.methods import Settings
    from eval.detectors.saved import load_detector, save_detector
    from eval.inspection.export import export
    from eval.inspection.fit import FitOptions, fit

    file = folder / "ours.safetensors"
    photos = sorted((folder / "normal").iterdir())
    about = fit(photos, file, FitOptions(weights, "patchcore", Settings(coreset_ratio=0.001))).about
    detector, extractor, _ = load_detector(file)
    detector._set_bank(_bank(extractor, detector, photos, bank))
    save_detector(file, detector, about)
    for kind in ("onnx", "openvino"):
        export(file, kind)
    transform = Compose(
        [
            Resize((SIZE, SIZE), antialias=True),
            Normalize(extractor.mean.flatten().tolist(), extractor.std.flatten().tolist()),
        ]
    )
    layers = extractor.layers_of(detector.reductions)
    model = Patchcore(weights, layers, num_neighbors=1, pre_processor=PreProcessor(transform), visualizer=False)
    model.model.memory_bank = detector.bank.clone()  # tensors made in inference mode cannot be exported
    model.eval()
    model.to_torch(folder)
    # Photographs of any size. A dynamic batch would become one of 2: anomalib 2.7 traces with two images.
    sides = {"dynamic_axes": {"input": {2: "height", 3: "width"}}}
    model.to_onnx(folder, **sides)
    model.to_openvino(folder, onnx_kwargs=sides)


def _bank(extractor, detector, photos: Sequence[Path], count: int) -> torch.Tensor:
    from eval.data.images import batches
    from eval.detectors.patches import patches_of

    found = [
        patches_of(extractor.select(extractor(images), detector.reductions)).flatten(0, 2)
        for images in batches(photos, SIZE, 8, 0)
    ]
    patches = torch.cat(found)
    return patches[torch.randperm(len(patches), generator=torch.Generator().manual_seed(0))[:count]]


def _ours(folder: Path, threads: int) -> Score:
    from eval.data.images import read_image
    from eval.detectors.saved import load_detector

    detector, extractor, _ = load_detector(folder / "ours.safetensors")

    def score(photo: Path) -> float:
        pixels = torch.from_numpy(read_image(photo, SIZE).transpose(2, 0, 1).copy())[None]
        return float(detector(extractor(pixels))[0])

    return score


def _ours_onnx(folder: Path, threads: int) -> Score:
    run = _onnxruntime(folder / "ours.onnx", threads)
    return lambda photo: float(run({"pixels": _square(photo)})["score"][0])


def _ours_openvino(folder: Path, threads: int) -> Score:
    import openvino

    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    compiled = openvino.Core().compile_model(folder / "ours.xml", "CPU", options)
    return lambda photo: float(compiled(_square(photo))["score"][0])


def _square(photo: Path) -> np.ndarray:
    from eval.data.images import read_image

    return read_image(photo, SIZE)[None]


def _onnxruntime(file: Path, threads: int) -> Callable[[dict], dict]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda given: dict(zip(names, session.run(names, given), strict=True))


def _theirs(folder: Path, threads: int) -> Score:
    from anomalib.deploy import TorchInferencer

    inferencer = TorchInferencer(folder / "weights/torch/model.pt", device="cpu")

    @torch.inference_mode()
    def score(photo: Path) -> float:
        return float(inferencer.predict(photo).pred_score)

    return score


def _theirs_onnx(folder: Path, threads: int) -> Score:
    from anomalib.data.utils import read_image

    run = _onnxruntime(folder / "weights/onnx/model.onnx", threads)
    return lambda photo: float(run({"input": read_image(photo, as_tensor=True)[None].numpy()})["pred_score"].squeeze())


def _theirs_openvino(file: str) -> Callable[[Path, int], Score]:
    def load(folder: Path, threads: int) -> Score:
        from anomalib.deploy import OpenVINOInferencer

        os.chdir(folder)  # it writes a cache there
        options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
        inferencer = OpenVINOInferencer(folder / "weights" / file, "CPU", options)
        return lambda photo: float(inferencer.predict(photo).pred_score.squeeze())

    return load


def _engine(folder: Path) -> Run:
    """Engine.predict on all photographs at once; the time is the mean."""
    from anomalib.engine import Engine

    model = torch.load(folder / "weights/torch/model.pt", weights_only=False)["model"]
    engine = Engine(accelerator="cpu", devices=1, logger=False, default_root_dir=folder / "engine")

    def run(photos: Sequence[Path]) -> tuple[list[float], float]:
        started = time.perf_counter()
        batches = engine.predict(model=model, data_path=photos[0].parent)
        seconds = time.perf_counter() - started
        scores = {
            Path(path): float(score)
            for batch in batches
            for path, score in zip(batch.image_path, batch.pred_score, strict=True)
        }
        return [scores[photo] for photo in photos], 1000 * seconds / len(photos)

    return run


ENGINE = "anomalib, Engine.predict"
CONTENDERS: dict[str, Callable[[Path, int], Score] | None] = {
    "ours, torch": _ours,
    "ours, onnxruntime": _ours_onnx,
    "ours, OpenVINO": _ours_openvino,
    "anomalib, TorchInferencer": _theirs,
    "anomalib, onnxruntime": _theirs_onnx,
    "anomalib, OpenVINO": _theirs_openvino("openvino/model.xml"),
    ENGINE: None,  # scores many photographs in one call
}
RIVALS = [
    ("ours, torch", "anomalib, TorchInferencer"),
    ("ours, torch", ENGINE),
    ("ours, onnxruntime", "anomalib, onnxruntime"),
    ("ours, OpenVINO", "anomalib, OpenVINO"),
]


if __name__ == "__main__":
    sys.exit(main())
