"""What a remote model's provider makes of its status: when no request is made, why, and who has to act.

Texts and numbers are held steady: a status that followed every countdown and every step of the concurrency would be
written every second.
"""

import re
from dataclasses import dataclass
from typing import Final

from headrace_crds.base import ConditionStatus, find_condition
from headrace_crds.model import Breaker, LLMModelStatus, ProviderStatus
from headrace_crds.reasons import Reason
from headrace_operator.decide.snapshots import ProviderView

TOLD_FROM_SECONDS: Final = 5
"""A provider's pause that is shorter is ordinary pacing, and over before anybody has read of it."""
_REMEDIES: Final = {
    Reason.CREDENTIALS_REFUSED: "the provider refuses the key: put a valid one into the Secret, nothing else is needed",
    Reason.CREDENTIALS_NOT_FOUND: "there is no key to send: put one into the Secret, nothing else is needed",
    Reason.HOST_NOT_ALLOWED: "a request may not go where it leads: correct spec.remote.baseURL or the annotation",
    Reason.REMOTE_MODEL_NOT_FOUND: "the provider does not know spec.remote.model, or the key may not use it",
    Reason.PROVIDER_QUOTA_EXHAUSTED: "the account's budget at the provider is spent: raise it there",
    Reason.PROVIDER_UNREACHABLE: "the provider cannot be reached; requests are tried again by themselves",
    Reason.PROVIDER_OVERLOADED: "the provider has no room; requests are tried again by themselves",
    Reason.RATE_LIMITED: "the provider asked for a pause; requests go on by themselves",
    Reason.CIRCUIT_OPEN: "requests failed again and again; they are tried again by themselves",
}
PAUSES: Final = frozenset(_REMEDIES)
"""Reasons for which a model makes no requests."""
ACT: Final = frozenset(
    {
        Reason.CREDENTIALS_REFUSED,
        Reason.CREDENTIALS_NOT_FOUND,
        Reason.HOST_NOT_ALLOWED,
        Reason.REMOTE_MODEL_NOT_FOUND,
        Reason.PROVIDER_QUOTA_EXHAUSTED,
    }
)
"""Those that last until somebody acts: the model is not Ready."""
_NUMBERS: Final = re.compile(r"[0-9]+([.,][0-9]+)*")


@dataclass(frozen=True, slots=True)
class Pause:
    """Why no request is made."""

    reason: Reason
    message: str

    @property
    def needs_somebody(self) -> bool:
        return self.reason in ACT


def pause(seen: ProviderView | None, before: LLMModelStatus | None) -> Pause | None:
    """None while requests are made, or nothing is known."""
    if seen is None or (seen.breaker is Breaker.CLOSED and not seen.reason):
        return None
    told = _told(before)
    if seen.breaker is Breaker.HALF_OPEN and told is not None:
        # One request is under way to see: until it is known how it went, nothing else is said.
        return told
    if seen.breaker is Breaker.CLOSED and told is None and seen.retry_seconds < TOLD_FROM_SECONDS:
        return None
    reason = Reason(seen.reason) if seen.reason in PAUSES else Reason.CIRCUIT_OPEN
    message = seen.message or _REMEDIES[reason]
    if told is not None and told.reason == reason:
        message = steady(told.message, message)
    return Pause(reason, message)


def status(
    seen: ProviderView | None, paused: Pause | None, before: ProviderStatus | None, *, most: int
) -> ProviderStatus | None:
    """As it is to be written; what was written before while no runner tells anything. `most` is maxConcurrency."""
    if seen is None:
        return before
    concurrency = None if seen.concurrency is None else min(seen.concurrency, most)
    if before is not None:
        concurrency = _coarse(before.concurrency, concurrency, most)
    return ProviderStatus(
        breaker=seen.breaker,
        reason=paused.reason.value if paused is not None else None,
        message=paused.message if paused is not None else None,
        concurrency=concurrency,
    )


def steady(before: str, after: str) -> str:
    """The former text where they differ in numbers alone."""
    return before if _NUMBERS.sub("#", before) == _NUMBERS.sub("#", after) else after


def _coarse(before: int | None, after: int | None, most: int) -> int | None:
    if before is None or after is None or after == most or not before / 2 < after < before * 2:
        return after
    return before


def _told(before: LLMModelStatus | None) -> Pause | None:
    """The pause that the status tells of."""
    available = find_condition(before.conditions, "Available") if before is not None else None
    if available is None or available.status is ConditionStatus.TRUE or available.reason not in PAUSES:
        return None
    return Pause(Reason(available.reason), available.message)
