"""Backoff and verdicts at their edges."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_crds.task import AttemptRecord
from headrace_operator.decide.retry import BACKOFF_LIMIT_MS, GiveUp, NextAttempt, backoff_ms, verdict
from headrace_operator.decide.snapshots import ReturnedDelivery

RELEASED = ReturnedDelivery("Released", "pod-a", 1_000, 2_000, reason="RunnerStopped")
LOST = ReturnedDelivery("LeaseExpired", "pod-a", 1_000, 2_000)


def records(*outcomes: str) -> list[AttemptRecord]:
    return [AttemptRecord(number=n, outcome=outcome, reason="X") for n, outcome in enumerate(outcomes, 1)]


def judged(
    delivery: ReturnedDelivery,
    *,
    retries: int = 0,
    losses: int = 0,
    backoff_limit: int = 3,
    suspended: bool = False,
    earlier: tuple[str, ...] = (),
) -> NextAttempt | GiveUp:
    return verdict(
        delivery,
        attempt=len(earlier) + 1,
        retries=retries,
        losses=losses,
        backoff_limit=backoff_limit,
        suspended=suspended,
        records=records(*earlier),
        model="qwen",
        jitter=1.0,
    )


@pytest.mark.parametrize(
    ("failures", "ceiling_ms"),
    [(0, 0), (1, 1_000), (2, 2_000), (3, 4_000), (9, 256_000), (10, 300_000), (100, 300_000)],
)
def test_the_ceiling_doubles_up_to_five_minutes(failures: int, ceiling_ms: int) -> None:
    assert backoff_ms(failures, 1.0) == ceiling_ms
    assert backoff_ms(failures, 0.0) == 0


@given(failures=st.integers(0, 10_000), jitter=st.floats(0, 1))
def test_full_jitter_stays_below_the_ceiling(failures: int, jitter: float) -> None:
    assert 0 <= backoff_ms(failures, jitter) <= BACKOFF_LIMIT_MS


def test_releases_in_a_row_slow_down() -> None:
    delays = [judged(RELEASED, earlier=("Released",) * n) for n in range(4)]
    assert [each.delay_ms for each in delays if isinstance(each, NextAttempt)] == [0, 1_000, 2_000, 4_000]


def test_a_failure_in_between_starts_the_count_anew() -> None:
    found = judged(RELEASED, earlier=("Released", "Failed"))
    assert isinstance(found, NextAttempt)
    assert found.delay_ms == 0


def test_releases_never_use_up_the_limit() -> None:
    found = judged(RELEASED, retries=3, backoff_limit=0)
    assert isinstance(found, NextAttempt)
    assert not found.charged


@pytest.mark.parametrize(("retries", "goes_on"), [(0, True), (2, True), (3, False), (4, False)])
def test_the_limit_counts_retries_not_attempts(retries: int, goes_on: bool) -> None:
    assert isinstance(judged(LOST, retries=retries, backoff_limit=3), NextAttempt) is goes_on


def test_a_record_says_who_when_and_why() -> None:
    found = judged(LOST)
    assert found.record.dump() == {
        "number": 1,
        "model": "qwen",
        "pod": "pod-a",
        "startTime": "1970-01-01T00:00:01Z",
        "completionTime": "1970-01-01T00:00:02Z",
        "outcome": "Lost",
        "reason": "LeaseExpired",
        "message": "runner pod-a stopped renewing its lease",
    }


def test_a_long_failure_message_fits_the_object() -> None:
    endless = ReturnedDelivery("Failed", "pod-a", 1, 2, reason="EngineError", message="x" * 5_000)
    found = judged(endless, backoff_limit=0)
    assert isinstance(found, GiveUp)
    assert len(found.record.message) == 512
    assert len(found.message) <= 1024


def came(how: str, reason: str = "", *, retryable: bool = True) -> ReturnedDelivery:
    return ReturnedDelivery(how, "pod-a", 1_000, 2_000, reason=reason, message="m", retryable=retryable)  # type: ignore[arg-type]


CLASSES = [
    # delivery, charged, counted as a loss, delay with jitter 1 and one retry before
    pytest.param(came("Failed", "RunnerError"), True, False, 2_000, id="an error that may pass"),
    pytest.param(came("Failed", "AttemptTimeout"), True, False, 2_000, id="too slow"),
    pytest.param(came("Failed", "InvalidOutput"), True, False, 2_000, id="no valid document"),
    pytest.param(came("Failed", "EngineLost"), True, True, 2_000, id="the engine went down"),
    pytest.param(came("LeaseExpired"), True, True, 2_000, id="the runner went down"),
    pytest.param(came("Released", "RunnerStopped"), False, False, 0, id="stopped"),
    pytest.param(came("Released", "APIServerUnavailable"), False, False, 0, id="could not be committed"),
    pytest.param(came("Released", "Suspended"), False, False, 0, id="suspended"),
    pytest.param(came("Released", "EngineLost"), False, False, 0, id="given back is no loss, whatever it says"),
    pytest.param(came("Parked"), False, False, 0, id="its result is not to be read"),
]


@pytest.mark.parametrize(("delivery", "charged", "lost", "delay_ms"), CLASSES)
def test_what_follows_by_class_of_error(delivery: ReturnedDelivery, charged: bool, lost: bool, delay_ms: int) -> None:
    found = judged(delivery, retries=1)
    assert isinstance(found, NextAttempt)
    assert (found.charged, found.lost, found.delay_ms) == (charged, lost, delay_ms)


@pytest.mark.parametrize(("delivery", "charged", "lost", "_delay_ms"), CLASSES)
def test_a_suspended_task_pays_for_failures_alone(
    delivery: ReturnedDelivery, charged: bool, lost: bool, _delay_ms: int
) -> None:
    found = judged(delivery, retries=1, suspended=True)
    assert isinstance(found, NextAttempt)
    vanished = delivery.how == "LeaseExpired"
    assert (found.charged, found.lost) == (charged and not vanished, lost and not vanished)


@pytest.mark.parametrize(
    ("delivery", "losses", "reason"),
    [
        pytest.param(came("LeaseExpired"), 1, None, id="the second runner"),
        pytest.param(came("LeaseExpired"), 2, "Poison", id="the third runner"),
        pytest.param(came("Failed", "EngineLost"), 2, "Poison", id="the third engine"),
        pytest.param(came("Failed", "EngineLost"), 9, "Poison", id="a later one"),
        pytest.param(came("Failed", "RunnerError"), 9, None, id="what nobody died of"),
        pytest.param(came("Released", "RunnerStopped"), 9, None, id="given back"),
        pytest.param(came("Failed", "EngineLost", retryable=False), 2, "EngineLost", id="not to be tried again anyway"),
    ],
)
def test_the_third_loss_is_poison_whatever_the_limit(
    delivery: ReturnedDelivery, losses: int, reason: str | None
) -> None:
    found = judged(delivery, losses=losses, backoff_limit=100)
    assert (found.reason if isinstance(found, GiveUp) else None) == reason


def test_poison_says_more_than_a_used_up_limit() -> None:
    found = judged(LOST, losses=2, retries=2, backoff_limit=2)
    assert isinstance(found, GiveUp)
    assert found.reason == "Poison"
    assert found.message == (
        "3 attempts ended with their runner or engine: look at the logs of the pods in status.attempts before it is "
        "replayed; last: LeaseExpired: runner pod-a stopped renewing its lease"
    )
