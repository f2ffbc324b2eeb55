"""bench-tasks fails when a task is lost, however fast the others were."""

import json
from typing import Any

import pytest

from benchmarks.tasks.judge import broken_promise, is_good, is_terminal


def task(*, outcome: str | None = "Complete", uid: str = "u", attempt: int = 1) -> dict[str, Any]:
    said = json.dumps({"uid": "u", "attempt": 1}) + "xxx"
    status = {"attempt": attempt, "result": {"text": said}, **({"outcome": outcome} if outcome else {})}
    return {"metadata": {"uid": uid}, "status": status}


@pytest.mark.parametrize(
    ("body", "terminal", "good"),
    [
        (task(), True, True),
        (task(outcome=None), False, False),
        (task(outcome="Failed"), True, False),
        (task(uid="another"), True, False),
        (task(attempt=2), True, False),
        ({"metadata": {"uid": "u"}}, False, False),
        ({"metadata": {"uid": "u"}, "status": {"attempt": 1, "outcome": "Complete"}}, True, False),
    ],
)
def test_good_is_complete_with_a_result_of_its_own(body: dict[str, Any], terminal: bool, good: bool) -> None:
    assert (is_terminal(body), is_good(body)) == (terminal, good)


@pytest.mark.parametrize(
    ("terminal", "lost", "broken"), [(5, 0, False), (5, 1, True), (4, 0, True), (6, 0, True), (0, 5, True)]
)
def test_a_promise_is_kept_to_all_or_broken(terminal: int, lost: int, broken: bool) -> None:
    assert bool(broken_promise({"tasks": 5, "terminal": terminal, "lost": lost})) == broken
