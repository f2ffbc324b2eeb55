"""Who is owed a webhook, and what an answer makes of it. The outbox is the object: Notified is not True.

answer                        Notified
2xx                           True   Delivered
410                           True   Gone
24 h after the task's end     True   GivenUp
refused URL                   False  WebhookRefused          tried again: the allow-list may change
no key, no right to read it   False  SigningKeyUnavailable   tried again
anything else                 False  NotDelivered            tried again
"""

from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Final

from headrace_crds.base import ConditionStatus, find_condition
from headrace_crds.outcome import notified_outcomes, timestamp, with_condition
from headrace_crds.reasons import Reason
from headrace_crds.task import LLMTask, Outcome
from headrace_operator.webhooks.target import host_of

CONDITION: Final = "Notified"
FIRST_BACKOFF_SECONDS: Final = 1.0
BACKOFF_LIMIT_SECONDS: Final = 3600.0
GIVE_UP_AFTER_SECONDS: Final = 86_400.0
TOLD_AFTER_FAILURES: Final = 4
"""A receiver that was away for some seconds costs no write."""


@dataclass(frozen=True, slots=True)
class Try:
    """What came of one attempt to deliver: a status, or a problem."""

    status: int = 0
    """Of HTTP; 0: there was no answer."""
    problem: str = ""
    reason: Reason = Reason.NOT_DELIVERED
    """WEBHOOK_REFUSED or SIGNING_KEY_UNAVAILABLE where nothing was sent."""
    retry_after_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to write, if anything, and when to try again; None: never."""

    notified: bool
    reason: Reason
    message: str
    again_after_seconds: float | None


def owes(body: Mapping[str, Any]) -> str:
    """Host that is to be told about a finished task, by the object as the API server gives it; else empty.

    Its ports and spellings are one host, as bounds hold per host. A missing condition counts as owed: whoever committed
    may not have known of webhooks.
    """
    spec, status = body.get("spec") or {}, body.get("status") or {}
    webhook, outcome = spec.get("webhook"), status.get("outcome")
    if not webhook or not outcome or body["metadata"].get("deletionTimestamp") is not None:
        return ""
    if outcome not in (webhook.get("events") or list(Outcome)):
        return ""
    if any(c.get("type") == CONDITION and c.get("status") == "True" for c in status.get("conditions") or []):
        return ""
    return host_of(str(webhook.get("url", "")))


def owed_outcome(task: LLMTask) -> Outcome | None:
    """The outcome that is still to be told."""
    if task.status is None or task.status.outcome not in notified_outcomes(task):
        return None
    notified = find_condition(task.status.conditions, CONDITION)
    told = notified is not None and notified.status is ConditionStatus.TRUE
    return None if told or task.metadata.deletion_timestamp is not None else task.status.outcome


def verdict(came: Try, *, failures: int, since_end_seconds: float, jitter: float) -> Verdict:
    """`failures`: attempts before this one that did not deliver, in this leadership."""
    if 200 <= came.status <= 299:
        return Verdict(True, Reason.DELIVERED, f"the receiver answered {came.status}", None)
    if came.status == 410:
        return Verdict(True, Reason.GONE, "the receiver answered 410: it wants no more", None)
    problem = came.problem or f"the receiver answered {came.status}"
    if 300 <= came.status <= 399:
        problem += ": redirects are not followed, name the final URL"
    if since_end_seconds >= GIVE_UP_AFTER_SECONDS:
        return Verdict(True, Reason.GIVEN_UP, f"not delivered within 24 h; last: {problem}", None)
    again = max(backoff_seconds(failures + 1, jitter), min(came.retry_after_seconds, BACKOFF_LIMIT_SECONDS))
    # The last pause ends with the time, so that giving up is written while the object is kept.
    again = min(again, GIVE_UP_AFTER_SECONDS - since_end_seconds)
    return Verdict(False, came.reason, f"{problem}; tried again for 24 h after the task's end", again)


def backoff_seconds(failures: int, jitter: float) -> float:
    """1 s · 2^(n−1) up to an hour, and up to half as much again by chance: receivers come back to many senders."""
    ceiling = min(BACKOFF_LIMIT_SECONDS, FIRST_BACKOFF_SECONDS * float(1 << min(max(failures, 1) - 1, 16)))
    return ceiling * (1.0 + 0.5 * min(max(jitter, 0.0), 1.0))


def retry_after_seconds(value: str, date: str) -> float:
    """Of a Retry-After header, in seconds or as a time, which is measured against the answer's own Date; 0 for none."""
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, (parsedate_to_datetime(value) - parsedate_to_datetime(date)).total_seconds())
    except (TypeError, ValueError, OverflowError):
        return 0.0


def condition_patch(task: LLMTask, found: Verdict, *, failures: int, now_ms: int) -> dict[str, Any] | None:
    """Merge patch of the status; None when the object says so already.

    While it is not delivered: one write per change of what hinders it here, and one when a receiver goes on failing.
    """
    if task.status is None:
        return None
    before = find_condition(task.status.conditions, CONDITION)
    if before is not None and not found.notified:
        same_reason = before.reason == found.reason
        if found.reason is Reason.NOT_DELIVERED and same_reason and failures + 1 != TOLD_AFTER_FAILURES:
            return None
        if same_reason and before.message == found.message:
            return None
    conditions = with_condition(
        task.status.conditions,
        CONDITION,
        ConditionStatus.TRUE if found.notified else ConditionStatus.FALSE,
        found.reason,
        found.message,
        generation=task.metadata.generation,
        now=timestamp(now_ms),
    )
    return {"conditions": [condition.dump() for condition in conditions]}
