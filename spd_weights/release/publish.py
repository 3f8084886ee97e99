"""Publish an export to the Hub: staged on a branch, read back and verified, and only then put on main.

The Hub stores files by digest. Once every file of the staging branch has been verified, the commit to main refers to
the same files and uploads no weights again. Until that commit, main is unchanged, whatever fails.
"""

import re
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from spd_weights import transport
from spd_weights.answers import TransportError, commit_id, understood
from spd_weights.catalog import Row
from spd_weights.checks import CARD, CONFIG, OPTIONAL_FILES, TRAINING, WEIGHTS, check_export
from spd_weights.errors import SpdError, shown
from spd_weights.files import digest_of, read_json, sha256
from spd_weights.hub import download, is_same, remote_files
from spd_weights.release.contents import Contents, contents, row
from spd_weights.transport import (
    cause,
    explained,
    is_broken_transfer,
    pause_after,
    with_retries,
    with_xet_fallback,
)

STAGING = "spd-weights-upload"
_NOT_WEIGHTS = (".gitattributes", ".gitignore", CARD, "LICENSE", "LICENSE.txt", "LICENSE.md")
_TAG = re.compile(r"(?!.*(\.\.|\.lock$))[A-Za-z0-9][\w.-]{0,99}", re.ASCII)


@dataclass(frozen=True)
class Published:
    """The result of `publish`.

    Attributes:
        repo: `owner/name`.
        changes: File to "new", "changed", "unchanged" or "deleted".
        commit: The commit that holds the files, 40 hexadecimal digits; None after a dry run with changes.
        url: The commit's page; None likewise.
        row: The catalog row that pins the commit; None likewise.
        files: The published files.
        tag: The commit's tag, if one was requested.
    """

    repo: str
    changes: Mapping[str, str]
    commit: str | None
    url: str | None
    row: Row | None
    files: Contents
    tag: str | None = None


@dataclass(frozen=True)
class _Target:
    """The repository to publish to, and the files it shall hold."""

    api: HfApi
    repo: str
    files: Contents


def publish(
    directory: Path,
    repo_id: str,
    private: bool = False,
    dry_run: bool = False,
    tag: str | None = None,
    licence: str | None = None,
    data_licence: str | None = None,
    datasets: Mapping[str, str] | None = None,
) -> Published:
    """Publish an export as one commit to main, after reading every byte back from a staging branch.

    If the repository already has the same files, nothing is written. Results and previews of an earlier version that
    this export lacks are deleted in the same commit. Transient failures (429, 5xx, a dropped connection) are retried.
    If a commit succeeds but its answer is lost, reading the branch shows the commit.

    Args:
        directory: The export.
        repo_id: `owner/name`; created if it does not exist.
        private: Create the repository as private.
        dry_run: Only read, and report what would change.
        tag: A tag for the commit, for example v1.
        licence: The weights' licence in the Hub's spelling; None keeps the training record's. If neither states
            one, the card says so and carries `license: unknown`.
        data_licence: The training data's licence, likewise.
        datasets: Maps the name of an evaluated dataset to its id on the Hub. Its page then lists the results.

    Returns:
        What changed, and the commit that holds it.

    Raises:
        SpdError: The export is not sound or does not state its origin, the name or the tag is taken, a dataset id
            does not exist, the Hub refuses or cannot be reached, someone else commits at the same moment, or the Hub
            returns other bytes.
    """
    _check_name(repo_id)
    _check_tag(tag)
    config = check_export(directory)
    if "vit" in repo_id.lower() and "vit" not in config["architecture"]:
        warnings.warn(f"anomalib will treat {repo_id} as a vision transformer because it contains vit", stacklevel=2)
    files = contents(directory, repo=repo_id, licence=licence, data_licence=data_licence, datasets=datasets)
    target = _Target(HfApi(library_name="spd-weights"), repo_id, files)
    with explained(repo_id):
        if not dry_run and get_token() is None:
            raise SpdError("publishing needs a token: run hf auth login, or set HF_TOKEN")
        _check_datasets(target, datasets or {})
        head, changes = _compare(target, private=private)
        if head is not None:
            _check_name_is_free(target, head, config)
        _check_tag_is_free(target, head, tag, changes)
        if dry_run and _differ(changes):
            return Published(repo_id, changes, None, None, None, files)
        commit = _put(target, head, changes, private, config["pretrained_cfg"]["description"])
        if tag is not None and not dry_run:
            with_retries(lambda: _mark(target, tag, commit))
    url = f"{target.api.endpoint}/{repo_id}/commit/{commit}"
    pinned = row(files, status="released", repo=repo_id, revision=commit, file=WEIGHTS)
    return Published(repo_id, changes, commit, url, pinned, files, tag)


def _check_name(repo_id: str) -> None:
    if repo_id.count("/") != 1:
        raise SpdError(f"{shown(repo_id)}: not a repository name; write owner/name")
    with explained(repo_id):
        validate_repo_id(repo_id)


def _check_tag(tag: str | None) -> None:
    if tag is not None and (not _TAG.fullmatch(tag) or tag in ("main", STAGING) or re.fullmatch(r"[0-9a-f]{40}", tag)):
        raise SpdError(f"'{shown(tag)}' cannot be a tag; use letters, digits, dots and hyphens, for example v1")


def _check_datasets(target: _Target, datasets: Mapping[str, str]) -> None:
    for name, dataset in datasets.items():
        with explained(f"dataset {dataset} (for {name})"):
            with_retries(partial(target.api.dataset_info, dataset))


def _put(target: _Target, head: str | None, changes: Mapping[str, str], private: bool, title: str) -> str:
    """Bring main to the wanted files: stage, read back, commit; returns main's commit."""
    api, repo = target.api, target.repo
    if head is None:
        with_retries(lambda: api.create_repo(repo, private=private or None, exist_ok=True))
        head = with_retries(lambda: api.model_info(repo)).sha
    assert head is not None
    if not _differ(changes):
        return head
    _drop_staging(target)  # left over from an interrupted attempt
    with_retries(lambda: api.create_branch(repo, branch=STAGING, revision=head, exist_ok=True))
    _read_back(target, _commit(target, STAGING, head, title, changes))
    commit = _commit(target, "main", head, title, changes)
    _drop_staging(target)
    return commit


def _drop_staging(target: _Target) -> None:
    # If it cannot be deleted, a later attempt deletes it or commits on top of it.
    with suppress(HfHubHTTPError, TransportError):
        with_retries(lambda: target.api.delete_branch(target.repo, branch=STAGING))


def _compare(target: _Target, branch: str | None = None, private: bool = False) -> tuple[str | None, dict[str, str]]:
    """The branch's head (None if there is no repository yet), and how each file differs from it."""
    api, repo = target.api, target.repo
    try:
        info = with_retries(lambda: api.model_info(repo, revision=branch))
    except RepositoryNotFoundError:
        return None, dict.fromkeys(target.files, "new")
    if private and not info.private:
        raise SpdError(f"{repo} already exists and is public; make it private on the Hub, or leave out --private")
    remote = remote_files(api, repo, info.sha)
    changes = {
        name: "new" if name not in remote else "unchanged" if is_same(content, remote[name]) else "changed"
        for name, content in target.files.items()
    }
    stale = [name for name in remote if name in OPTIONAL_FILES or name.startswith(".eval_results/")]
    return info.sha, changes | {name: "deleted" for name in stale if name not in changes}


def _differ(changes: Mapping[str, str]) -> bool:
    return set(changes.values()) != {"unchanged"}


def _check_name_is_free(target: _Target, head: str, config: Mapping[str, Any]) -> None:
    """Refuse to overwrite something else: another project's files, or other weights of ours."""
    remote = remote_files(target.api, target.repo, head)
    if CONFIG not in remote or TRAINING not in remote:
        if strangers := [name for name in remote if name not in _NOT_WEIGHTS]:
            stranger = shown(strangers[0])
            raise SpdError(f"the name is taken: {target.repo} holds {stranger}, not an export; use another name")
        return
    with TemporaryDirectory() as cache:
        other = read_json(download(target.repo, CONFIG, head, cache))
    theirs, ours = map(_identity, (other, config))
    if theirs != ours:
        raise SpdError(f"the name is taken: {target.repo} holds {shown(theirs)}, this is {ours}; use another name")


def _identity(config: Mapping[str, Any]) -> str:
    cfg = config.get("pretrained_cfg")
    return f"{config.get('architecture')}.{cfg.get('tag') if isinstance(cfg, dict) else None}"


def _check_tag_is_free(target: _Target, head: str | None, tag: str | None, changes: Mapping[str, str]) -> None:
    if head is None or tag is None:
        return
    marked = _tags(target).get(tag)
    if marked is not None and (_differ(changes) or marked != head):
        raise SpdError(
            f"the tag {tag} of {target.repo} already marks {shown(marked)}, which holds other files; use another"
        )


def _tags(target: _Target) -> dict[str, str]:
    refs = with_retries(lambda: target.api.list_repo_refs(target.repo))
    return {ref.name: ref.target_commit for ref in refs.tags}


def _mark(target: _Target, tag: str, commit: str) -> None:
    # Read first: an earlier attempt may have succeeded and lost only its answer.
    if _tags(target).get(tag) != commit:
        target.api.create_tag(target.repo, tag=tag, revision=commit)


def _commit(target: _Target, branch: str, head: str, title: str, wanted: Mapping[str, str]) -> str:
    """Commit once to a branch, even if answers are lost; returns the commit.

    Every attempt names its parent, so two attempts can never both land. After a failure the branch is read. If it
    already has our files, only the answer was lost. If someone else has committed other files, the next attempt takes
    that commit as its parent, once. If someone else has changed our files, the files no longer differ from the branch
    as `wanted` says, and the failure is raised, so their commit is never overwritten.
    """
    may_move = True
    for attempt, wait in enumerate((*transport.WAITS, None)):
        try:
            create = partial(_create_commit, target, branch, head, title, wanted)
            return commit_id(understood(partial(with_xet_fallback, create)))
        except (TransportError, OSError, RuntimeError) as error:
            failure = cause(error)
        now, changes = _compare(target, branch)
        if now is not None and not _differ(changes):
            return now
        if now is None or changes != wanted or wait is None or (attempt > 0 and is_broken_transfer(failure)):
            raise failure
        moved, head = now != head, now
        if moved and may_move:
            may_move = False
        elif (pause := pause_after(failure, wait)) is not None:
            time.sleep(pause)
        else:
            raise failure
    raise AssertionError("unreachable: the last attempt returns or raises")


def _create_commit(target: _Target, branch: str, head: str, title: str, wanted: Mapping[str, str]) -> str:
    operations: list[Any] = [CommitOperationAdd(name, content) for name, content in target.files.items()]
    operations += [CommitOperationDelete(name) for name, change in wanted.items() if change == "deleted"]
    commit = target.api.create_commit(
        target.repo, operations, commit_message=title, revision=branch, parent_commit=head
    )
    return commit.oid


def _read_back(target: _Target, commit: str) -> None:
    """Download every staged byte, compare it with what was sent, and check the copy like any export."""
    with TemporaryDirectory() as cache:
        for name, content in target.files.items():
            path = download(target.repo, name, commit, cache)
            expected, found = digest_of(content), sha256(path)
            if expected != found:
                raise SpdError(
                    f"{target.repo}@{commit} returns other bytes for {name}: expected sha256 {expected}, found "
                    f"{found}; main is unchanged, publish again"
                )
        check_export(download(target.repo, WEIGHTS, commit, cache).parent)
