"""How long a provider asks to wait, and what it says is left: response headers of OpenAI's family.

``retry-after-ms`` and ``retry-after`` (RFC 9110: seconds or an HTTP date), and ``x-ratelimit-{remaining,reset}-
{requests,tokens}``, whose resets are written like ``6m0s``, ``1s``, ``20ms``
(https://platform.openai.com/docs/guides/rate-limits).
"""

import email.utils
import math
import re
import time
from collections.abc import Mapping
from typing import Final

from headrace_runner.providers.protocol import Budget

MAX_WAIT_SECONDS: Final = 86_400.0
"""No wait is believed beyond a day: a header may be wrong, and a model that waits is asked by nobody."""
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|d|h|m|s)")
_UNIT_SECONDS: Final = {"d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_KINDS: Final = ("requests", "tokens")


def duration_seconds(text: str) -> float | None:
    """Read ``1h2m3.5s``, ``20ms`` or a plain number of seconds; None for anything else."""
    text = text.strip()
    if (plain := _number(text)) is not None:
        return _bounded(plain)
    parts = list(_PART.finditer(text))
    if not parts or "".join(part[0] for part in parts) != text:
        return None
    return _bounded(sum(float(part[1]) * _UNIT_SECONDS[part[2]] for part in parts))


def retry_after_seconds(headers: Mapping[str, str], *, resets: bool = True) -> float | None:
    """What the response asks for; by its own clock, where it asks with a date. None where it asks for nothing.

    ``resets``: where it does not ask, the reset of what is spent counts.
    """
    if (millis := _number(headers.get("retry-after-ms", ""))) is not None:
        return _bounded(millis / 1000)
    given = headers.get("retry-after", "").strip()
    if (seconds := _number(given)) is not None:
        return _bounded(seconds)
    if (at := _date(given)) is not None:
        now = _date(headers.get("date", ""))
        return _bounded(at - (time.time() if now is None else now))
    return _reset_seconds(headers) if resets else None


def budget_of(headers: Mapping[str, str]) -> Budget | None:
    """What is left; None where the response does not say."""
    requests, tokens = (_remaining(headers, kind) for kind in _KINDS)
    reset = _reset_seconds(headers)
    return None if requests is tokens is reset is None else Budget(requests, tokens, reset)


def _reset_seconds(headers: Mapping[str, str]) -> float | None:
    """Until all that is spent is there again; where nothing is spent, until something is full."""
    resets = {kind: duration_seconds(headers.get(f"x-ratelimit-reset-{kind}", "")) for kind in _KINDS}
    known = {kind: seconds for kind, seconds in resets.items() if seconds is not None}
    spent = [seconds for kind, seconds in known.items() if _remaining(headers, kind) == 0]
    return max(spent) if spent else min(known.values(), default=None)


def _remaining(headers: Mapping[str, str], kind: str) -> int | None:
    number = _number(headers.get(f"x-ratelimit-remaining-{kind}", ""))
    return None if number is None else max(0, int(number))


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _date(text: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _bounded(seconds: float) -> float:
    return min(max(0.0, seconds), MAX_WAIT_SECONDS)
