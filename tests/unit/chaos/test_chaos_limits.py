"""Deadlines, TTLs, quotas and inputs: each violation of one is seen, and what is allowed is not taken for one."""

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.chaos.checker import check
from tests.chaos.journal import Execution
from tests.chaos.judged import Expected, Rules
from tests.chaos.limits import KEPT, OVERDUE
from tests.chaos.phase import Fault, expected_of, nothing_more
from tests.chaos.recorder import Version
from tests.chaos.tenant import Submission
from tests.stub_engine.script import Script

RULES = Rules(lease_seconds=5.0, recovery_seconds=6.5)
ACTIVE = Expected("t", "u", False, "text", active_deadline_seconds=10)
QUEUE = Expected("t", "u", False, "text", queue_deadline_seconds=10)
TTL = Expected("t", "u", False, "text", ttl_seconds=5, webhook=True)


def clock(seconds: int) -> str:
    return f"2026-01-01T00:00:{seconds:02d}Z"


def seen(at: float, revision: int, **members: Any) -> Version:
    return replace(Version("u", "t", revision, at, attempt=1, accept_time=clock(0)), **members)


def failed(at: float, reason: str, ended: int) -> Version:
    return seen(
        at, 9, phase="Failed", outcome="Failed", reason=reason, record=1, attempt=1, completion_time=clock(ended)
    )


def complete(at: float, **members: Any) -> Version:
    text = json.dumps({"uid": "u", "attempt": 1, "execution": "1.1", "name": "t"})
    return seen(at, 9, **{"phase": "Complete", "outcome": "Complete", "text": text, "record": 1, **members})


def ran(began: float, ended: float | None, ending: str | None = "end", uid: str = "u") -> Execution:
    return Execution(uid, 1, "1.1", "pod", 1, began, ended, ending)


def kinds(task: Expected, versions: list[Version], executions: list[Execution], rules: Rules = RULES) -> set[str]:
    return {each.kind for each in check([task], {"u": versions}, executions, rules).violations}


QUEUED = seen(0.0, 1, phase="Queued")


def test_a_deadline_ends_a_task_in_time() -> None:
    assert kinds(ACTIVE, [QUEUED, failed(11.0, "DeadlineExceeded", 11)], [ran(1.0, 11.0, "abort")]) == set()
    assert kinds(QUEUE, [QUEUED, failed(11.0, "QueueDeadlineExceeded", 11)], []) == set()


@pytest.mark.parametrize(("task", "reason"), [(ACTIVE, "DeadlineExceeded"), (QUEUE, "QueueDeadlineExceeded")])
def test_no_deadline_comes_early_by_either_clock(task: Expected, reason: str) -> None:
    assert kinds(task, [QUEUED, failed(11.0, reason, 9)], []) == {"early"}
    assert kinds(task, [QUEUED, failed(8.9, reason, 11)], []) == {"early"}


@pytest.mark.parametrize(("task", "reason"), [(ACTIVE, "DeadlineExceeded"), (QUEUE, "QueueDeadlineExceeded")])
def test_none_comes_late_unless_nobody_was_there(task: Expected, reason: str) -> None:
    late = 10 + OVERDUE + 0.1
    assert kinds(task, [QUEUED, failed(late, reason, 14)], []) == {"overdue"}
    away = replace(RULES, outages=((8.0, 20.0),))
    assert kinds(task, [QUEUED, failed(late, reason, 14)], [], away) == set()
    assert kinds(task, [QUEUED, failed(20 + OVERDUE + 0.1, reason, 24)], [], away) == {"overdue"}
    over_before = replace(RULES, outages=((1.0, 9.0), (30.0, 40.0)))
    assert kinds(task, [QUEUED, failed(late, reason, 14)], [], over_before) == {"overdue"}


def test_a_deadline_that_never_comes_is_overdue() -> None:
    assert kinds(ACTIVE, [QUEUED, complete(20.0)], [ran(1.0, 20.0)]) == {"overdue"}
    assert kinds(QUEUE, [QUEUED, complete(30.0)], [ran(20.0, 30.0)]) == {"overdue"}
    assert kinds(QUEUE, [QUEUED, complete(30.0)], [ran(9.0, 30.0)]) == set()


def test_who_died_with_a_task_has_its_grace() -> None:
    by_operator = [QUEUED, failed(22.0, "DeadlineExceeded", 22)]
    assert kinds(ACTIVE, by_operator, [ran(1.0, None, None)]) == set()
    assert kinds(ACTIVE, by_operator, [ran(1.0, 11.0, "abort")]) == {"overdue"}


def test_a_deadline_that_a_task_has_not_ends_nothing() -> None:
    assert "misended" in kinds(QUEUE, [QUEUED, failed(11.0, "DeadlineExceeded", 11)], [])
    assert "misended" in kinds(ACTIVE, [QUEUED, failed(11.0, "QueueDeadlineExceeded", 11)], [])
    assert "misended" in kinds(QUEUE, [QUEUED, failed(11.0, "QueueDeadlineExceeded", 11)], [ran(1.0, 11.0, "abort")])


def test_a_timeout_gives_an_attempt_its_time() -> None:
    task = Expected("t", "u", False, "text", attempt_timeout_seconds=10)
    final = replace(failed(12.0, "BackoffLimitExceeded", 12), backoff_limit=0)
    begun = replace(QUEUED, backoff_limit=0)
    assert kinds(task, [begun, final], [ran(1.0, 11.0, "abort")]) == set()
    assert kinds(task, [begun, final], [ran(4.0, 11.0, "abort")]) == {"early"}
    assert kinds(task, [begun, final], [ran(1.0, 11.1 + OVERDUE, "abort")]) == {"overdue"}


def gone(at: float) -> Version:
    return Version("u", "t", 11, at, gone=True)


def test_what_may_not_stay_goes_when_it_is_told() -> None:
    told = complete(3.0, notified=True)
    executions = [ran(0.5, 1.0)]
    assert kinds(TTL, [QUEUED, complete(1.0), told, gone(6.5)], executions) == set()
    assert kinds(TTL, [QUEUED, complete(1.0), told, gone(4.9)], executions) == {"early"}
    assert kinds(TTL, [QUEUED, complete(1.0), gone(6.5)], executions) == {"hushed"}
    assert kinds(TTL, [QUEUED, complete(1.0), told, gone(6.1 + KEPT)], executions) == {"overdue"}
    assert kinds(TTL, [QUEUED, complete(1.0), told], executions) == {"overdue"}
    long_untold = [QUEUED, complete(1.0), replace(told, at=30.0), gone(31.0)]
    assert kinds(TTL, long_untold, executions) == set()


def test_a_ttl_takes_nothing_that_has_not_ended() -> None:
    assert kinds(TTL, [QUEUED, gone(6.5)], []) == {"lost"}
    assert "lost" in kinds(replace(TTL, ttl_seconds=None), [QUEUED, complete(1.0), gone(6.5)], [ran(0.5, 1.0)])


def test_no_more_are_handed_out_than_the_quota_grants() -> None:
    tasks = [Expected(name, name, True, "text") for name in ("a", "b", "c")]
    rules = replace(RULES, quotas=((0.0, 2), (50.0, 1)))

    def found(at: float, *phases: tuple[str, str]) -> list[str]:
        versions: dict[str, list[Version]] = {name: [] for name in ("a", "b", "c")}
        for revision, (name, phase) in enumerate(phases):
            outcome = phase if phase == "Complete" else None
            versions[name].append(Version(name, name, revision, at, phase=phase, outcome=outcome, text=None))
        return [each.kind for each in check(tasks, versions, [], rules).violations if each.kind == "overquota"]

    two = (("a", "Queued"), ("b", "Running"))
    assert found(1.0, *two) == []
    assert found(1.0, *two, ("c", "Waiting"), ("a", "Complete"), ("c", "Queued")) == []
    assert found(1.0, *two, ("c", "Queued"), ("a", "Complete")) == ["overquota"]
    assert found(60.0, *two) == ["overquota"]


def test_no_more_run_than_the_quota_grants() -> None:
    tasks = [Expected(name, name, True, "text") for name in ("a", "b", "c")]
    rules = replace(RULES, quotas=((0.0, 2),))

    def found(*executions: Execution) -> list[str]:
        return [each.kind for each in check(tasks, {}, executions, rules).violations if each.kind == "overquota"]

    assert found(ran(1.0, 5.0, uid="a"), ran(1.0, 5.0, uid="b"), ran(5.0, 9.0, uid="c")) == []
    assert found(ran(1.0, 5.0, uid="a"), ran(1.0, 5.0, uid="a"), ran(2.0, 9.0, uid="c")) == []
    assert found(ran(1.0, 5.0, uid="a"), ran(1.0, 5.0, uid="b"), ran(4.0, 9.0, uid="c")) == ["overquota"]


def test_an_attempt_has_the_input_of_its_hand_out() -> None:
    task = Expected("t", "u", False, "text", inputs=((0.0, "t-before"), (20.0, "t-after")))

    def ended(name: str) -> Version:
        return complete(40.0, text=json.dumps({"uid": "u", "attempt": 1, "execution": "1.1", "name": name}))

    def handed_out(at: float) -> Version:
        return seen(at, 1, phase="Queued")

    executions = [ran(30.0, 39.0)]
    assert kinds(task, [handed_out(5.0), ended("t-before")], executions) == set()
    assert kinds(task, [handed_out(25.0), ended("t-after")], executions) == set()
    assert kinds(task, [handed_out(25.0), ended("t-before")], executions) == {"outdated"}
    assert kinds(task, [handed_out(5.0), ended("t-after")], executions) == {"outdated"}
    assert kinds(task, [handed_out(5.0), ended("t")], executions) == {"foreign"}
    late = replace(task, inputs=((20.0, "t-before"),))
    assert "outdated" in kinds(late, [handed_out(5.0), ended("t-before")], executions)


def test_the_checker_is_told_of_every_limit() -> None:
    spec = {
        "queueDeadlineSeconds": 1,
        "activeDeadlineSeconds": 2,
        "attemptTimeoutSeconds": 3,
        "ttlSecondsAfterFinished": 4,
        "webhook": {},
    }
    submission = Submission("t", Script(ending="fail"), spec=spec, accepted_uid="u", inputs=[(1.0, "x")])
    assert expected_of(submission, "ns") == Expected(
        "t", "u", False, "fail", False, 1, 2, 3, 4, True, ((1.0, "x"),), ("ns/stub",)
    )


def test_a_cheap_fault_strikes_more_than_once_in_a_short_run() -> None:
    fault = Fault("f", "", nothing_more, least=3, most=4)
    assert [fault.rounds(tasks) for tasks in (1, 24, 24 * 4, 24 * 9)] == [3, 3, 4, 4]
