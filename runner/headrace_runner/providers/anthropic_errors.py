"""What Anthropic's errors and rate-limit headers mean. Pure.

Shapes: the pages "Errors" and "Rate limits" of its documentation; an error is ``{"type": "error", "error": {"type",
"message"}}``, as the body of a status or as the data of an ``error`` event after a 200.
"""

import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

from headrace_crds.reasons import Reason
from headrace_runner.providers.protocol import Budget, Fault, ProviderError
from headrace_runner.providers.provider_words import plain, quotes

WAIT_LIMIT_SECONDS: Final = 86_400.0
"""No wait is believed beyond a day: a header may be wrong, and a model that waits is asked by nobody."""
SENTENCE_CHARS: Final = 160
_QUOTED: Final = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`")
_KEY: Final = re.compile(r"\bsk-[^\s]*")
_BUCKETS: Final = ("requests", "tokens", "input-tokens", "output-tokens")

_MEANING: Final[tuple[tuple[frozenset[str | int], Fault, Reason, str], ...]] = (
    # Error types and statuses; a type says more than a status.
    (
        frozenset({"authentication_error", "permission_error", 401, 403}),
        Fault.UNAVAILABLE,
        Reason.CREDENTIALS_REFUSED,
        "Anthropic refuses the key, or what it may be used for: replace it in the Secret of spec.remote.credentials",
    ),
    (
        frozenset({"billing_error", 402}),
        Fault.UNAVAILABLE,
        Reason.PROVIDER_QUOTA_EXHAUSTED,
        "the account has no credit left: add credit in Anthropic's console",
    ),
    (
        frozenset({"not_found_error", 404}),
        Fault.UNAVAILABLE,
        Reason.REMOTE_MODEL_NOT_FOUND,
        "Anthropic does not know the model: correct spec.remote.model, or spec.remote.baseURL",
    ),
    (
        frozenset({"request_too_large", 413}),
        Fault.TERMINAL,
        Reason.INPUT_TOO_LARGE,
        "the request is larger than Anthropic takes: shorten the input",
    ),
    (
        frozenset({"rate_limit_error", 429}),
        Fault.RATE_LIMITED,
        Reason.RATE_LIMITED,
        "Anthropic's rate limit is reached",
    ),
    (frozenset({"overloaded_error", 529}), Fault.OVERLOADED, Reason.PROVIDER_OVERLOADED, "Anthropic is overloaded"),
    (
        frozenset({"api_error", "timeout_error", 408, 499}),
        Fault.TRANSIENT,
        Reason.PROVIDER_FAILED,
        "Anthropic failed inside",
    ),
    (
        frozenset({"invalid_request_error", 400, 422}),
        Fault.TERMINAL,
        Reason.INVALID_PARAMETERS,
        "Anthropic refuses the request",
    ),
)
_ROWS: Final = {key: (what, reason, message) for keys, what, reason, message in _MEANING for key in keys}
_INVALID_REQUEST: Final = (
    # What the message of an invalid_request_error has in it, in lower case.
    (
        ("prompt is too long", "exceed context limit", "input is too long"),
        Fault.TERMINAL,
        Reason.CONTEXT_LENGTH_EXCEEDED,
        "the input does not fit into the model's context: shorten it or lower spec.parameters.maxTokens",
    ),
    (
        ("credit balance is too low", "reached your specified api usage limits"),
        Fault.UNAVAILABLE,
        Reason.PROVIDER_QUOTA_EXHAUSTED,
        "the account's credit or usage limit is spent: raise it in Anthropic's console",
    ),
)


def fault(status: int, body: object, headers: Mapping[str, str], said: Iterable[str] = ()) -> ProviderError:
    """What an error of the API means. ``status`` is 200 for an ``error`` event; ``said`` are the request's texts, none
    of which the message repeats.
    """
    kind, words = _error_of(body)
    other_kind = "invalid_request_error" if 400 <= status < 500 else "api_error"
    what, reason, message = _ROWS.get(kind) or _ROWS.get(status) or _ROWS[other_kind]
    if reason is Reason.INVALID_PARAMETERS:
        for marks, what_else, other, instead in _INVALID_REQUEST:
            if any(mark in words.lower() for mark in marks):
                return ProviderError(what_else, other, instead, status=status)
        if quoted := sentence(words, said):
            message = f"{message}: {quoted}"
    wait = retry_after_seconds(headers) if what in (Fault.RATE_LIMITED, Fault.OVERLOADED, Fault.TRANSIENT) else None
    return ProviderError(what, reason, message, retry_after_seconds=wait, status=status)


def _error_of(body: object) -> tuple[str, str]:
    error: Any = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return "", ""
    kind, words = error.get("type"), error.get("message")
    return kind if isinstance(kind, str) else "", words if isinstance(words, str) else ""


def sentence(words: str, said: Iterable[str] = ()) -> str:
    """The first sentence without what is quoted in it; nothing where it repeats a piece of what the request said."""
    bare = _KEY.sub("…", _QUOTED.sub("…", plain(words[:2000])))
    first = re.split(r"(?<=[.!?])\s", bare, maxsplit=1)[0][:SENTENCE_CHARS].rstrip(" .")
    return "" if quotes(first, said) else first


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """What ``retry-after`` asks for (seconds, or a date); else until what is spent is there again. None: nothing."""
    given = headers.get("retry-after", "").strip()
    try:
        seconds = float(given)
        if math.isfinite(seconds):
            return _bounded(seconds)
    except ValueError:
        pass
    at = _http_date(given)
    if at is not None:
        return _bounded((at - _now(headers)).total_seconds())
    resets = [seconds for left, seconds in _buckets(headers) if left == 0 and seconds is not None]
    return max(resets, default=None)


def budget_of(headers: Mapping[str, str]) -> Budget | None:
    """What is left by the ``anthropic-ratelimit-*`` headers; None where there are none.

    Tokens are those of the scarcest bucket. ``reset_seconds``: until what is spent is there again, or, while nothing
    is spent, until all is.
    """
    buckets = list(_buckets(headers))
    tokens = [left for left, _ in buckets[1:] if left is not None]
    resets = [seconds for _, seconds in buckets if seconds is not None]
    spent = [seconds for left, seconds in buckets if left == 0 and seconds is not None]
    budget = Budget(buckets[0][0], min(tokens, default=None), max(spent or resets, default=None))
    return None if budget == Budget() else budget


def _buckets(headers: Mapping[str, str]) -> Iterable[tuple[int | None, float | None]]:
    for name in _BUCKETS:
        left = headers.get(f"anthropic-ratelimit-{name}-remaining", "").strip()
        at = _rfc3339(headers.get(f"anthropic-ratelimit-{name}-reset", "").strip())
        yield (
            int(left) if left.isascii() and left.isdigit() and len(left) <= 15 else None,
            None if at is None else _bounded((at - _now(headers)).total_seconds()),
        )


def _now(headers: Mapping[str, str]) -> datetime:
    """By the response's own clock, where it tells it: ours may be off."""
    return _http_date(headers.get("date", "")) or datetime.now(UTC)


def _rfc3339(text: str) -> datetime | None:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def _http_date(text: str) -> datetime | None:
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def _bounded(seconds: float) -> float:
    return min(max(0.0, seconds), WAIT_LIMIT_SECONDS)
