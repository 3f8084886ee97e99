"""What is wrong with an installation, said before it is met: versions, Hub, token, cache, weights."""

import importlib.metadata
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants, get_token, try_to_load_from_cache

from spd_weights import verified
from spd_weights.catalog import Row, catalog_path, load_catalog
from spd_weights.errors import SpdError
from spd_weights.hub_errors import explained

_NEEDED_BYTES = 1 << 30  # a weight with its working copy, generously


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes:
        what: Its name.
        sound: False where something must be mended.
        says: What was found, and the remedy where it is not sound.
    """

    what: str
    sound: bool
    says: str


def examine() -> Iterator[Finding]:
    """Look at everything that loading a weight needs, one finding at a time; writes nothing."""
    yield from _versions()
    for what, look in (("endpoint", _endpoint), ("token", _token), ("cache", _cache)):
        yield _finding(what, look)
    try:
        rows = load_catalog()
    except SpdError as error:
        yield Finding("catalog", False, str(error))
        return
    yield Finding("catalog", True, f"{catalog_path()}, {len(rows)} weights")
    for row in rows.values():
        yield _finding(row.name, lambda row=row: _local_state(row))  # type: ignore[misc]


def _finding(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what, True, look())
    except SpdError as error:
        return Finding(what, False, str(error))


def _versions() -> Iterator[Finding]:
    try:
        requirements = importlib.metadata.requires("spd-weights") or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding("spd-weights", False, "not installed, only on the path; run pip install -e . in the clone")
        return
    for requirement in requirements:
        if "extra ==" in requirement:
            continue
        match = re.match(r"([\w.-]+)\s*(.*)", requirement)
        assert match is not None
        name, tested = match[1], match[2]
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, False, f"missing; run pip install '{requirement}'")
            continue
        sound = _within(version, tested)
        remedy = "" if sound else f"; run pip install '{requirement}'"
        yield Finding(name, sound, f"{version}, tested {tested}{remedy}")


def _within(version: str, tested: str) -> bool:
    """Compare release numbers with a range such as `<3,>=1.0`."""
    ours = _numbers(version)
    for bound in filter(None, tested.split(",")):
        operator, limit = re.sub(r"[\w.]+$", "", bound.strip()), _numbers(bound)
        if (operator == ">=" and ours < limit) or (operator == "<" and ours >= limit):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    match = re.search(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in match[0].split(".")] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _endpoint() -> str:
    if constants.HF_HUB_OFFLINE:
        return f"{constants.ENDPOINT}, not asked: HF_HUB_OFFLINE is set"
    with explained(constants.ENDPOINT):
        next(iter(HfApi(library_name="spd-weights").list_models(limit=1)), None)
    return f"{constants.ENDPOINT} answers"


def _token() -> str:
    if get_token() is None:
        return "none: public weights load, publishing and private ones need hf auth login"
    if constants.HF_HUB_OFFLINE:
        return "there is one, not asked about: HF_HUB_OFFLINE is set"
    with explained("token"):
        return f"of {HfApi(library_name='spd-weights').whoami()['name']}"


def _cache() -> str:
    cache = Path(constants.HF_HUB_CACHE)
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    state = f"{cache}, {free / 1e9:.1f} GB free"
    if not os.access(there, os.W_OK):
        return f"{state}, read-only: what is in it loads, nothing can be added"
    if free < _NEEDED_BYTES:
        raise SpdError(f"{state}: too little for a weight; free some, or set HF_HOME to another disk")
    return state


def _local_state(row: Row) -> str:
    if row.status == "planned":
        return "planned: not released yet"
    assert row.file is not None
    if row.repo is None:
        path = catalog_path().parent / row.file
        if not path.is_file():
            raise SpdError(f"{path} is missing, which it comes with; install spd-weights again")
    else:
        cached = try_to_load_from_cache(row.repo, row.file, revision=row.revision)
        if not isinstance(cached, str):
            return f"not here; spd-weights pull {row.name} fetches {(row.bytes or 0) / 1e6:.0f} MB"
        path = Path(cached)
    if verified.digest(path) != row.sha256:
        raise SpdError(f"{path} is damaged: its sha256 is not {row.sha256}; run spd-weights pull {row.name}")
    return f"here and sound: {path}"
