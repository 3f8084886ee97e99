"""Requests to the Hub: retries for failures that pass, and one clear sentence for those that do not."""

import errno
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TypeVar

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
from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]

from spd_weights.answers import TransportError, not_a_hub, understood
from spd_weights.errors import SpdError, reason, shown

WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before each further attempt when the Hub names no time
LONGEST = 300.0  # the Hub's rate limits are windows of five minutes

_TRANSIENT = (408, 429, 500, 502, 503, 504)
_BY_STATUS = {
    401: "the Hub does not accept the token; run hf auth login, or set HF_TOKEN",
    403: "the token lacks permission; use one with write access to this owner",
    412: "someone else committed in the meantime, so nothing was written; run the command again",
    429: "too many requests",
}
_Answer = TypeVar("_Answer")
_log = logging.getLogger(__name__)


def with_retries(call: Callable[[], _Answer]) -> _Answer:
    """Call, and repeat the call after a pause as long as the failure is transient.

    Args:
        call: Must be safe to repeat.

    Raises:
        Exception: The last failure, or the first one that is not transient.
    """
    for attempt, wait in enumerate(WAITS):
        try:
            return understood(call)
        except (TransportError, OSError, RuntimeError) as error:
            pause = pause_after(error, wait)
            if pause is None or (attempt > 0 and is_broken_transfer(cause(error))):
                raise
            if pause > max(WAITS):
                _log.warning("the Hub asks to wait; continuing in %.0f seconds", pause)
            time.sleep(pause)
    return understood(call)


def with_xet_fallback(call: Callable[[], _Answer]) -> _Answer:
    """Transfer files; if Xet, the Hub's default transport for large files, fails, use plain HTTP instead.

    Xet stays off for the rest of the process. Otherwise it would fail again for every further file, each time after a
    minute of attempts.

    Args:
        call: Must be safe to repeat.

    Raises:
        Exception: Whatever plain HTTP raises.
    """
    try:
        return call()
    except Exception as error:
        if not _xet_failed(cause(error)):
            raise
        _log.warning("Xet transfer failed (%s); continuing over plain HTTP", reason(error))
        constants.HF_HUB_DISABLE_XET = True
        return call()


def _xet_failed(error: BaseException) -> bool:
    if constants.HF_HUB_DISABLE_XET:
        return False
    if isinstance(error, TransportError):
        return "/xet-" in _request(error)[1]  # the Hub gives no token for the content server
    if isinstance(error, OSError):
        return isinstance(error, (ConnectionError, TimeoutError))
    return not isinstance(error, (SpdError, HFValidationError, EntryNotFoundError))


def pause_after(error: BaseException, wait: float) -> float | None:
    """Decide whether to repeat a failed request, and when.

    Args:
        error: What the Hub client raised.
        wait: Seconds to wait if the Hub names no time.

    Returns:
        Seconds to wait, or None if another attempt is pointless: the failure is permanent, the client has
        repeated the request itself already, or the Hub asks for more than LONGEST.
    """
    error = cause(error)
    if _client_retried(error):
        return None
    status = status_of(error)
    if status is None:
        return wait if isinstance(error, TransportError) and not isinstance(error, HfHubHTTPError) else None
    if status not in _TRANSIENT:
        return None
    seconds = requested_wait(error)
    if seconds is None:
        return wait
    return seconds if seconds <= LONGEST else None


def cause(error: BaseException) -> BaseException:
    """Unwrap what the Hub client hides: why an upload failed, or why it fell back to the cache."""
    hidden = error.__cause__
    if isinstance(error, RuntimeError) and hidden is not None:
        return hidden
    if isinstance(error, LocalEntryNotFoundError) and isinstance(hidden, TransportError):
        return hidden
    return error


def status_of(error: BaseException) -> int | None:
    """The HTTP status of the Hub's answer; None if there was no answer."""
    status: int | None = getattr(getattr(error, "response", None), "status_code", None)
    return status


def requested_wait(error: BaseException) -> float | None:
    """The seconds the Hub asks to wait (RateLimit or Retry-After header); None if it names none."""
    headers: Mapping[str, str] = getattr(getattr(error, "response", None), "headers", {})
    limit = parse_ratelimit_headers(headers)
    if limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    stated = headers.get("Retry-After", "")
    return float(stated) if stated.isdecimal() else None


def _client_retried(error: BaseException) -> bool:
    """Say whether huggingface_hub repeats this kind of request itself, so that attempts do not multiply."""
    method, url = _request(error)
    if method == "PUT" or "/info/lfs/" in url:
        return status_of(error) is not None
    return method == "GET" and "/api/" not in url and status_of(error) in (408, 429)  # a file's content


def is_broken_transfer(error: BaseException) -> bool:
    """Say whether the transfer of a file broke off.

    Newer versions of huggingface_hub repeat it five times, older ones do not; so one more attempt is enough.
    """
    method, url = _request(error)
    is_content = method == "PUT" or (method == "GET" and "/api/" not in url)
    return is_content and status_of(error) is None


def _request(error: BaseException) -> tuple[str, str]:
    """Method and address of the failed request; both are empty if the error carries none."""
    for holder in (getattr(error, "response", None), error):
        with suppress(AttributeError, RuntimeError):  # httpx raises RuntimeError if there is no request
            return holder.request.method, str(holder.request.url)  # type: ignore[union-attr]
    return "", ""


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
        if isinstance(found, RuntimeError):  # a bug, not an answer of the Hub
            raise
        if isinstance(error, LocalEntryNotFoundError) and status_of(found) is None:
            found = error  # without an answer, what to do offline matters more than how the connection failed
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
            return f"this repository is gated; request access at {endpoint}/{repo_id}"
        case RepositoryNotFoundError():
            return f"not found at {endpoint}, or private and hidden from this token; check the name, run hf auth login"
        case RevisionNotFoundError():
            return f"the repository has no revision {shown(str(revision))}; see {endpoint}/{repo_id}/commits/main"
        case LocalEntryNotFoundError(__cause__=FileMetadataError() as hidden):
            return str(not_a_hub(reason(hidden)))
        case FileMetadataError():
            return str(not_a_hub(reason(error)))
        case LocalEntryNotFoundError() | OfflineModeIsEnabled():
            why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{endpoint} cannot be reached"
            at = f" --revision {revision}" if revision else ""
            return (
                f"not in the cache {constants.HF_HUB_CACHE}, and {why}; on a machine with a connection run "
                f"hf download {repo_id}{at}"
            )
        case EntryNotFoundError():
            return "the repository lacks a file of an export; it was not published by spd-weights publish"
        case HfHubHTTPError():
            return _http_sentence(error)
        case OSError() if not isinstance(error, TransportError):
            return _disk_sentence(error)
    said = shown(f"{type(error).__name__}: {error}", 300)
    return f"{endpoint} cannot be reached ({said}); check the connection and HF_ENDPOINT"


def _http_sentence(error: HfHubHTTPError) -> str:
    status = error.response.status_code
    said = shown(" ".join((error.server_message or error.response.reason_phrase).split()))
    seconds = requested_wait(error)
    later = f"run the command again in {seconds:.0f} seconds" if seconds else "run the command again in some minutes"
    known = _BY_STATUS.get(status, f"the Hub answered {status} ({said})")
    return known if status in (401, 403, 412) else f"{known}; {later}"


def _disk_sentence(error: OSError) -> str:
    said = reason(error, 300)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{said}; free some space, or set HF_HOME to another disk, and run the command again"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"{said}; cached weights still load, to add more set HF_HOME to a folder you can write to"
    return f"{said}; run the command again"
