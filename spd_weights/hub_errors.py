"""What the Hub client raises, said in one sentence with what to do."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from spd_weights.errors import SpdError, shown
from spd_weights.retry import TransportError, cause, retry_after, status_of

_BY_STATUS = {
    401: "the Hub does not accept the token; run hf auth login, or set HF_TOKEN",
    403: "the token may not do this; take one with write access to this owner",
    412: "somebody else committed meanwhile, nothing was written; run it again",
    429: "too many requests",
}


@contextmanager
def explained(repo_id: str, revision: str | None = None) -> Iterator[None]:
    """Turn what the Hub client raises into an SpdError that names the repository and the remedy."""
    try:
        yield
    except (
        HFValidationError,
        LocalTokenNotFoundError,
        EntryNotFoundError,
        OSError,
        TransportError,
        RuntimeError,
    ) as error:
        found = cause(error)
        if isinstance(found, RuntimeError):  # not of the Hub's making
            raise
        if isinstance(error, LocalEntryNotFoundError) and status_of(found) is None:
            found = error  # no answer: what to do without a connection is worth more than how it failed
        where = f"{shown(repo_id)}@{shown(revision)}" if revision else shown(repo_id)
        raise SpdError(f"{where}: {_sentence(found, repo_id, revision)}") from error


def _sentence(error: BaseException, repo_id: str, revision: str | None) -> str:
    endpoint = constants.ENDPOINT
    match error:
        case HFValidationError():
            return "not a repository name; write owner/name"
        case LocalTokenNotFoundError():
            return _BY_STATUS[401]
        case GatedRepoError():
            return f"access must be asked for first, at {endpoint}/{repo_id}"
        case RepositoryNotFoundError():
            return f"not at {endpoint}, or private and not for this token; check the name, run hf auth login"
        case RevisionNotFoundError():
            return f"the repository has no revision {shown(str(revision))}; see {endpoint}/{repo_id}/commits/main"
        case LocalEntryNotFoundError(__cause__=FileMetadataError() as hidden):
            return f"{endpoint} does not answer as the Hub does ({' '.join(str(hidden).split())}); check HF_ENDPOINT"
        case LocalEntryNotFoundError() | OfflineModeIsEnabled():
            why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{endpoint} cannot be reached"
            at = f" --revision {revision}" if revision else ""
            return (
                f"not in the cache {constants.HF_HUB_CACHE}, and {why}; where there is a connection run "
                f"hf download {repo_id}{at}"
            )
        case EntryNotFoundError():
            return "the repository lacks a file of an export; it was not published by spd-weights publish"
        case HfHubHTTPError():
            status = error.response.status_code
            said = " ".join((error.server_message or error.response.reason_phrase).split())
            seconds = retry_after(error)
            later = f"run it again in {seconds:.0f} seconds" if seconds else "wait some minutes and run it again"
            known = _BY_STATUS.get(status, f"the Hub answered {status} ({said})")
            return known if status in (401, 403, 412) else f"{known}; {later}"
        case OSError() if not isinstance(error, TransportError):
            return _disk_sentence(error)
    return f"{endpoint} cannot be reached ({type(error).__name__}: {error}); check the connection and HF_ENDPOINT"


def _disk_sentence(error: OSError) -> str:
    said = " ".join(str(error).split())
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{said}; free some space, or set HF_HOME to another disk, and run it again"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"{said}; what is in the cache loads, to add to it set HF_HOME to a folder that you may write to"
    return f"{said}; run it again"
