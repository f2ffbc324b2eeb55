"""What a plain HTTP API's refusals mean. Pure: status, headers and the few words that a pointer finds."""

import email.utils
import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from headrace_crds.reasons import Reason
from headrace_runner.engine.untrusted import sentence
from headrace_runner.providers.protocol import Fault, ProviderError

MAX_RETRY_AFTER_SECONDS: Final = 3600.0
WORDS_CHARS: Final = 200
_NO_ACCESS: Final = "the provider refuses the key: put a valid one into the Secret"
_OVERLOADED: Final = frozenset({503, 529})
_TRANSIENT: Final = frozenset({408, 409, 425})
_BY_STATUS: Final = {
    401: (Fault.UNAVAILABLE, Reason.CREDENTIALS_REFUSED, _NO_ACCESS),
    402: (Fault.UNAVAILABLE, Reason.PROVIDER_QUOTA_EXHAUSTED, "the provider wants to be paid first"),
    403: (Fault.UNAVAILABLE, Reason.CREDENTIALS_REFUSED, _NO_ACCESS),
    404: (
        Fault.UNAVAILABLE,
        Reason.REMOTE_MODEL_NOT_FOUND,
        "the provider has nothing there: correct baseURL, http.path or model",
    ),
    413: (Fault.TERMINAL, Reason.INPUT_TOO_LARGE, "the request is larger than the provider takes"),
    429: (Fault.RATE_LIMITED, Reason.RATE_LIMITED, "the provider wants fewer requests"),
}


def of_status(status: int, retry_after: str | None, words: str | None = None) -> ProviderError:
    """The fault of an answer that is no success. ``words`` are the provider's own, as ``words_of`` gives them."""
    fault, reason, message = _meaning(status)
    return ProviderError(
        fault,
        reason,
        f"{message} (HTTP {status})" + (f": {words}" if words else ""),
        retry_after_seconds=retry_after_seconds(retry_after),
        status=status,
    )


def words_of(found: Any, repeatable: Callable[[str], str]) -> str | None:
    """What the error pointer found, as one bounded line: a text, or the member ``message`` of an object."""
    if isinstance(found, dict):
        found = found.get("message")
    if not isinstance(found, str):
        return None
    # Judged before it is cut, or a part of the key would stay.
    return sentence(repeatable(found.encode("utf-8", "replace").decode()))[:WORDS_CHARS].strip() or None


def retry_after_seconds(value: str | None) -> float | None:
    """The header Retry-After, seconds or a date (RFC 9110, 10.2.3), as seconds from now, at most an hour."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            at = email.utils.parsedate_to_datetime(value)
        except ValueError:
            return None
        if at.tzinfo is None:
            at = at.replace(tzinfo=UTC)
        seconds = max(0.0, (at - datetime.now(UTC)).total_seconds())
    return min(seconds, MAX_RETRY_AFTER_SECONDS) if math.isfinite(seconds) and seconds >= 0 else None


def answer_invalid(message: str) -> ProviderError:
    """An answer that cannot be read."""
    return ProviderError(Fault.TRANSIENT, Reason.PROVIDER_ANSWER_INVALID, message)


def failed(message: str, words: str | None = None) -> ProviderError:
    """A call that the provider took and could not bring to an end."""
    return ProviderError(Fault.TRANSIENT, Reason.PROVIDER_FAILED, message + (f": {words}" if words else ""))


def _meaning(status: int) -> tuple[Fault, Reason, str]:
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if status in _OVERLOADED:
        return Fault.OVERLOADED, Reason.PROVIDER_OVERLOADED, "the provider has no room"
    if status in _TRANSIENT or status >= 500:
        return Fault.TRANSIENT, Reason.PROVIDER_FAILED, "the provider failed"
    if status < 400:
        return (
            Fault.UNAVAILABLE,
            Reason.HOST_NOT_ALLOWED,
            "the provider answered with a redirect, which is not followed: set baseURL to where the API is",
        )
    return Fault.TERMINAL, Reason.INVALID_PARAMETERS, "the provider refuses the request"
