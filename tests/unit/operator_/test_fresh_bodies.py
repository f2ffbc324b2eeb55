"""Which bodies are kept between a watch event and the first look, and for how long."""

from dataclasses import replace
from typing import Any

import pytest

from headrace_operator import fresh
from headrace_operator.fresh import Fresh
from headrace_operator.views import task_view


def body(uid: str = "u", version: str = "7", prompt: str = "say hello", **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "ns", "name": f"task-{uid}", "uid": uid, "resourceVersion": version},
        "spec": {"modelRef": {"name": "m"}, "prompt": prompt},
        "status": status,
    }


def test_a_task_that_nobody_accepted_is_given_once() -> None:
    kept, told = Fresh(), body()
    kept.keep(task_view(told), told)
    assert kept.take(task_view(told)) is told
    assert kept.take(task_view(told)) is None


def test_another_version_than_the_store_knows_is_not_given() -> None:
    kept, told = Fresh(), body()
    kept.keep(task_view(told), told)
    assert kept.take(replace(task_view(told), resource_version="8")) is None
    assert len(kept) == 0


@pytest.mark.parametrize("status", [{"attempt": 1}, {"attempt": 1, "outcome": "Complete"}, {"outcome": "Failed"}])
def test_what_was_accepted_is_not_kept_and_takes_the_older_version_away(status: dict[str, Any]) -> None:
    kept, first, later = Fresh(), body(), body(version="8", **status)
    kept.keep(task_view(first), first)
    kept.keep(task_view(later), later)
    assert len(kept) == 0


def test_what_is_being_deleted_is_not_kept() -> None:
    kept, told = Fresh(), body()
    kept.keep(replace(task_view(told), deleting=True), told)
    assert len(kept) == 0


def test_nothing_is_given_of_a_task_that_the_store_does_not_know() -> None:
    assert Fresh().take(None) is None


def test_bodies_and_their_inputs_are_bounded_and_the_first_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fresh, "BODIES_MAX", 3)
    monkeypatch.setattr(fresh, "INPUT_CHARS_MAX", 25)
    kept = Fresh()
    told = [body("a", prompt="x" * 10), body("b", prompt="x" * 16), body("c", prompt="x" * 15), body("d", prompt="")]
    for each in told:
        kept.keep(task_view(each), each)
    assert [kept.take(task_view(each)) is each for each in told] == [True, False, True, True]
    for each in told:
        kept.keep(task_view(each), each)
    assert len(kept) == 3


def test_messages_and_schema_count_as_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fresh, "INPUT_CHARS_MAX", 20)
    told = body()
    told["spec"] = {"messages": [{"role": "user", "content": "x" * 15}], "output": {"jsonSchema": "x" * 10}}
    kept = Fresh()
    kept.keep(task_view(told), told)
    assert len(kept) == 0
