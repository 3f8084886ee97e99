"""Weights from and to the Hugging Face Hub, byte for byte.

The Hub client checks the size of what it downloads and timm nothing; here the sha256 is checked before a byte
is used. Endpoint, cache, token and offline mode are huggingface_hub's own: HF_ENDPOINT, HF_HOME, HF_TOKEN,
HF_HUB_OFFLINE.
"""

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token, hf_hub_download
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from spd_weights import cards
from spd_weights.catalog import Row, catalog_path, find, load_catalog
from spd_weights.errors import SpdError
from spd_weights.export import CARD, CONFIG, EXPORT_FILES, RESULTS, TRAINING, WEIGHTS, check_export
from spd_weights.files import read_json, replacing, sha256
from spd_weights.hub_errors import explained


@dataclass(frozen=True)
class Published:
    """What `publish` did.

    Attributes:
        repo: `owner/name`.
        changes: File to "new", "changed" or "unchanged".
        commit: The commit that holds the files, 40 hexadecimal digits; None after a dry run of changes.
        url: The commit's page; None likewise.
        row: The catalog row that pins the commit; None likewise.
    """

    repo: str
    changes: Mapping[str, str]
    commit: str | None
    url: str | None
    row: Row | None


def weights_file(row: Row, cache_dir: str | Path | None = None) -> Path:
    """Fetch a weight's file and the config.json beside it (from the cache where they are there); check its digest.

    Args:
        row: The catalog row.
        cache_dir: The Hub cache; None takes the client's own.

    Returns:
        Path of the verified file.

    Raises:
        SpdError: There are no weights yet, they cannot be fetched, or the bytes are not those of the catalog.
    """
    if row.status == "planned":
        raise SpdError(
            f"{row.name} is planned: its weights are not released yet. Train them: {row.command} --out <run>, "
            "then load the run with timm.create_model('local-dir:<run>/export', pretrained=True). "
            "For the untrained network say pretrained=False."
        )
    assert row.file is not None
    if row.repo is None:
        path = catalog_path().parent / row.file
        if not path.is_file():
            raise SpdError(f"{path} is missing, which {row.name} comes with; install spd-weights again")
    else:
        path = _download(row.repo, row.file, row.revision, cache_dir)
        _download(row.repo, str(PurePosixPath(row.file).with_name(CONFIG)), row.revision, cache_dir)
    found = sha256(path)
    if found != row.sha256:
        remedy = "install spd-weights again" if row.repo is None else _forget(path)
        raise SpdError(f"{path} of {row.name} is damaged: expected sha256 {row.sha256}, found {found}; {remedy}")
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
        SpdError: Not found, not reachable, or not the bytes that were promised.
    """
    if isinstance(weight, str) and "/" in weight:
        folder = _pull_repo(weight, revision)
    elif revision is not None:
        raise SpdError(f"the catalog pins the revision of {weight}; for another one give owner/name")
    else:
        row = weight if isinstance(weight, Row) else find(weight)
        folder = weights_file(row).parent
        if row.repo is not None:
            for name in EXPORT_FILES:
                _download(row.repo, name, row.revision)
    check_export(folder)
    if to is None:
        return folder
    with replacing(to, known=(*EXPORT_FILES, RESULTS)) as beside:
        for name in EXPORT_FILES:
            shutil.copyfile(folder / name, beside / name)
    return to


def verify(target: str) -> str:
    """Verify an export folder, or a weight of the catalog (which is fetched if it is not in the cache).

    Returns:
        One line that says what was found sound.

    Raises:
        SpdError: What is wrong, and the remedy.
    """
    folder = Path(target)
    if not folder.is_dir():
        folder = pull(target)
    check_export(folder)
    digest = sha256(folder / WEIGHTS)
    known = [row.name for row in load_catalog().values() if row.sha256 == digest]
    return f"{folder}: sound, sha256 {digest}, {'the catalog’s ' + known[0] if known else 'not in the catalog'}"


def publish(directory: Path, repo_id: str, private: bool = False, dry_run: bool = False) -> Published:
    """Publish an export as one commit, and read it back.

    Does nothing where the repository has the same files already. The card is rendered with the repository's name.

    Args:
        directory: The export.
        repo_id: `owner/name`; made if it is not there.
        private: Make a private repository.
        dry_run: Only read: say what would change.

    Returns:
        What changed, and the catalog row that pins it.

    Raises:
        SpdError: The export is not sound, the Hub refuses or cannot be reached, somebody else commits at the
            same moment, or the bytes read back differ.
    """
    check_export(directory)
    _check_provenance(directory / TRAINING)
    contents = _contents(directory, repo_id)
    api = HfApi(library_name="spd-weights")
    with explained(repo_id):
        if not dry_run and get_token() is None:
            raise SpdError("publishing needs a token: run hf auth login, or set HF_TOKEN")
        head, changes = _compare(api, repo_id, contents, private)
        if "new" not in changes.values() and "changed" not in changes.values():
            assert head is not None
            url = f"{api.endpoint}/{repo_id}/commit/{head}"
            return Published(repo_id, changes, head, url, _row(directory, repo_id, head))
        if dry_run:
            return Published(repo_id, changes, None, None, None)
        if head is None:
            api.create_repo(repo_id, private=private or None, exist_ok=True)
            head = api.model_info(repo_id).sha
        operations = [CommitOperationAdd(name, content) for name, content in contents.items()]
        title = cards.title(read_json(directory / TRAINING))
        commit = api.create_commit(repo_id, operations, commit_message=title, parent_commit=head)
        _read_back(repo_id, commit.oid, contents)
    row = _row(directory, repo_id, commit.oid)
    return Published(repo_id, changes, commit.oid, commit.commit_url, row)


def _check_provenance(path: Path) -> None:
    training = read_json(path)
    known = {**training, "data.name": (training.get("data") or {}).get("name")}
    if missing := [key for key in ("method", "spd_weight", "data.name") if known.get(key) is None]:
        raise SpdError(f"{path} does not record {', '.join(missing)}; published weights must say what they are")


def _contents(directory: Path, repo_id: str) -> dict[str, Path | bytes]:
    """What the repository shall hold: the export's files, and the card that names the repository."""
    contents: dict[str, Path | bytes] = {name: directory / name for name in EXPORT_FILES}
    results = None
    if (directory / RESULTS).is_file():
        contents[RESULTS] = directory / RESULTS
        results = read_json(directory / RESULTS)
    training = read_json(directory / TRAINING)
    card = cards.render(training, results, repo=repo_id, weights_sha256=sha256(directory / WEIGHTS))
    return {**contents, CARD: card.encode()}


def _compare(
    api: HfApi, repo_id: str, contents: Mapping[str, Path | bytes], private: bool
) -> tuple[str | None, dict[str, str]]:
    """The head commit (None: no repository yet) and, of each file, how it differs from there."""
    try:
        info = api.model_info(repo_id)
    except RepositoryNotFoundError:
        return None, dict.fromkeys(contents, "new")
    if private and not info.private:
        raise SpdError(f"{repo_id} is there already and public; make it private on the Hub, or leave out private")
    remote = _remote_files(api, repo_id, info.sha)
    return info.sha, {
        name: "new" if name not in remote else "unchanged" if _is_same(content, remote[name]) else "changed"
        for name, content in contents.items()
    }


def _remote_files(api: HfApi, repo_id: str, revision: str | None) -> dict[str, RepoFile]:
    entries = api.list_repo_tree(repo_id, revision=revision)
    return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}


def _is_same(content: Path | bytes, remote: RepoFile) -> bool:
    """Compare by the digest that the Hub states: sha256 of a large file, git's own of a small one."""
    if remote.lfs is not None:
        return _sha256(content) == remote.lfs.sha256
    blob = content if isinstance(content, bytes) else content.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest() == remote.blob_id


def _sha256(content: Path | bytes) -> str:
    return hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else sha256(content)


def _read_back(repo_id: str, commit: str, contents: Mapping[str, Path | bytes]) -> None:
    with TemporaryDirectory() as cache:
        for name, content in contents.items():
            expected, found = _sha256(content), sha256(_download(repo_id, name, commit, cache))
            if expected != found:
                raise SpdError(
                    f"{repo_id}@{commit} gives back other bytes for {name}: expected sha256 {expected}, found "
                    f"{found}; do not use this commit: delete the file on the Hub and publish again"
                )


def _row(directory: Path, repo_id: str, commit: str) -> Row:
    training = read_json(directory / TRAINING)
    name = f"{training['architecture']}_spd.{cards.tag(training)}"
    counterpart = f"{name}_eta0"
    return Row(
        name=name,
        architecture=training["architecture"],
        method=training["method"],
        spd_weight=training["spd_weight"],
        data=training["data"]["name"],
        recipe=training["method"],
        status="released",
        repo=repo_id,
        revision=commit,
        file=WEIGHTS,
        bytes=(directory / WEIGHTS).stat().st_size,
        sha256=sha256(directory / WEIGHTS),
        licence=training.get("licence"),
        counterpart=counterpart if training["spd_weight"] and counterpart in load_catalog() else None,
        description=cards.title(training),
    )


def _pull_repo(repo_id: str, revision: str | None) -> Path:
    api = HfApi(library_name="spd-weights")
    with explained(repo_id, revision):
        commit = api.model_info(repo_id, revision=revision).sha
        remote = _remote_files(api, repo_id, commit)
    for name in EXPORT_FILES:
        path = _download(repo_id, name, commit)
        if not _is_same(path, remote[name]):
            lfs = remote[name].lfs
            expected = f"sha256 {lfs.sha256}" if lfs else f"git blob {remote[name].blob_id}"
            found = sha256(path)
            remedy = _forget(path)
            raise SpdError(f"{path} of {repo_id} is damaged: expected {expected}, found {found}; {remedy}")
    return path.parent


def _download(repo_id: str, name: str, revision: str | None, cache_dir: str | Path | None = None) -> Path:
    with explained(repo_id, revision):
        return Path(hf_hub_download(repo_id, name, revision=revision, cache_dir=cache_dir))


def _forget(path: Path) -> str:
    """Remove a damaged file from the cache, so that the next attempt downloads it anew."""
    path.resolve().unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    return (
        f"removed it from the cache: try again, and if it happens again {constants.ENDPOINT} serves other bytes "
        "than were published"
    )
