"""Cancel, suspend and deadlines: one row per situation, and the clocks they go by."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from operator_cases import (
    NAME_CONFLICT,
    NO_MODEL,
    NOW_MS,
    World,
    came_back,
    conditions_of,
    finished,
    held,
    queued,
    snapshot,
    summary,
    suspended,
    task,
    task_body,
    waiting,
)

from headrace_crds.outcome import timestamp
from headrace_crds.task import LLMTask
from headrace_operator.decide import clocks
from headrace_operator.decide.plans import SETTLED
from headrace_operator.decide.task import decide

ASKED_MS = NOW_MS - 10_000
ENDED = {"phase": "Cancelled", "attempt": 1, "retries": 0, "reason": "Cancelled", "outcome": "Cancelled"}
OVER = {"phase": "Failed", "attempt": 1, "retries": 0, "reason": "DeadlineExceeded", "outcome": "Failed"}
TOO_LATE = {**OVER, "reason": "QueueDeadlineExceeded"}
STILL = {"phase": "Suspended", "attempt": 1, "retries": 0, "reason": "Suspended"}
NEXT = {"phase": "Suspended", "attempt": 2, "retries": 0, "reason": "Suspended"}
UNLESS_LEASED = {"take_back": "unless leased"}
FROM_HOLDER = {"take_back": "from holder"}
RUNNING = queued(phase="Running")


def cancel(status: Any, **more: Any) -> Any:
    return snapshot(task(status, cancel=True, **more.pop("spec", {})), **more)


def suspend(status: Any, **more: Any) -> Any:
    return snapshot(task(status, suspend=True, **more.pop("spec", {})), **more)


def over(status: Any, *, by_seconds: int = 1, **more: Any) -> Any:
    """A task whose active deadline passed so long ago: 60 s since acceptance, of which one is the timestamp's."""
    spec = {"activeDeadlineSeconds": 59 - by_seconds, **more.pop("spec", {})}
    return snapshot(task(status, **spec), **more)


def overdue(status: Any, **more: Any) -> Any:
    return snapshot(task(status, queueDeadlineSeconds=58, **more.pop("spec", {})), **more)


ROWS = [
    # cancel
    pytest.param(cancel(None), {**ENDED, **UNLESS_LEASED}, id="cancelled before it is accepted: one write"),
    pytest.param(
        cancel(None, spec={"output": {"jsonSchema": "[]"}}),
        {**ENDED, **UNLESS_LEASED},
        id="cancel outranks the judgement",
    ),
    pytest.param(cancel(waiting(), model=NO_MODEL), {**ENDED, **UNLESS_LEASED}, id="cancelled while it waits"),
    pytest.param(cancel(queued(), held=held("Queued")), {**ENDED, **UNLESS_LEASED}, id="cancelled in the queue"),
    pytest.param(cancel(queued(), held=held("Delayed")), {**ENDED, **UNLESS_LEASED}, id="cancelled in backoff"),
    pytest.param(cancel(queued()), {**ENDED, **UNLESS_LEASED}, id="cancelled while the bus holds nothing"),
    pytest.param(cancel(suspended()), {**ENDED, **UNLESS_LEASED}, id="cancel outranks suspend"),
    pytest.param(
        cancel(RUNNING, held=came_back("Released")),
        {**ENDED, **UNLESS_LEASED, "record": (1, "Released", "Released")},
        id="given back when it was cancelled: the attempt has its record",
    ),
    pytest.param(
        cancel(RUNNING, held=came_back("LeaseExpired")),
        {**ENDED, **UNLESS_LEASED, "losses": 1, "record": (1, "Lost", "LeaseExpired")},
        id="lost when it was cancelled: a loss, and no retry",
    ),
    pytest.param(cancel(queued(), held=held("Leased")), {"interrupt": "Cancel"}, id="leased: its runner is told"),
    pytest.param(
        cancel(RUNNING, held=held("Leased"), cancel_asked_ms=NOW_MS - 9_999), {"interrupt": "Cancel"}, id="told again"
    ),
    pytest.param(
        cancel(RUNNING, held=held("Leased"), cancel_asked_ms=ASKED_MS),
        {**ENDED, **FROM_HOLDER, "reason": "CancelUnanswered", "record": (1, "Lost", "CancelUnanswered")},
        id="not answered for ten seconds",
    ),
    pytest.param(
        cancel(queued(2), held=held("Leased", 1)),
        {**ENDED, **FROM_HOLDER, "attempt": 2},
        id="who holds an earlier attempt is not waited for",
    ),
    pytest.param(cancel(finished()), {}, id="a result that was committed before the cancel stays"),
    # queue deadline
    pytest.param(overdue(waiting(), model=NO_MODEL), {**TOO_LATE, **UNLESS_LEASED}, id="overdue without a model"),
    pytest.param(overdue(queued(), held=held("Queued")), {**TOO_LATE, **UNLESS_LEASED}, id="overdue in the queue"),
    pytest.param(overdue(queued()), {**TOO_LATE, **UNLESS_LEASED}, id="overdue after a flush"),
    pytest.param(overdue(queued(), held=held("Leased")), {}, id="claimed: the queue deadline is over"),
    pytest.param(
        overdue(queued(startTime=timestamp(NOW_MS - 9_000)), held=held("Queued")), {}, id="it was claimed once: no more"
    ),
    pytest.param(
        overdue(queued(), held=came_back("Released")),
        {"phase": "Queued", "attempt": 2, "retries": 0, "reason": "Queued", "enqueue": 2}
        | {"record": (1, "Released", "Released")},
        id="claimed and given back: the queue deadline is over",
    ),
    pytest.param(
        overdue(suspended(since_seconds=30)),
        {"phase": "Queued", "attempt": 1, "retries": 0} | {"reason": "Queued", "enqueue": 1},
        id="half of the time it was suspended: resumed",
    ),
    # active deadline
    pytest.param(over(waiting(), model=NO_MODEL), {**OVER, **UNLESS_LEASED}, id="over without a model"),
    pytest.param(over(queued(), held=held("Queued")), {**OVER, **UNLESS_LEASED}, id="over in the queue"),
    pytest.param(over(queued(), held=held("Queued"), by_seconds=0), {**OVER, **UNLESS_LEASED}, id="over just then"),
    pytest.param(over(queued(), held=held("Queued"), by_seconds=-1), {}, id="a second left"),
    pytest.param(over(RUNNING, held=held("Leased")), {}, id="over under a lease: its runner ends it"),
    pytest.param(
        over(RUNNING, held=held("Leased"), by_seconds=10),
        {**OVER, **FROM_HOLDER, "record": (1, "Lost", "DeadlineExceeded")},
        id="its runner did not",
    ),
    pytest.param(
        over(RUNNING, held=came_back("Failed")),
        {**OVER, **UNLESS_LEASED, "record": (1, "Failed", "EngineError")},
        id="it failed, and there is no time for another attempt",
    ),
    pytest.param(
        over(RUNNING, held=came_back("Failed", retryable=False)),
        {**OVER, "reason": "EngineError", "remove": True, "record": (1, "Failed", "EngineError")},
        id="what cannot be cured says more than the deadline",
    ),
    pytest.param(over(suspended(since_seconds=40), spec={"suspend": True}), {}, id="suspended: the clock stands still"),
    pytest.param(
        over(RUNNING, held=came_back("Parked")),
        {"phase": "Queued", "attempt": 2, "retries": 0, "reason": "Queued", "enqueue": 2}
        | {"record": (1, "Released", "Released")},
        id="a result that was generated in time is not dropped for the deadline",
    ),
    pytest.param(over(queued(suspendedSeconds=2), held=held("Queued")), {}, id="earlier suspensions do not count"),
    # suspend
    pytest.param(suspend(None), STILL, id="suspended from the beginning: accepted and kept"),
    pytest.param(suspend(None, model=NO_MODEL), STILL, id="suspended from the beginning, no model"),
    pytest.param(suspend(waiting(3), model=NO_MODEL), {**STILL, "attempt": 3}, id="waiting: the attempt stays"),
    pytest.param(
        suspend(queued(), held=held("Queued")),
        {**NEXT, **UNLESS_LEASED, "record": (1, "Released", "Suspended")},
        id="queued: taken back, unless somebody takes it first",
    ),
    pytest.param(
        suspend(queued()), {**NEXT, **UNLESS_LEASED, "record": (1, "Released", "Suspended")}, id="the bus holds nothing"
    ),
    pytest.param(suspend(RUNNING, held=held("Leased")), {"interrupt": "Suspend"}, id="leased: its runner is told"),
    pytest.param(
        suspend(RUNNING, held=came_back("Released", reason="Suspended")),
        {**NEXT, "remove": True, "record": (1, "Released", "Suspended")},
        id="its runner let go",
    ),
    pytest.param(
        suspend(RUNNING, held=came_back("LeaseExpired")),
        {**NEXT, "remove": True, "record": (1, "Lost", "LeaseExpired")},
        id="its runner vanished meanwhile: not charged",
    ),
    pytest.param(
        suspend(RUNNING, held=came_back("Failed")),
        {**NEXT, "retries": 1, "remove": True, "record": (1, "Failed", "EngineError")},
        id="it failed meanwhile: charged",
    ),
    pytest.param(suspend(suspended()), {}, id="stays suspended"),
    pytest.param(suspend(suspended(), model=NO_MODEL), {}, id="stays suspended without a model"),
    pytest.param(suspend(suspended(), held=held("Queued")), {"remove": True}, id="a suspended task keeps no entry"),
    # resume
    pytest.param(
        snapshot(task(suspended(2))),
        {"phase": "Queued", "attempt": 2, "retries": 0, "reason": "Queued", "enqueue": 2},
        id="resumed: handed out",
    ),
    pytest.param(
        snapshot(task(suspended(2)), model=NO_MODEL),
        {"phase": "Waiting", "attempt": 2, "retries": 0, "reason": "ModelNotFound"},
        id="resumed without a model: waits",
    ),
    pytest.param(
        snapshot(task(suspended(2)), model=NAME_CONFLICT),
        {"phase": "Waiting", "attempt": 2, "retries": 0, "reason": "ModelNotReady"},
        id="resumed for a model that never serves: waits",
    ),
]


@pytest.mark.parametrize(("seen", "want"), ROWS)
def test_interruptions(seen: Any, want: dict[str, Any]) -> None:
    assert summary(decide(seen)) == want


def test_a_suspension_is_told_and_ends_counted() -> None:
    world = World(task_body(queued(), suspend=True), held("Queued"))
    world.apply(decide(world.snapshot()))
    assert conditions_of(world.status)["Suspended"] == ("True", "Suspended")
    assert world.status["suspendTime"] == timestamp(NOW_MS)
    assert "runner" not in world.status

    assert world.body is not None
    since = {"suspendTime": timestamp(NOW_MS - 7_000), "suspendedSeconds": 5}
    world.body = {**world.body, "spec": {**world.body["spec"], "suspend": False}, "status": {**world.status, **since}}
    world.apply(decide(world.snapshot()))
    assert conditions_of(world.status)["Suspended"] == ("False", "Resumed")
    assert "suspendTime" not in world.status
    assert world.status["suspendedSeconds"] == 12


def test_an_edit_while_it_is_suspended_is_observed_in_one_write() -> None:
    world = World(task_body(suspended(), generation=3, suspend=True))
    world.apply(decide(world.snapshot()))
    assert (world.status["observedGeneration"], world.status["attempt"], world.status_writes) == (3, 1, 1)
    assert decide(world.snapshot()) == SETTLED


def test_acceptance_starts_the_clocks() -> None:
    for model in (NO_MODEL, NAME_CONFLICT, None):
        more = {} if model is None else {"model": model}
        status = decide(snapshot(task(), **more)).status
        assert status is not None
        assert status["acceptTime"] == timestamp(NOW_MS)
    edited = decide(snapshot(task(queued()), model=NO_MODEL, held=held("Queued"))).status
    assert edited is not None
    assert "acceptTime" not in edited


@pytest.mark.parametrize("events", [None, ["Cancelled"], ["Failed", "Cancelled"], ["Complete"]])
def test_what_the_operator_ends_goes_into_the_outbox(events: list[str] | None) -> None:
    webhook = {"url": "https://example.com/hook", "secretRef": {"name": "hook", "key": "key"}, "events": events}
    for seen, outcome in (
        (cancel(waiting(), spec={"webhook": webhook}), "Cancelled"),
        (over(waiting(), spec={"webhook": webhook}), "Failed"),
        (snapshot(task(queued(), webhook=webhook, backoffLimit=0), held=came_back("Failed")), "Failed"),
    ):
        told = conditions_of(decide(seen).status).get("Notified")
        assert told == (("False", "NotDelivered") if events is None or outcome in events else None)


def test_who_tells_a_runner_looks_again() -> None:
    for seen in (cancel(RUNNING, held=held("Leased")), suspend(RUNNING, held=held("Leased"))):
        plan = decide(seen)
        assert plan.status is None, "nothing is written before somebody answers"
        assert plan.requeue_after_seconds is not None
        assert plan.requeue_after_seconds <= 2
    assert decide(over(RUNNING, held=held("Leased"), by_seconds=4)).requeue_after_seconds == 6.0


@given(
    deadline=st.integers(1, 86_400),
    queue_deadline=st.none() | st.integers(1, 86_400),
    before=st.integers(0, 100_000),
    passed_ms=st.integers(0, 200_000_000),
)
def test_a_task_is_looked_at_when_its_next_deadline_passes_and_not_before(
    deadline: int, queue_deadline: int | None, before: int, passed_ms: int
) -> None:
    spec = {"activeDeadlineSeconds": deadline, "queueDeadlineSeconds": queue_deadline}
    body = task_body({**queued(), "acceptTime": timestamp(NOW_MS), "suspendedSeconds": before}, **spec)
    seen, now_ms = LLMTask.model_validate(body), NOW_MS + passed_ms
    left = clocks.next_look_seconds(seen, now_ms)
    ends = [NOW_MS + 1_000 + (before + each) * 1000 for each in (deadline, queue_deadline) if each is not None]
    assert left == min(((end - now_ms) / 1000 for end in ends if end > now_ms), default=None)


def test_a_suspended_or_finished_task_has_no_deadline_ahead() -> None:
    assert clocks.next_look_seconds(task(suspended()), NOW_MS) is None
    assert clocks.next_look_seconds(task(finished()), NOW_MS) is None
    assert clocks.next_look_seconds(task(), NOW_MS) is None
    started = task(queued(startTime=timestamp(NOW_MS)), queueDeadlineSeconds=70)
    assert clocks.next_look_seconds(started, NOW_MS) == 86_400 + 1 - 60


@given(
    suspensions=st.lists(st.tuples(st.integers(0, 5_000), st.integers(0, 5_000)), max_size=20),
    offset_ms=st.integers(0, 999),
)
def test_suspending_never_costs_a_task_time(suspensions: list[tuple[int, int]], offset_ms: int) -> None:
    now_ms, total_ms = NOW_MS + offset_ms, 0
    body = task_body({**queued(), "acceptTime": timestamp(now_ms)})
    for running_ms, suspended_ms in suspensions:
        now_ms += running_ms
        body["status"] |= clocks.suspended(LLMTask.model_validate(body), now_ms)
        now_ms, total_ms = now_ms + suspended_ms, total_ms + suspended_ms
        body["status"] |= clocks.running(LLMTask.model_validate(body), now_ms)
    end_ms = clocks.active_end_ms(LLMTask.model_validate(body))
    assert end_ms is not None
    assert end_ms >= NOW_MS + offset_ms + total_ms + 86_400_000


@pytest.mark.parametrize("text", ["nonsense", "0001-01-01T00:00:00+99:00", ""])
def test_a_clock_that_cannot_be_read_raises_nothing(text: str) -> None:
    seen = task({**queued(), "acceptTime": text, "suspendTime": text})
    assert clocks.active_end_ms(seen) is None
    assert clocks.running(seen, NOW_MS)["suspendedSeconds"] == 0
