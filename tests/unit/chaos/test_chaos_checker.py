"""Each thing that the promise forbids is seen, and what it allows is not taken for it."""

import asyncio
import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from headrace_crds import task as task_module
from tests.chaos.checker import Expected, Finding, Rules, check
from tests.chaos.journal import Execution, Journal
from tests.chaos.mutants import verdict
from tests.chaos.mutations import Edit, Mutant
from tests.chaos.phase import impossible
from tests.chaos.processes import Kept
from tests.chaos.recorder import FINAL, Version
from tests.chaos.report import quantile, tail_name
from tests.chaos.webhooks import Receiver, Told
from tests.chaos.world import unexpected, until
from tests.stub_engine.script import Script

RULES = Rules(lease_seconds=5.0, recovery_seconds=6.5)


def text(attempt: int = 1, uid: str = "u", execution: str = "1.1", name: str = "t") -> str:
    return json.dumps({"uid": uid, "attempt": attempt, "execution": execution, "name": name})


def a_version(revision: int, attempt: int | None = 1, **members: object) -> Version:
    return replace(Version("u", "t", revision, float(revision), attempt=attempt), **members)  # type: ignore[arg-type]


def done(revision: int, attempt: int = 1, **members: object) -> Version:
    outcome = {"outcome": "Complete", "phase": "Complete", "text": text(attempt), "record": attempt}
    return a_version(revision, attempt, **{**outcome, "completion_time": "then", **members})


def ran(
    attempt: int = 1, ending: str | None = "end", name: str = "1.1", began: float = 0.0, ended: float = 1.0
) -> Execution:
    return Execution("u", attempt, name, "pod", 1, began, None if ending is None else ended, ending)


def still_running(at: float) -> Execution:
    return replace(ran(ending=None), ended=at)


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
        ([a_version(1), done(2, text=text(name="another"))], "foreign"),
        ([a_version(1), done(2), done(3, phase="Running")], "double"),
        ([a_version(1), done(2), done(3, losses=1)], "double"),
        ([a_version(1), done(2, final=(("usage", "1"),)), done(3, final=(("usage", "2"),))], "double"),
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
    assert judged(gone, [ran(ending="abort", ended=2 + 6.6)], withdrawn=True)[0] == {"ghost"}
    assert judged(gone, [ran(ending=None, began=2 + 6.6)], withdrawn=True)[0] == {"ghost"}
    assert judged(gone, [still_running(at=2 + 6.6)], withdrawn=True)[0] == {"ghost"}
    assert judged(gone, [ran(ending=None, began=1)], withdrawn=True)[0] == set()


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


@pytest.mark.parametrize("ending", ["end", "abort", None])
def test_who_lost_a_task_stops(ending: str | None) -> None:
    versions = [a_version(1), a_version(2, 2), done(3, 2, text=text(2, execution="1.2"))]
    successor = ran(2, name="1.2", began=6.0, ended=7.0)
    assert judged(versions, [replace(ran(1, ending), ended=6 + 6.6), successor])[0] == {"overlap"}
    assert judged(versions, [replace(ran(1, ending), ended=6 + 6.4), successor])[0] == set()
    assert judged(versions, [ran(1, None), successor])[0] == set()


def test_of_one_submission_there_is_one_object() -> None:
    task, went_well = Expected("t", "u", False, "text"), [a_version(1), done(2)]
    another = replace(done(3), uid="u2", name="elsewhere")
    finding = check([task], {"u": went_well, "u2": [replace(another, submission="t")]}, [ran()], RULES)
    assert [violation.kind for violation in finding.violations] == ["double"]
    assert not check([task], {"u": went_well, "u2": [replace(another, submission="s")]}, [ran()], RULES).violations


def test_what_is_cancelled_stops() -> None:
    asked = [a_version(1), a_version(2, cancel=True), done(9, cancel=True)]
    assert judged(asked, [ran(ended=2 + 4.1)], cancelled=True)[0] == {"uncancelled"}
    assert judged(asked, [still_running(at=2 + 4.1), ran()], cancelled=True)[0] >= {"uncancelled"}
    assert judged(asked, [ran(ended=2 + 3.9)], cancelled=True)[0] == set()
    assert judged([a_version(1), done(2), done(3, cancel=True)], [ran(ended=30.0)], cancelled=True)[0] == set()


def test_a_suspension_is_not_charged() -> None:
    killed = replace(RULES, deaths=1, parallelism=2)
    final = done(3, 3, text=text(3, execution="1.3"))
    executions = [ran(1, "abort"), ran(2, "abort", "1.2"), ran(3, name="1.3")]
    assert judged([a_version(1), final], executions, killed)[0] == set()
    assert judged([a_version(1), replace(final, retries=1, losses=1)], executions, killed)[0] == set()
    failed = a_version(3, 3, outcome="Failed", reason="Poison")
    assert judged([a_version(1), failed], executions[:2], killed)[0] == {"unjust"}
    assert judged([a_version(1), failed], executions[:2])[0] == set()
    assert judged([a_version(1), replace(final, retries=1)], executions)[0] == {"overcharged"}
    assert judged([a_version(1), replace(final, retries=2, losses=2)], executions, killed)[0] == {"overcharged"}
    assert judged([a_version(1), replace(final, retries=2, losses=2)], executions)[0] == set()


def test_a_killed_runner_costs_no_more_than_what_it_ran() -> None:
    names = ("a", "b", "c")
    versions = {
        name: [
            replace(done(2, text=text(uid=name, execution=name, name=name)), uid=name, name=name, retries=1, losses=1)
        ]
        for name in names
    }
    executions = [replace(ran(name=name), uid=name) for name in names]
    tasks = [Expected(name, name, False, "text") for name in names]
    rules = replace(RULES, deaths=1, parallelism=2)
    assert [each.kind for each in check(tasks, versions, executions, rules).violations] == ["overcharged"]
    assert not check(tasks[:2], versions, executions, rules).violations


@pytest.mark.parametrize(("ending", "ran_ending", "due"), [("fail", "fail", 3), ("crash", None, 3)])
def test_what_is_given_up_was_tried(ending: str, ran_ending: str | None, due: int) -> None:
    versions = [a_version(1, backoff_limit=2), a_version(2, outcome="Failed", reason="Poison")]
    tries = [ran(attempt, ran_ending, f"1.{attempt}") for attempt in range(1, due + 1)]
    assert judged(versions, tries, ending=ending)[0] == set()
    assert judged(versions, tries[:1], ending=ending)[0] == {"unjust"}


def test_a_run_that_stopped_loses_nothing() -> None:
    assert judged([a_version(1)], [], replace(RULES, settled=False))[0] == set()


def a_report(kinds: dict[str, int], stopped: str = "") -> dict[str, Any]:
    return {"faults": [{"kinds": kinds, "stopped": stopped}]}


def test_a_run_that_stopped_is_no_verdict_on_a_mutant() -> None:
    mutant = Mutant("m", "", (Edit("", "", ""),), "none", frozenset({"lost"}))
    assert verdict(mutant, a_report({"lost": 1}), 1.0).caught
    assert not verdict(mutant, a_report({"double": 1}), 1.0).caught
    stopped = verdict(mutant, a_report({"lost": 1}, "another leader"), 1.0)
    assert (stopped.caught, stopped.stopped) == (False, "another leader")
    unchanged = replace(mutant, edits=())
    assert verdict(unchanged, a_report({}, "another leader"), 1.0).caught
    assert not verdict(unchanged, a_report({}), 1.0).caught


def test_more_cannot_run_than_there_are_sequences() -> None:
    victims = [ran(name=f"1.{number}") for number in range(4)]

    def four(_: str) -> int:
        return 4

    assert impossible(victims, four) == ""
    assert "5 executions" in impossible([*victims, ran(name="1.5")], four)
    assert "dead engine" in impossible([*victims[:1], replace(ran(), pid=2)], four)
    assert impossible([*victims, replace(ran(), pod="pod-1", pid=2)], four) == ""


def test_what_may_stay_in_redis_speaks_of_no_task() -> None:
    prefix = "headrace:{chaos-1/stub}:"
    assert unexpected([f"{prefix}service", f"{prefix}report:pod-0", f"{prefix}requests:17"]) == set()
    kinds = ("index", "entry:u", "envelope:u", "leases", "queue:Task:ns", "ring:Task", "parked:u", "returned")
    assert unexpected(f"{prefix}{kind}" for kind in kinds) == {kind.partition(":")[0] for kind in kinds}


def test_a_version_holds_what_is_final_and_whose_prompt_it_is() -> None:
    assert set(FINAL) == set(task_module._FINAL)
    status = {"outcome": "Complete", "usage": {"b": 1, "a": 2}, "observedGeneration": 7}
    task = {"metadata": {"uid": "u", "name": "x"}, "spec": {"prompt": Script(name="t").line(), "cancel": True}}
    version = Version.of({**task, "status": status}, 1, 1.0)
    assert version.final == (("outcome", '"Complete"'), ("usage", '{"a": 2, "b": 1}'))
    assert (version.submission, version.cancel) == ("t", True)
    assert Version.of({**task, "status": {"usage": {}}}, 1, 1.0).final == ()


def test_the_99th_percentile_of_few_is_their_greatest() -> None:
    assert quantile([float(number) for number in range(99)], 0.99) == 98.0
    assert (tail_name(99), tail_name(100)) == ("max", "p99")


async def test_one_that_is_held_back_is_not_started_again(tmp_path: Path) -> None:
    kept = Kept("k", ("/bin/sleep", "60"), {}, tmp_path / "log", restart_seconds=0.0)
    await kept.start()
    kept.hold_back()
    kept.kill()
    assert kept._process is not None
    assert kept._keeper is not None
    await kept._process.wait()
    done_waiting, _ = await asyncio.wait({kept._keeper}, timeout=0.2)
    assert (done_waiting, kept.starts) == (set(), 1)
    kept.let_go()

    async def started_again() -> bool:
        return kept.starts == 2

    await until(started_again, "a second start", 10.0)
    await kept.end()


def test_a_wrong_clock_is_read_from_what_was_logged(tmp_path: Path) -> None:
    kept = Kept("r", (), {}, tmp_path / "log")
    kept._started_wall = datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp()
    kept.log.write_text('no JSON\n{"timestamp": "2026-01-01T13:00:00Z"}\n')
    assert kept.clock_offset_seconds() == 3600.0
    kept.log.write_text("")
    assert kept.clock_offset_seconds() is None


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
    # Among four: with all, with a half, alone; then alone twice.
    tries = [ran(1, None), ran(1, None, began=1.0), ran(1, None, began=2.0), ran(2, None), ran(3, None)]
    deaths = [replace(each, pid=pid) for pid, each in enumerate(tries)]
    assert judged(versions, deaths, ending="crash")[0] == set()
    assert judged(versions, [*deaths, ran(4, None)], ending="crash")[0] == {"overcharged"}


def test_an_attempt_goes_on_after_its_engines_death_on_the_pod_that_holds_it() -> None:
    again = replace(ran(name="1.2", began=1.0, ended=2.0), pid=2)
    versions = [a_version(1), done(2, text=text(execution="1.2"))]
    assert judged(versions, [ran(ending=None), again])[0] == set()
    assert judged(versions, [ran(ending=None), replace(again, pod="another")])[0] == {"twice"}
    assert judged(versions, [ran(ending=None), replace(again, pid=1)])[0] == {"twice"}, "its engine lives"
    halves = [ran(ending=None), replace(ran(ending=None, began=0.5), pid=2), again]
    assert judged(versions, halves)[0] == {"twice"}, "the second one's engine lives"
    assert judged(versions, [*halves[:2], replace(again, pid=3)])[0] == set()
    assert judged(versions, [ran(ending="abort"), again])[0] == {"twice"}


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
    argv = [sys.executable, "-c", "print(flush=True); input()", "stub_engine"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as engine:
        assert engine.stdout is not None
        engine.stdout.readline()  # its arguments are in /proc by then
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


@pytest.mark.parametrize(
    ("record", "found"),
    [
        ({"number": 2, "outcome": "Failed", "completionTime": "12:00"}, 2),
        ({"number": 1, "outcome": "Lost", "completionTime": "12:00"}, None),
        ({"number": 1, "outcome": "Failed", "completionTime": "11:59"}, None),
    ],
)
def test_an_end_in_the_queue_is_no_attempts(record: dict[str, object], found: int | None) -> None:
    status = {"attempt": 2, "outcome": "Failed", "completionTime": "12:00", "attempts": [record]}
    task = {"metadata": {"uid": "u", "name": "t"}, "spec": {}, "status": status}
    assert Version.of(task, 1, 0.0).record == found
