"""What the Hub client raises, said in one sentence with what to do."""

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from spd_weights.errors import SpdError

# httpx's or httpx2's, as the installed huggingface_hub has it: connections, timeouts, broken transfers.
_TransportError: type[Exception] = HfHubHTTPError.__bases__[0]

_BY_STATUS = {
    401: "the Hub does not accept the token; run hf auth login, or set HF_TOKEN",
    403: "the token may not do this; take one with write access to this owner",
    412: "somebody else committed meanwhile, nothing was written; run it again",
    429: "too many requests; wait some minutes and run it again",
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
        _TransportError,
    ) as error:
        where = f"{repo_id}@{revision}" if revision else repo_id
        raise SpdError(f"{where}: {_sentence(error, repo_id, revision)}") from error


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
            return f"the repository has no revision {revision}; see {endpoint}/{repo_id}/commits/main"
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
            said = error.server_message or str(error)
            return _BY_STATUS.get(status, f"the Hub answered {status} ({said}); try again later")
        case OSError() if not isinstance(error, _TransportError):
            return str(error)
    return f"{endpoint} cannot be reached ({type(error).__name__}: {error}); check the connection and HF_ENDPOINT"
