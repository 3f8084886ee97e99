"""Publish an export to the Hub: checked first, one commit, then read back."""

import re
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import RepositoryNotFoundError

from spd_weights import transport
from spd_weights.catalog import Row
from spd_weights.checks import CARD, CONFIG, TRAINING, WEIGHTS, check_export
from spd_weights.errors import SpdError, shown
from spd_weights.files import digest_of, read_json, sha256
from spd_weights.hub import download, is_same, remote_files
from spd_weights.release.contents import Contents, contents, row
from spd_weights.transport import TransportError, cause, explained, pause_after, with_retries

_NOT_WEIGHTS = (".gitattributes", ".gitignore", CARD, "LICENSE", "LICENSE.txt", "LICENSE.md")
_TAG = re.compile(r"(?!.*(\.\.|\.lock$))[A-Za-z0-9][\w.-]{0,99}", re.ASCII)


@dataclass(frozen=True)
class Published:
    """The result of `publish`.

    Attributes:
        repo: `owner/name`.
        changes: File to "new", "changed" or "unchanged".
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


def publish(
    directory: Path,
    repo_id: str,
    private: bool = False,
    dry_run: bool = False,
    tag: str | None = None,
    licence: str | None = None,
    data_licence: str | None = None,
) -> Published:
    """Publish an export as one commit, and read it back.

    Does nothing where the repository has the same files already. The card is rendered with the repository's name.
    What passes (429, 5xx, a dropped connection) is tried again; a commit whose answer was lost is found by reading.

    Args:
        directory: The export.
        repo_id: `owner/name`; made if it is not there.
        private: Make a private repository.
        dry_run: Only read: say what would change.
        tag: A name for the commit, such as v1.
        licence: Of the weights, as the Hub spells it; None takes the training record's. Where that has none
            either, the card says so and carries `license: unknown`.
        data_licence: Of the training data, likewise.

    Returns:
        What changed, and the catalog row that pins it.

    Raises:
        SpdError: The export is not sound or does not say where it is from, the name or the tag is taken, the Hub
            refuses or cannot be reached, somebody else commits at the same moment, or the bytes read back differ.
    """
    if tag is not None and (not _TAG.fullmatch(tag) or tag == "main" or re.fullmatch(r"[0-9a-f]{40}", tag)):
        raise SpdError(f"'{shown(tag)}' cannot be a tag; take a name such as v1, of letters, digits, dot and hyphen")
    config = check_export(directory)
    if "vit" in repo_id.lower() and "vit" not in config["architecture"]:
        warnings.warn(f"anomalib takes {repo_id} for a vision transformer, because of the letters vit", stacklevel=2)
    files = contents(directory, repo=repo_id, licence=licence, data_licence=data_licence)
    api = HfApi(library_name="spd-weights")
    with explained(repo_id):
        if not dry_run and get_token() is None:
            raise SpdError("publishing needs a token: run hf auth login, or set HF_TOKEN")
        head, changes = _compare(api, repo_id, files, private)
        if head is not None:
            _check_name_is_free(api, repo_id, head, config)
        _check_tag_is_free(api, repo_id, head, tag, _differ(changes))
        if dry_run and _differ(changes):
            return Published(repo_id, changes, None, None, None, files)
        if head is None:
            with_retries(lambda: api.create_repo(repo_id, private=private or None, exist_ok=True))
            head = with_retries(lambda: api.model_info(repo_id)).sha
        assert head is not None
        commit = head
        if _differ(changes):
            commit = _commit(api, repo_id, files, head, config["pretrained_cfg"]["description"])
            _read_back(repo_id, commit, files)
        if tag is not None and not dry_run:
            with_retries(lambda: _mark(api, repo_id, tag, commit))
    url = f"{api.endpoint}/{repo_id}/commit/{commit}"
    pinned = row(files, status="released", repo=repo_id, revision=commit, file=WEIGHTS)
    return Published(repo_id, changes, commit, url, pinned, files, tag)


def _compare(api: HfApi, repo_id: str, files: Contents, private: bool = False) -> tuple[str | None, dict[str, str]]:
    """The head commit (None: no repository yet) and, of each file, how it differs from there."""
    try:
        info = with_retries(lambda: api.model_info(repo_id))
    except RepositoryNotFoundError:
        return None, dict.fromkeys(files, "new")
    if private and not info.private:
        raise SpdError(f"{repo_id} is there already and public; make it private on the Hub, or leave out private")
    remote = remote_files(api, repo_id, info.sha)
    return info.sha, {
        name: "new" if name not in remote else "unchanged" if is_same(content, remote[name]) else "changed"
        for name, content in files.items()
    }


def _differ(changes: Mapping[str, str]) -> bool:
    return set(changes.values()) != {"unchanged"}


def _check_name_is_free(api: HfApi, repo_id: str, head: str, config: Mapping[str, Any]) -> None:
    """Refuse to put weights over something else: another project's files, or other weights of ours."""
    there = remote_files(api, repo_id, head)
    if CONFIG not in there or TRAINING not in there:
        if strangers := [name for name in there if name not in _NOT_WEIGHTS]:
            raise SpdError(f"the name is taken: {repo_id} holds {strangers[0]}, not an export; choose another name")
        return
    with TemporaryDirectory() as cache:
        other = read_json(download(repo_id, CONFIG, head, cache))
    theirs, ours = (
        f"{each.get('architecture')}.{(each.get('pretrained_cfg') or {}).get('tag')}" for each in (other, config)
    )
    if theirs != ours:
        raise SpdError(f"the name is taken: {repo_id} holds {theirs}, this is {ours}; choose another name")


def _check_tag_is_free(api: HfApi, repo_id: str, head: str | None, tag: str | None, differs: bool) -> None:
    if head is None or tag is None:
        return
    marked = _tags(api, repo_id).get(tag)
    if marked is not None and (differs or marked != head):
        raise SpdError(f"the tag {tag} of {repo_id} marks {marked} already, which holds other files; choose another")


def _tags(api: HfApi, repo_id: str) -> dict[str, str]:
    return {ref.name: ref.target_commit for ref in with_retries(lambda: api.list_repo_refs(repo_id)).tags}


def _mark(api: HfApi, repo_id: str, tag: str, commit: str) -> None:
    # Read first: of an attempt before this one perhaps only the answer was lost.
    if _tags(api, repo_id).get(tag) != commit:
        api.create_tag(repo_id, tag=tag, revision=commit)


def _commit(api: HfApi, repo_id: str, files: Contents, head: str, title: str) -> str:
    """Commit once, whatever happens to the answers.

    Every attempt names its parent, so that two can never land; after a failure the repository is read, and where
    the commit is there already only its answer was lost. A commit of somebody else to other files is built upon
    once; one to these files is not overwritten.
    """
    _, wanted = _compare(api, repo_id, files)
    may_move = True
    for wait in (*transport.WAITS, None):
        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        try:
            return api.create_commit(repo_id, operations, commit_message=title, parent_commit=head).oid
        except (TransportError, OSError, RuntimeError) as error:
            failure = cause(error)
        now, changes = _compare(api, repo_id, files)
        if now is not None and not _differ(changes):
            return now
        if now is None or changes != wanted or wait is None:
            raise failure
        moved, head = now != head, now
        if moved and may_move:
            may_move = False
        elif (pause := pause_after(failure, wait)) is not None:
            time.sleep(pause)
        else:
            raise failure
    raise AssertionError("unreachable: the last attempt returns or raises")


def _read_back(repo_id: str, commit: str, files: Contents) -> None:
    """Compare every byte with what was meant, and let the copy pass every check that an export must."""
    with TemporaryDirectory() as cache:
        for name, content in files.items():
            path = download(repo_id, name, commit, cache)
            expected, found = digest_of(content), sha256(path)
            if expected != found:
                raise SpdError(
                    f"{repo_id}@{commit} gives back other bytes for {name}: expected sha256 {expected}, found "
                    f"{found}; do not use this commit: delete the file on the Hub and publish again"
                )
        check_export(download(repo_id, WEIGHTS, commit, cache).parent)
