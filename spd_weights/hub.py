"""Weights from the Hugging Face Hub, verified byte for byte.

The Hub client checks only the size of a download, and timm checks nothing. Here the sha256 is checked before a byte
is used. Endpoint, cache, token and offline mode are huggingface_hub's own: HF_ENDPOINT, HF_HOME, HF_TOKEN,
HF_HUB_OFFLINE.
"""

import hashlib
import os
import re
import shutil
from pathlib import Path, PurePosixPath

from huggingface_hub import (
    HfApi,
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.hf_api import RepoFile

from spd_weights import golden
from spd_weights.answers import commit_id, safe_file_names
from spd_weights.catalog import Row, catalog_path, find, list_weights
from spd_weights.checks import (
    CONFIG,
    EXPORT_FILES,
    OPTIONAL_FILES,
    SMALL_FILE,
    WEIGHTS,
    check_export,
    load_export,
)
from spd_weights.errors import SpdError, shown
from spd_weights.files import digest_of, is_folder, replacing, sha256
from spd_weights.transport import explained, with_retries, with_xet_fallback


def weights_file(row: Row, cache_dir: str | Path | None = None) -> Path:
    """Fetch a weight's file, from the cache if possible, and check its digest.

    Args:
        row: The catalog row.
        cache_dir: The Hub cache; None takes the client's own.

    Returns:
        Path of the verified file.

    Raises:
        SpdError: The weights are only planned, cannot be fetched, or are not the bytes that the catalog pins.
    """
    if row.status == "planned":
        raise SpdError(
            f"{row.name} is planned: its weights are not released yet. {_instead(row)}Or train them: {row.command} "
            "--out <run>, then load the run with timm.create_model('local-dir:<run>/export', pretrained=True). "
            "For the untrained network say pretrained=False."
        )
    assert row.file is not None
    return checked_bytes(row, row.file, row.sha256, cache_dir)


def _instead(row: Row) -> str:
    """Name existing weights to use instead of planned ones: of the same architecture if there are any."""
    existing = [other for other in list_weights() if other.spd_weight]
    same = [other for other in existing if other.architecture == row.architecture] or existing
    return f"Today, use {' or '.join(other.name for other in same[:3])}. " if same else ""


def checked_bytes(row: Row, name: str, expected: str | None, cache_dir: str | Path | None) -> Path:
    """Find or fetch a file of a row, and compare its bytes with the digest that the catalog pins."""
    if row.repo is not None:
        path = download(row.repo, name, str(row.revision), cache_dir)
    else:
        path = catalog_path().parent / name
        if not path.is_file():
            raise SpdError(f"{path}, a part of this package, is missing; reinstall spd-weights")
    found = sha256(path)
    if found != expected:
        remedy = "reinstall spd-weights" if row.repo is None else _delete_from_cache(path)
        raise SpdError(f"{path} of {row.name} is damaged: expected sha256 {expected}, found {found}; {remedy}")
    return path


def pull(weight: str | Row, revision: str | None = None, to: Path | None = None) -> Path:
    """Fetch an export and verify it.

    Args:
        weight: A catalog name or row, checked against the catalog's digest; or `owner/name` of any export on
            the Hub, checked against the digests that the Hub states for it.
        revision: Commit, branch or tag; only with `owner/name`, since the catalog pins its own.
        to: Folder to copy the files to; None leaves them in the Hub's cache.

    Returns:
        The folder, loadable with `local-dir:`.

    Raises:
        SpdError: Not found, not reachable, or not the promised bytes.
    """
    if isinstance(weight, str) and "/" in weight:
        folder = _pull_repo(weight, revision)
        check_export(folder)
    elif revision is not None:
        raise SpdError(f"the catalog pins the revision of {shown(weight)}; for another one give owner/name")
    else:
        folder = _pull_row(weight if isinstance(weight, Row) else find(weight))
    return _copied(folder, to)


def _pull_row(row: Row) -> Path:
    # The configuration first: it is small, so that damage is found before anything large is fetched.
    config = str(PurePosixPath(row.file or CONFIG).with_name(CONFIG))
    if row.status != "planned":
        checked_bytes(row, config, row.config_sha256, None)
    folder = weights_file(row).parent
    if row.repo is not None:
        for name in EXPORT_FILES:
            download(row.repo, name, str(row.revision))
    cfg = check_export(folder)["pretrained_cfg"]
    if row.preprocessing != {key: cfg[key] for key in ("input_size", "mean", "std")}:
        raise SpdError(f"{folder / CONFIG} states other preprocessing than the catalog's {row.name}; correct the row")
    return folder


def _copied(folder: Path, to: Path | None) -> Path:
    if to is None:
        return folder
    with replacing(to, known=(*EXPORT_FILES, *OPTIONAL_FILES)) as beside:
        for name in EXPORT_FILES:
            shutil.copyfile(folder / name, beside / name)
    return to


def verify(target: str) -> str:
    """Verify an export folder, or a weight of the catalog (fetched if it is not in the cache).

    Returns:
        One line that says what was verified, and one line per stage with its feature health (`golden.health`).

    Raises:
        SpdError: What is wrong, and the remedy.
    """
    folder = Path(target)
    if not is_folder(folder):
        if _is_path(target):
            raise SpdError(f"{shown(target)} is not a folder; give the export/ folder of a run, or owner/name")
        folder = pull(target)
    config, model = load_export(folder)
    digest = sha256(folder / WEIGHTS)
    known = [row.name for row in list_weights() if row.sha256 == digest]
    which = f"the catalog’s {known[0]}" if known else "not in the catalog"
    stages = [
        f"  {stage['stage']}: RMS {stage['rms']:.3f}, cosine under noise {stage['cosine']:.4f}"
        for stage in golden.health(model, config)
    ]
    return "\n".join([f"{folder}: sound, features as exported, sha256 {digest}, {which}", *stages])


def _is_path(target: str) -> bool:
    """Say whether a name with slashes means a folder: it has several, or its first part is a folder here."""
    first, *rest = target.split("/")
    if not rest:
        return False
    return len(rest) > 1 or first in ("", ".", "..", "~") or is_folder(Path(first))


def remote_files(api: HfApi, repo_id: str, revision: str | None) -> dict[str, RepoFile]:
    """List the files of a revision by path, with the digests that the Hub states."""
    entries = with_retries(lambda: list(api.list_repo_tree(repo_id, recursive=True, revision=revision)))
    return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}


def is_same(content: Path | bytes, remote: RepoFile) -> bool:
    """Compare by the digest that the Hub states: the sha256 of a large file, git's blob digest of a small one."""
    if remote.lfs is not None:
        return digest_of(content) == remote.lfs.sha256
    return _git_blob(content) == remote.blob_id


def _pull_repo(repo_id: str, revision: str | None) -> Path:
    with explained(repo_id, revision):
        # A commit never changes, so the cache is enough; offline it is also the best answer for a branch or tag.
        pinned = re.fullmatch(r"[0-9a-f]{40}", revision or "") is not None
        if (pinned or constants.HF_HUB_OFFLINE) and (folder := _cached_export(repo_id, revision)):
            return folder
        api = HfApi(library_name="spd-weights")
        commit = commit_id(with_retries(lambda: api.model_info(repo_id, revision=revision)).sha)
        remote = remote_files(api, repo_id, commit)
    for name in EXPORT_FILES:
        if name not in remote:
            raise SpdError(
                f"{repo_id}: the repository lacks a file of an export ({name}); it was not published by spd-weights "
                "publish"
            )
        if name != WEIGHTS and remote[name].size > SMALL_FILE:
            raise SpdError(f"{repo_id}: {name} has {remote[name].size} bytes, an export's at most {SMALL_FILE}")
    for name in EXPORT_FILES:
        path = download(repo_id, name, commit)
        if not is_same(path, remote[name]):
            lfs = remote[name].lfs
            expected = f"sha256 {lfs.sha256}" if lfs else f"git blob {remote[name].blob_id}"
            found = sha256(path)
            remedy = _delete_from_cache(path)
            raise SpdError(f"{path} of {repo_id} is damaged: expected {shown(expected)}, found {found}; {remedy}")
    return path.parent


def download(repo_id: str, name: str, commit: str, cache_dir: str | Path | None = None) -> Path:
    """Fetch one file of a commit into the cache, or find it there; SpdError says why it cannot be had."""

    def fetch() -> str:
        return hf_hub_download(repo_id, name, revision=commit, cache_dir=cache_dir)

    cached = try_to_load_from_cache(repo_id, name, cache_dir=cache_dir, revision=commit_id(commit))
    if isinstance(cached, str):
        return Path(cached)
    with explained(repo_id, commit), safe_file_names():
        if not constants.HF_HUB_OFFLINE:
            # hf_hub_download repeats this request itself, and waits as long as the Hub asks. with_retries
            # sends it first, and gives up if the Hub asks for more than transport.LONGEST seconds.
            with_retries(lambda: get_hf_file_metadata(hf_hub_url(repo_id, name, revision=commit)))
        return Path(with_retries(lambda: with_xet_fallback(fetch)))


def _cached_export(repo_id: str, revision: str | None) -> Path | None:
    """The folder of a complete export in the cache, as of an earlier pull; None if a file is missing there.

    The cache names each file by the digest that the Hub stated, so its bytes can be checked without the Hub.

    Raises:
        SpdError: A file is damaged.
    """
    paths = [try_to_load_from_cache(repo_id, name, revision=revision) for name in EXPORT_FILES]
    if not all(isinstance(path, str) for path in paths):
        return None
    for path in map(Path, map(str, paths)):
        # One link only: the digest's file may be a link itself, into a store where files have other names.
        stated = Path(os.readlink(path)).name if path.is_symlink() else path.name
        digest = {40: _git_blob, 64: sha256}.get(len(stated))  # another length: a cache without links
        if digest is not None and digest(path) != stated:
            found = digest(path)
            raise SpdError(
                f"{path} of {repo_id} is damaged: expected {stated}, found {found}; {_delete_from_cache(path)}"
            )
    return Path(str(paths[0])).parent


def _git_blob(content: Path | bytes) -> str:
    """The digest by which git names a file's content."""
    blob = content if isinstance(content, bytes) else content.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()


def _delete_from_cache(path: Path) -> str:
    """Remove a damaged file from the cache, so that the next attempt downloads it again; returns what to do."""
    try:
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
    except OSError as error:
        return (
            f"it cannot be removed from the cache ({error.strerror}): ask the owner of the cache to delete it, or set "
            "HF_HOME to a folder you can write to"
        )
    return (
        f"removed it from the cache: try again; if it happens again, {constants.ENDPOINT} serves other bytes "
        "than were published"
    )
