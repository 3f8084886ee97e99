"""Score photographs with a saved detector: scores line by line, pictures with heat maps, and a gallery."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from .gallery import write_gallery
from .inspector import Inspection, Inspector
from .photographs import find_photographs
from .scores import PICTURES, Row, ScoreLog, modified, not_written
from .watch import arrivals, check_folders, settled


@dataclass(frozen=True)
class Summary:
    """What a call has done.

    Attributes:
        rows: One per photograph, including those that an earlier call had scored: `image`, `score` (None if it could
            not be read), `above` (whether the score is above the threshold), `picture`, `error` and `modified`.
        scored: How many of them this call has scored.
        gallery: The page with all pictures.
        threshold: The one that was used.
        seconds_per_image: Mean wall time per photograph of this call, with decoding and pictures; None without any.
        device: Where the backbone ran.
    """

    rows: list[Row]
    scored: int
    gallery: Path
    threshold: float | None
    seconds_per_image: float | None
    device: str

    @property
    def above(self) -> int:
        """Number of photographs above the threshold."""
        return sum(bool(row["above"]) for row in self.rows)

    @property
    def errors(self) -> list[str]:
        """One sentence per photograph that was not scored."""
        return [row["error"] for row in self.rows if row["error"]]


def predict(
    detector: Path,
    images: Sequence[Path],
    out: Path,
    *,
    weights: str | None = None,
    threshold: float | None = None,
    workers: int = 1,
    watch: bool = False,
    report: Callable[[Row], None] = lambda row: None,
) -> Summary:
    """Score photographs; write `scores.jsonl`, `scores.csv`, `pictures/` and `gallery.html`.

    An unreadable photograph is recorded with its error and does not stop the others. Photographs that an earlier call
    with the same detector and folder has scored are scored again only if they have changed.

    Args:
        detector: The saved detector.
        images: As for `find_photographs`; with `watch`, folders.
        out: The folder to write. Photographs in its `pictures/` are ignored.
        weights: Name of the backbone, if it is no longer available under the recorded name.
        threshold: Instead of the detector's own.
        workers: Number of processes that decode photographs.
        watch: Wait for new photographs until Ctrl-C or SIGTERM.
        report: Called with each photograph's row.

    Raises:
        SpdError: No photograph, a path that does not exist, or as `Inspector` and `ScoreLog`.
    """
    if watch:
        check_folders(images)
    files = [] if watch else find_photographs(images, out / PICTURES)
    inspector = Inspector(detector, weights, threshold)
    scored, seconds = 0, 0.0
    with ScoreLog(out, inspector.run) as log:
        todo = [file for file in files if not log.has(file)]
        for group in arrivals(images, out / PICTURES, log.has) if watch else [todo]:
            started = time.perf_counter()
            # Taken before decoding: a photograph that is replaced meanwhile counts as changed.
            versions = {file: modified(file) for file in group}
            for found in inspector.inspect(group, 0 if watch else workers):
                if watch and found.error and not settled(found.file):
                    continue  # it may still be being written
                row = _record(found, versions[found.file], log, out)
                scored += 1
                report(row)
            seconds += time.perf_counter() - started
            if group and watch:
                write_gallery(out, list(log.rows.values()), inspector.run)
        gallery = write_gallery(out, list(log.rows.values()), inspector.run)
    mean = seconds / scored if scored else None
    return Summary(list(log.rows.values()), scored, gallery, inspector.threshold, mean, inspector.device)


def _record(found: Inspection, version: int | None, log: ScoreLog, out: Path) -> Row:
    """Write the picture, then the row, so that a row never names a missing picture."""
    name = None
    if found.picture is not None:
        name = f"{PICTURES}/{log.picture_name(found.file)}"
        try:
            (out / PICTURES).mkdir(exist_ok=True)
            Image.fromarray(found.picture).save(out / name, quality=85)
        except OSError as error:
            raise not_written(out, error) from error
    row = {
        "image": str(found.file),
        "score": found.score,
        "above": found.above,
        "picture": name,
        "error": found.error,
        "modified": version,
    }
    log.add(row)
    return row
