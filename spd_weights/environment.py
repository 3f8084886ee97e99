"""This machine and this installation: recorded with every result, and checked by `spd-weights doctor`."""

import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from packaging.requirements import Requirement

from spd_weights.catalog import Row, catalog_path, load_catalog
from spd_weights.errors import SpdError
from spd_weights.files import sha256

_PACKAGES = (
    "spd-weights", "torch", "timm", "huggingface-hub", "safetensors", "numpy",
    "accelerate", "datasets", "scikit-learn", "pillow", "simplejpeg", "segmentation-models-pytorch",
)  # fmt: skip


def environment() -> dict[str, Any]:
    """Describe this machine and the installed versions.

    Returns:
        JSON-ready: `python`, `platform`, `cpu`, `cores`, `threads` (torch's), `gpus` (one name per device) and
        `packages` (name to version, installed ones only).
    """
    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "packages": packages,
    }


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        what: What was checked.
        sound: False if the user must fix something.
        says: What was found, and the remedy if it is not sound.
    """

    what: str
    sound: bool
    says: str


def examine() -> Iterator[Finding]:
    """Check everything that loading a weight needs, one finding at a time; writes nothing."""
    yield from _versions()
    for what, check in (("endpoint", _endpoint), ("token", _token), ("cache", _cache)):
        yield _finding(what, check)
    try:
        rows = load_catalog()
    except SpdError as error:
        yield Finding("catalog", False, str(error))
        return
    yield Finding("catalog", True, f"{catalog_path()}, {len(rows)} weights")
    for row in rows.values():
        if row.status != "planned":
            yield _finding(row.name, lambda row=row: _local_state(row))  # type: ignore[misc]


def _finding(what: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(what, True, check())
    except SpdError as error:
        return Finding(what, False, str(error))


def _versions() -> Iterator[Finding]:
    try:
        requirements = metadata.requires("spd-weights") or []
    except metadata.PackageNotFoundError:
        yield Finding("spd-weights", False, "imported from a folder, not installed; run pip install -e . in the clone")
        return
    for requirement in map(Requirement, requirements):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield Finding(requirement.name, False, f"missing; run pip install '{requirement}'")
            continue
        sound = requirement.specifier.contains(version, prereleases=True)
        remedy = "" if sound else f"; run pip install '{requirement}'"
        yield Finding(requirement.name, sound, f"{version}, tested {requirement.specifier}{remedy}")


def _endpoint() -> str:
    from huggingface_hub import HfApi, constants

    from spd_weights.transport import explained

    if constants.HF_HUB_OFFLINE:
        return f"{constants.ENDPOINT}, not contacted: HF_HUB_OFFLINE is set"
    with explained(constants.ENDPOINT):
        next(iter(HfApi(library_name="spd-weights").list_models(limit=1)), None)
    return f"{constants.ENDPOINT} answers"


def _token() -> str:
    from huggingface_hub import HfApi, constants, get_token

    from spd_weights.transport import explained

    if get_token() is None:
        return "none: public weights load; publishing and private weights need hf auth login"
    if constants.HF_HUB_OFFLINE:
        return "set, not checked: HF_HUB_OFFLINE is set"
    with explained("token"):
        return f"belongs to {HfApi(library_name='spd-weights').whoami()['name']}"


def _cache() -> str:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    state = f"{cache}, {free / 1e9:.1f} GB free"
    if not os.access(existing, os.W_OK):
        return f"{state}, read-only: cached weights load, none can be added"
    if free < 1 << 30:  # our choice: a large weight and its temporary copy
        raise SpdError(f"{state}: too little for a weight; free some, or set HF_HOME to another disk")
    return state


def _local_state(row: Row) -> str:
    from huggingface_hub import try_to_load_from_cache

    assert row.file is not None
    if row.repo is None:
        path = catalog_path().parent / row.file
        if not path.is_file():
            raise SpdError(f"{path}, a part of this package, is missing; reinstall spd-weights")
    else:
        cached = try_to_load_from_cache(row.repo, row.file, revision=row.revision)
        if not isinstance(cached, str):
            return f"not downloaded; spd-weights pull {row.name} fetches {(row.bytes or 0) / 1e6:.0f} MB"
        path = Path(cached)
    if sha256(path) != row.sha256:
        raise SpdError(f"{path} is damaged: its sha256 is not {row.sha256}; run spd-weights pull {row.name}")
    return f"sound: {path}"
