"""What goes to another model is judged: whose an attempt was, in which order, at whose cost."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from tests.chaos import moves
from tests.chaos.checker import check
from tests.chaos.journal import Execution
from tests.chaos.judged import Expected, Rules
from tests.chaos.recorder import Record, Version
from tests.chaos.reliability import chaos_table

RULES = Rules(lease_seconds=5.0, recovery_seconds=6.5)
TASK = Expected("t", "u", False, "text", models=("ns/local", "ns/a", "ns/b"))


def left(number: int, model: str, *, claimed: bool = False, reason: str = "FellBack") -> Record:
    return Record(number, f"ns/{model}", reason, claimed)


def at(revision: int, attempt: int, model: str, *records: Record, retries: int = 0, **members: object) -> Version:
    version = Version("u", "t", revision, float(revision), attempt=attempt, model=f"ns/{model}", retries=retries)
    return replace(version, records=records, **members)  # type: ignore[arg-type]


def done(revision: int, attempt: int, model: str, *records: Record, by: str = "1.1", retries: int = 0) -> Version:
    text = f'{{"uid": "u", "attempt": {attempt}, "execution": "{by}", "name": "t"}}'
    final = Record(attempt, f"ns/{model}", "Succeeded", claimed=True)
    version = at(revision, attempt, model, *records, final, retries=retries)
    return replace(version, outcome="Complete", text=text, record=attempt)


def ran(attempt: int, model: str, name: str = "1.1") -> Execution:
    return Execution("u", attempt, name, f"pod-{model}", 1, 0.0, 1.0, "end", f"ns/{model}")


def kinds(seen: Sequence[Version], executions: Sequence[Execution], rules: Rules = RULES) -> set[str]:
    return {violation.kind for violation in check([TASK], {"u": seen}, executions, rules).violations}


MOVED = [at(1, 1, "local"), at(2, 2, "a", left(1, "local"))]


def test_a_move_costs_nothing_and_is_counted_apart() -> None:
    seen = [*MOVED, at(3, 3, "b", left(1, "local"), left(2, "a")), done(4, 3, "b", left(1, "local"), left(2, "a"))]
    finding = check([TASK], {"u": seen}, [ran(3, "b")], RULES)
    assert finding.violations == []
    assert (finding.moved, finding.charged, dict(finding.by_model)) == (2, 0, {"ns/b": 1})


def test_retries_of_a_failing_provider_are_charged_and_bounded() -> None:
    seen = [at(1, 1, "a"), at(2, 2, "a", left(1, "a", claimed=True, reason="ProviderUnreachable"), retries=1)]
    seen.append(done(3, 2, "a", retries=1))
    assert kinds(seen, [ran(2, "a")]) == {"overcharged"}
    assert kinds(seen, [ran(2, "a")], replace(RULES, faults=1)) == set()
    assert check([TASK], {"u": seen}, [ran(2, "a")], RULES).charged == 1
    twice = [*seen[:2], at(3, 3, "a", retries=2), done(4, 3, "a", retries=2)]
    assert kinds(twice, [ran(3, "a")], replace(RULES, faults=1)) == {"overcharged"}


@pytest.mark.parametrize(
    ("seen", "executions", "kind"),
    [
        # an attempt that began on another model than the object gave it
        ([*MOVED, done(3, 2, "a", left(1, "local"))], [ran(2, "a"), ran(2, "local", "1.2")], "astray"),
        # the copy that was left in the first queue was taken after all
        ([*MOVED, done(3, 2, "a", left(1, "local"))], [ran(1, "local", "1.2"), ran(2, "a")], "astray"),
        # two models share an attempt
        ([at(1, 1, "local"), at(2, 1, "a", left(1, "local")), done(3, 1, "a")], [ran(1, "a")], "astray"),
        # the model that was left has committed
        ([*MOVED, done(3, 2, "a", left(1, "local"))], [ran(2, "local")], "astray"),
        # back, past the list, and without a word
        ([at(1, 1, "a"), at(2, 2, "local", left(1, "a"))], [], "wandered"),
        ([at(1, 1, "local"), at(2, 2, "other", left(1, "local"))], [], "wandered"),
        ([at(1, 1, "local"), at(2, 2, "a")], [], "wandered"),
        ([at(1, 1, "local"), at(2, 2, "a", left(1, "local", reason="Lost"))], [], "wandered"),
        ([*MOVED, at(3, 2, "a", left(1, "b"))], [], "wandered"),
        ([at(1, 1, "local"), at(2, 2, "a", left(1, "local"), retries=1)], [], "overcharged"),
    ],
)
def test_what_a_move_may_not_be(seen: list[Version], executions: list[Execution], kind: str) -> None:
    assert kind in kinds(seen, executions)


def test_what_ran_before_a_move_is_nobodys_fault() -> None:
    """A runner had it and failed; and Redis may have lost who had it."""
    claimed = left(1, "local", claimed=True)
    seen = [at(1, 1, "local"), at(2, 2, "a", claimed), done(3, 2, "a", claimed)]
    assert kinds(seen, [ran(1, "local", "1.2"), ran(2, "a")]) == set()
    lost = [*MOVED, done(3, 2, "a", left(1, "local"))]
    assert kinds(lost, [ran(1, "local", "1.2"), ran(2, "a")], replace(RULES, flushes=1)) == set()


def test_a_model_may_be_passed_over_and_a_task_that_is_gone_has_none() -> None:
    gone = Version("u", "t", 9, 9.0, gone=True)
    assert moves.count([at(1, 1, "local"), at(2, 2, "b", left(1, "local")), gone]) == 1
    seen = [at(1, 1, "local"), at(2, 2, "b", left(1, "local")), done(3, 2, "b", left(1, "local"))]
    assert kinds(seen, [ran(2, "b")]) == set()


def test_the_table_tells_charges_and_moves_apart_and_reads_reports_that_have_neither() -> None:
    row: dict[str, Any] = dict.fromkeys(
        ("tasks", "strikes", "victims", "lost", "double", "stale", "others", "duplicates_per_strike", "recovery_count"),
        0,
    )
    row |= {"promise": "p", "fault": "f", "recovery_p50": None, "recovery_p99": None, "bound": None, "problems": []}
    report = {"revision": "r", "cpus": 2, "runners": 3, "parallelism": 4, "seed": 1, "tasks": 0, "seconds": 1}
    report |= {"api_away_seconds": 8, "faults": [row, {**row, "charged": 5, "moved": 24}]}
    *_, head, rule, old, present = chaos_table(report).splitlines()
    assert head.count("|") == rule.count("|") == old.count("|") == present.count("|")
    assert "| charged | moved |" in head
    assert "| – | – | 0 |" in old
    assert "| 5 | 24 | 0 |" in present
