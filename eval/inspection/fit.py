"""Fit a detector on photographs of good parts, choose its threshold, and save both."""

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spd_weights.errors import SpdError

from ..backbone.tiles import AnyExtractor, tiled
from ..detectors.base import Detector
from ..detectors.methods import Settings, build_detectors
from ..detectors.one_class import extractor_for, not_finite
from ..detectors.saved import save_detector
from ..predictions import ReportProgress
from .adaptation.guard import METHODS, Verdict, decide, kept_plain
from .adaptation.maps import adapted
from .features import FeatureStore, extract
from .measure import masks_of, measure
from .photographs import copies
from .threshold import FALSE_ALARMS, Build, HeldOut, Threshold, choose_threshold, fit_on, held_out
from .tradeoff import TradeOff

DEFAULT_WEIGHTS = "mobilenetv2_100_spd"  # part of the package: needs no network
DEFAULT_METHOD = "patchcore"
MINIMUM = 10  # normal photographs; with fewer, one good part in ten or more would be a false alarm
BANK = 10_000  # patches that PatchCore keeps at most: the time per photograph grows with their number


@dataclass(frozen=True)
class FitOptions:
    """How to fit.

    Attributes:
        weights: As for `eval.backbone.weights.load_backbone`.
        method: One of `DETECTORS`.
        settings: Image size and the methods' options. PatchCore keeps at most `BANK` patches, whatever its ratio.
        tiles: Number of overlapping tiles along each side of a photograph, each seen at the settings' image size.
        false_alarms: Wanted rate of normal photographs above the threshold, in (0, 1).
        seed: Seed of the method's random draws.
        workers: Number of processes that decode photographs.
        adapt: Whether features may be adapted to the parts; see `eval.inspection.adaptation`.
    """

    weights: str = DEFAULT_WEIGHTS
    method: str = DEFAULT_METHOD
    settings: Settings = field(default_factory=Settings)
    tiles: int = 1
    false_alarms: float = FALSE_ALARMS
    seed: int = 0
    workers: int = 1
    adapt: bool = False


@dataclass(frozen=True)
class Fitted:
    """What `fit` has learned and written.

    Attributes:
        about: The description stored with the detector, JSON-ready.
        threshold: Chosen on normal photographs that the detector had not seen.
        skipped: One sentence per photograph that was not used.
        trade_off: False alarms against missed defects; None without photographs of defects.
    """

    about: dict[str, Any]
    threshold: Threshold
    skipped: list[str]
    trade_off: TradeOff | None


def fit(
    normal: Sequence[Path],
    save: Path,
    options: FitOptions | None = None,
    *,
    defects: Sequence[Path] = (),
    masks: Path | None = None,
    progress: ReportProgress = lambda *_: None,
) -> Fitted:
    """Fit a detector on normal photographs and write it to a file.

    Args:
        normal: Photographs of good parts, at least `MINIMUM`. Unreadable ones and copies of others are not used.
        save: The safetensors file to write.
        options: How to fit; None for the defaults.
        defects: Photographs of defective parts. The detector does not learn from them; they only show what each
            threshold would miss.
        masks: A folder with their masks; see `eval.inspection.measure.masks_of`.
        progress: Called with a stage's name, the photographs done and their total.

    Raises:
        SpdError: Too few photographs, one that is both normal and a defect, or as `Extractor`, `masks_of`,
            `measure` and `save_detector`.
    """
    started = time.perf_counter()
    options = options or FitOptions()
    _check_save(save)
    distinct, skipped = _distinct(normal)
    _check_labels(distinct, defects)
    mask_of = masks_of(defects, masks) if masks else {}
    extractor = tiled(extractor_for(options.weights, [options.method], options.settings), options.tiles)
    store, unreadable = extract(extractor, distinct, options.settings.resize, options.workers, progress)
    skipped += unreadable
    _check_count(store.images, skipped)
    verdict = _verdict(options, extractor, distinct, progress)
    plain = _plain(_with_limited_bank(options, store), extractor)
    detector, unseen = _learn(adapted(plain, store) if verdict.adapt else plain, store, extractor, progress)
    threshold = choose_threshold(unseen.scores, options.false_alarms)
    about = _description(options, extractor, threshold, unseen)
    about |= {
        "adaptation": asdict(verdict),
        "seconds": round(time.perf_counter() - started, 3),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    save_detector(save, detector, about)  # before defects are scored: a failure there must not lose it
    trade_off = None
    if defects:
        trade_off, unreadable = measure(
            detector, extractor, unseen.scores, defects, mask_of, options.settings.resize, options.workers, progress
        )
        skipped += unreadable
    return Fitted(about, threshold, skipped, trade_off)


def _verdict(options: FitOptions, extractor: AnyExtractor, files: Sequence[Path], progress: ReportProgress) -> Verdict:
    """Whether features are adapted."""
    if not options.adapt:
        return Verdict(False, None, {}, "")
    if options.method not in METHODS:
        return kept_plain(f"only those of {' and '.join(METHODS)} can be")
    resize, workers = options.settings.resize, options.workers
    return decide(extractor, files, resize, workers, _plain(options, extractor), options.seed, progress)


def _plain(options: FitOptions, extractor: AnyExtractor) -> Build:
    """Build detectors for features as they are."""
    seen = replace(options.settings, image_size=extractor.image_size)
    return lambda indices: build_detectors(options.method, seen, [options.seed], len(indices))[0]


def _description(options: FitOptions, extractor: AnyExtractor, threshold: Threshold, unseen: HeldOut) -> dict[str, Any]:
    """What `load_detector` and `predict` need."""
    return {
        "method": options.method,
        "settings": asdict(options.settings),
        "tiles": options.tiles,
        "seed": options.seed,
        "weights": options.weights,
        "weights_sha256": extractor.sha256,
        "architecture": extractor.architecture,
        "layers": extractor.layers,
        "n_train": threshold.images,
        "threshold": threshold.value,
        "false_alarm_rate": threshold.rate,
        "threshold_note": threshold.note,
        **_levels(unseen),
    }


def _check_save(save: Path) -> None:
    """Refuse a file that cannot be written before any work is done, and one that would replace a photograph."""
    if save.suffix != ".safetensors":
        raise SpdError(f"--save {save}: the detector's file must be called <name>.safetensors")
    existing = next(folder for folder in save.absolute().parents if folder.exists())
    if save.is_dir() or not existing.is_dir() or not os.access(existing, os.W_OK):
        raise SpdError(f"--save {save}: cannot be written there; choose another place")


def _distinct(files: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Leave out copies, which would make the threshold look better than it is; also returns a sentence for each."""
    copied = copies(files)
    distinct = [file for file in files if file not in copied]
    skipped = [f"{copy}: a copy of {original}" for copy, original in copied.items()]
    _check_count(len(distinct), skipped)
    return distinct, skipped


def _check_labels(normal: Sequence[Path], defects: Sequence[Path]) -> None:
    """Refuse a photograph that is called normal and defective."""
    copied = copies([*normal, *defects]) if defects else {}
    for file in defects:
        if (original := copied.get(file, file)) in normal:
            raise SpdError(f"{file}: the same photograph as {original}, which is among the normal ones; remove one")


def _check_count(count: int, skipped: Sequence[str]) -> None:
    if count < MINIMUM:
        reasons = f" ({'; '.join(skipped[:3])})" if skipped else ""
        raise SpdError(
            f"too few photographs of good parts: {count}{reasons}; give a folder with at least {MINIMUM}, better 50"
        )


def _with_limited_bank(options: FitOptions, store: FeatureStore) -> FitOptions:
    if options.method != "patchcore":
        return options
    ratio = min(options.settings.coreset_ratio, BANK / (store.images * store.positions))
    return replace(options, settings=replace(options.settings, coreset_ratio=ratio))


def _learn(
    build: Build, store: FeatureStore, extractor: AnyExtractor, progress: ReportProgress
) -> tuple[Detector, HeldOut]:
    """Fit the detector on all photographs, and others on parts of them that score the rest."""
    try:
        detector = fit_on(build, store, range(store.images))
        unseen = held_out(build, store, progress)
    except torch.linalg.LinAlgError as error:
        raise not_finite(extractor, "these photographs") from error
    if not np.isfinite(unseen.scores).all():
        raise not_finite(extractor, "these photographs")
    return detector, unseen


def _levels(unseen: HeldOut) -> dict[str, float | None]:
    """Median and maximum of the maps of unseen normal photographs, if the method has maps."""
    if not len(unseen.levels):
        return {"map_median": None, "map_maximum": None}
    return {"map_median": float(np.median(unseen.levels)), "map_maximum": float(unseen.levels.max())}
