"""Each thing that the promise forbids is seen, and what it allows is not taken for it."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos.checker import Expected, Finding, Rules, check
from tests.chaos.journal import Execution, Journal
from tests.chaos.recorder import Version
from tests.chaos.webhooks import Receiver, Told

RULES = Rules(lease_seconds=5.0, recovery_seconds=6.5)


def text(attempt: int = 1, uid: str = "u", execution: str = "1.1") -> str:
    return json.dumps({"uid": uid, "attempt": attempt, "execution": execution})


def a_version(revision: int, attempt: int | None = 1, **members: object) -> Version:
    return replace(Version("u", "t", revision, float(revision), attempt=attempt), **members)  # type: ignore[arg-type]


def done(revision: int, attempt: int = 1, **members: object) -> Version:
    outcome = {"outcome": "Complete", "phase": "Complete", "text": text(attempt), "record": attempt}
    return a_version(revision, attempt, **{**outcome, "completion_time": "then", **members})


def ran(
    attempt: int = 1, ending: str | None = "end", name: str = "1.1", began: float = 0.0, ended: float = 1.0
) -> Execution:
    return Execution("u", attempt, name, "pod", 1, began, None if ending is None else ended, ending)


def judged(
    versions: list[Version], executions: list[Execution], rules: Rules = RULES, **expected: object
) -> tuple[set[str], Finding]:
    task = replace(Expected("t", "u", False, "text"), **expected)  # type: ignore[arg-type]
    finding = check([task], {"u": versions}, executions, rules)
    return {violation.kind for violation in finding.violations}, finding


def test_a_task_that_went_well_is_beyond_reproach() -> None:
    versions = [a_version(1, None), a_version(2), a_version(3, 2), done(4, 2), done(5, 2, notified=True)]
    kinds, finding = judged(versions, [ran(1, None), ran(2)])
    assert (kinds, finding.executions, finding.duplicates) == (set(), 2, 1)


@pytest.mark.parametrize(
    ("versions", "kind"),
    [
        ([], "lost"),
        ([a_version(1), a_version(2, 1, phase="Running")], "lost"),
        ([a_version(1), a_version(2, None, gone=True)], "lost"),
        ([a_version(1), done(2), done(3, text=text(execution="1.2"))], "double"),
        ([a_version(1), done(2), a_version(3, outcome="Failed")], "double"),
        ([a_version(1), done(2), a_version(3)], "double"),
        ([a_version(1), done(2), done(3, completion_time="later")], "double"),
        ([a_version(1), a_version(2, 2), done(3, 2, text=text(1))], "stale"),
        ([a_version(1), a_version(2, 2), done(3, 2, record=1, text=text(2))], "stale"),
        ([a_version(1, 2), a_version(2, 1), done(3, 1)], "stale"),
        ([a_version(1), done(2, text=text(uid="another"))], "foreign"),
        ([a_version(1), done(2, text=text(execution="9.9"))], "unbacked"),
        ([a_version(1), done(2, text=None)], "unbacked"),
        ([a_version(1), a_version(2, outcome="Failed", reason="BackoffLimitExceeded")], "unjust"),
        ([a_version(1), a_version(2, outcome="Cancelled", reason="Cancelled")], "unjust"),
    ],
)
def test_what_an_object_may_not_say(versions: list[Version], kind: str) -> None:
    assert kind in judged(versions, [ran()])[0]


def test_a_withdrawn_task_owes_no_outcome() -> None:
    assert judged([a_version(1), a_version(2, None, gone=True)], [ran(1, "abort")], withdrawn=True)[0] == set()


def test_an_end_long_after_the_deletion_is_a_ghost() -> None:
    gone = [a_version(1), a_version(2, None, gone=True)]
    assert judged(gone, [ran(ended=2 + 6.6)], withdrawn=True)[0] == {"ghost"}
    assert judged(gone, [ran(ended=2 + 6.4)], withdrawn=True)[0] == set()


def test_a_cancelled_task_keeps_what_it_has() -> None:
    final = done(2, outcome="Cancelled", reason="Cancelled")
    assert judged([a_version(1), final], [ran(1, "abort")], cancelled=True)[0] == set()
    assert judged([a_version(1), final], [ran(1, None)], cancelled=True)[0] == {"unbacked"}


def test_one_attempt_runs_once_unless_redis_forgot_it() -> None:
    twice = [ran(ended=2.0), ran(name="1.2", began=1.0, ended=2.0)]
    versions = [a_version(1), done(2)]
    assert judged(versions, twice)[0] == {"twice"}
    assert judged(versions, twice, replace(RULES, forgets=True))[0] == set()
    beside = [ran(ended=7.0), ran(name="1.2", began=1.0, ended=8.0)]
    assert judged(versions, beside, replace(RULES, forgets=True))[0] == {"overlap"}


def test_failures_are_counted_against_the_limit() -> None:
    versions = [a_version(1, backoff_limit=2), a_version(2, outcome="Failed", reason="BackoffLimitExceeded")]
    failures = [ran(attempt, "fail") for attempt in (1, 2, 3)]
    assert judged(versions, failures, ending="fail")[0] == set()
    failures.append(ran(4, "fail"))
    assert judged(versions, failures, ending="fail")[0] == {"overcharged"}
    assert judged(versions, failures, replace(RULES, flushes=1), ending="fail")[0] == set()


def test_an_engine_dies_three_times_of_one_task() -> None:
    versions = [a_version(1), a_version(2, outcome="Failed", reason="Poison")]
    deaths = [ran(attempt, None) for attempt in (1, 2, 3)]
    assert judged(versions, deaths, ending="crash")[0] == set()
    assert judged(versions, [*deaths, ran(4, None)], ending="crash")[0] == {"overcharged"}


@pytest.mark.parametrize(
    ("told", "leaked", "kinds"),
    [
        ([Told("u", "Complete", 1, True, True)], 0, set()),
        ([Told("u", "Complete", 1, True, False), Told("u", "Complete", 1, True, True)], 0, set()),
        ([], 0, {"untold"}),
        ([Told("u", "Complete", 1, True, False)], 0, {"untold"}),
        ([Told("u", "Failed", 1, True, True)], 0, {"mistold"}),
        ([Told("u", "Complete", 1, False, True)], 0, {"unsigned"}),
        ([Told("u", "Complete", 1, True, True)], 1, {"leak"}),
    ],
)
def test_what_a_receiver_of_webhooks_sees(told: list[Told], leaked: int, kinds: set[str]) -> None:
    receiver = Receiver(told=told, leaked=leaked)
    assert {violation.kind for violation in receiver.judge([done(2)])} == kinds


def test_a_killed_engine_runs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    start = {"event": "start", "uid": "u", "attempt": 1, "pod": "pod", "at": 1.0}
    # The stub engine's own name in its arguments is what tells that it lives.
    with subprocess.Popen([sys.executable, "-c", "input()", "stub_engine"], stdin=subprocess.PIPE) as engine:
        path.write_text(
            "".join(json.dumps({**start, "execution": f"e{i}", "pid": engine.pid}) + "\n" for i in range(2))
        )
        with path.open("a") as file:
            file.write(json.dumps({**start, "event": "end", "execution": "e0", "pid": engine.pid}) + "\n")
        journal = Journal(path)
        assert [each.name for each in journal.running({"pod"})] == ["e1"]
        assert journal.running({"another"}) == []
        engine.kill()
    assert journal.running() == []
    journal.close()
