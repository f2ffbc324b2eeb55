"""Text and numbers that a runner wrote, as they may be shown and reckoned with.

Whoever may read Secrets in a model's namespace may write anything into that model's keys. What passes here fits the
API types; what does not is replaced, because a decision that raises is a task that never ends.
"""

import math
import re
from typing import Final

from headrace_crds.reasons import Reason

MILLISECONDS_MAX: Final = 4_102_444_800_000
"""The year 2100: what lies behind it is no time."""
NUMBER_MAX: Final = 2**53 - 1
"""Beyond it JSON readers disagree."""
MESSAGE_LIMIT: Final = 1024
ATTEMPTS_AHEAD: Final = 1_000
"""An entry so far beyond its object's attempt was not made by an operator, not even by one before a backup."""

_REASON: Final = re.compile(r"[A-Z][A-Za-z0-9]{0,63}", re.ASCII)
_DNS_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", re.ASCII)


def reason(text: str) -> str:
    """A PascalCase word."""
    return text if _REASON.fullmatch(text) else Reason.RUNNER_ERROR.value


def message(text: str, limit: int = MESSAGE_LIMIT) -> str:
    """One line without control characters, surrogates and what turns the direction of writing."""
    return "".join(each if each.isprintable() else " " for each in text[:limit]).strip()


def dns_name(text: str) -> str:
    """A DNS-1123 name; empty when it is none."""
    return text if _DNS_NAME.fullmatch(text) else ""


def number(value: object, high: int = NUMBER_MAX) -> int:
    """0 … high. Raises ValueError for what is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("not a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("not a finite number")
    return min(max(int(value), 0), high)


def milliseconds(value: object, now_ms: int = MILLISECONDS_MAX) -> int:
    """A time in the past, or 0."""
    return number(value, min(now_ms, MILLISECONDS_MAX))
