"""What follows a delivery that came back: another attempt, charged or not, or the end.

Failed, retryable      charged   Failed record     backoff by retries
Failed, not retryable            Failed record     the task is Failed for that reason
Failed: EngineLost     charged   Failed record     it was alone: counted as a loss; the third is the end: Poison
LeaseExpired           charged   Lost record       as above
LeaseExpired, spec.suspend free  Lost record       no loss: nobody says whether the runner had let go
Released               free      Released record   at once; backoff from the second in a row
Parked, not to be read free      Released record   as above
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from headrace_crds.outcome import timestamp
from headrace_crds.reasons import Reason
from headrace_crds.task import AttemptRecord
from headrace_operator.decide.snapshots import ReturnedDelivery

FIRST_BACKOFF_MS: Final = 1_000
BACKOFF_LIMIT_MS: Final = 300_000
LOSSES_LIMIT: Final = 3
"""A task that so many runners or engines did not survive is not given to another."""


@dataclass(frozen=True, slots=True)
class NextAttempt:
    """Go on at attempt + 1."""

    record: AttemptRecord
    charged: bool
    delay_ms: int
    lost: bool = False
    """Its runner or engine went down with it."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The task is Failed."""

    record: AttemptRecord
    reason: str
    message: str
    lost: bool = False


def backoff_ms(failures: int, jitter: float) -> int:
    """Exponential with full jitter (AWS Architecture Blog, 2015): uniform between 0 and min(300 s, 1 s · 2^(n−1))."""
    if failures < 1:
        return 0
    ceiling_ms = min(BACKOFF_LIMIT_MS, FIRST_BACKOFF_MS * 2 ** min(failures - 1, 32))
    return int(ceiling_ms * min(max(jitter, 0.0), 1.0))


def verdict(
    delivery: ReturnedDelivery,
    *,
    attempt: int,
    retries: int,
    losses: int,
    backoff_limit: int,
    suspended: bool,
    records: Sequence[AttemptRecord],
    model: str,
    jitter: float,
) -> NextAttempt | GiveUp:
    """What follows `attempt`; `records`, `retries` and `losses` are those of earlier attempts."""
    record = attempt_record(delivery, attempt=attempt, model=model)
    if delivery.how in ("Released", "Parked"):
        in_a_row = _released_in_a_row(records)
        return NextAttempt(record, charged=False, delay_ms=backoff_ms(in_a_row, jitter))
    if delivery.how == "Failed" and not delivery.retryable:
        return GiveUp(record, reason=record.reason, message=record.message)
    if delivery.how == "LeaseExpired" and suspended:
        return NextAttempt(record, charged=False, delay_ms=0)
    lost = delivery.how == "LeaseExpired" or delivery.reason == Reason.ENGINE_LOST
    last = f"{record.reason}: {record.message}"
    if lost and losses + 1 >= LOSSES_LIMIT:
        ended = f"{losses + 1} attempts ended with their runner or engine"
        message = f"{ended}: look at the logs of the pods in status.attempts before it is replayed; last: {last}"
        return GiveUp(record, reason=Reason.POISON, message=message[:1024], lost=True)
    if retries + 1 <= backoff_limit:
        return NextAttempt(record, charged=True, delay_ms=backoff_ms(retries + 1, jitter), lost=lost)
    message = f"attempt {attempt} failed and backoffLimit is {backoff_limit}; last failure: {last}"
    return GiveUp(record, reason=Reason.BACKOFF_LIMIT_EXCEEDED, message=message[:1024], lost=lost)


def attempt_record(delivery: ReturnedDelivery, *, attempt: int, model: str) -> AttemptRecord:
    outcome = {"Failed": "Failed", "LeaseExpired": "Lost", "Released": "Released", "Parked": "Released"}[delivery.how]
    if delivery.how == "LeaseExpired":
        reason: str = Reason.LEASE_EXPIRED
        message = f"runner {delivery.worker or 'unknown'} stopped renewing its lease"
    else:
        reason, message = delivery.reason or outcome, delivery.message
    return AttemptRecord(
        number=attempt,
        model=model,
        pod=delivery.worker or None,
        start_time=timestamp(delivery.claimed_ms) if delivery.claimed_ms else None,
        completion_time=timestamp(delivery.returned_ms),
        outcome=outcome,
        reason=reason[:128],
        message=message[:512],
    )


def undelivered_record(
    *, attempt: int, model: str, pod: str | None, now_ms: int, reason: Reason, message: str
) -> AttemptRecord:
    """The record of an attempt whose envelope is gone: nobody is charged."""
    return AttemptRecord(
        number=attempt,
        model=model,
        pod=pod,
        completion_time=timestamp(now_ms),
        outcome="Released",
        reason=reason,
        message=message[:512],
    )


def taken_record(
    *, attempt: int, model: str, pod: str | None, claimed_ms: int, now_ms: int, reason: Reason, message: str
) -> AttemptRecord:
    """The record of an attempt that was taken from its runner."""
    return AttemptRecord(
        number=attempt,
        model=model,
        pod=pod,
        start_time=timestamp(claimed_ms) if claimed_ms else None,
        completion_time=timestamp(now_ms),
        outcome="Lost",
        reason=reason,
        message=message[:512],
    )


def _released_in_a_row(records: Sequence[AttemptRecord]) -> int:
    count = 0
    for record in reversed(records):
        if record.outcome != "Released":
            break
        count += 1
    return count
