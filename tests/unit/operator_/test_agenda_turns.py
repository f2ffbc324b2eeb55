"""Turns between namespaces, and keys that are given up."""

import asyncio
from itertools import pairwise

import pytest
from structlog.testing import capture_logs

from headrace_operator.agenda import REMEMBERED_FAILURES, Agenda
from headrace_operator.errors import ObjectInvalid
from headrace_operator.refs import ModelRef
from headrace_operator.workqueue import GIVE_UP_AFTER, WorkQueue


def take(agenda: Agenda[ModelRef], now: float) -> ModelRef:
    key = agenda.take(now)
    assert key is not None
    agenda.finish(key, now)
    return key


def test_a_namespace_s_hundred_thousand_stand_before_nobody() -> None:
    agenda: Agenda[ModelRef] = Agenda()
    for number in range(100_000):
        agenda.add(ModelRef("greedy", str(number)), 0.0)
    agenda.add(ModelRef("modest", "a"), 1.0)
    agenda.add(ModelRef("modest", "b"), 1.0)
    agenda.add(ModelRef("third", "a"), 1.0)
    taken = [take(agenda, 2.0) for _ in range(7)]
    assert [key.namespace for key in taken] == ["greedy", "modest", "third", "greedy", "modest", "greedy", "greedy"]


def test_who_comes_back_stands_behind_those_who_wait() -> None:
    """A namespace whose line runs dry each time does not take every second turn from two others."""
    agenda: Agenda[ModelRef] = Agenda()
    for namespace in ("a", "b"):
        for number in range(20):
            agenda.add(ModelRef(namespace, str(number)), 0.0)
    order = []
    for number in range(12):
        agenda.add(ModelRef("c", str(number)), 1.0)
        order.append(take(agenda, 1.0).namespace)
    assert all(one != other for one, other in pairwise(order))
    assert {name: order.count(name) for name in "abc"} == {"a": 4, "b": 4, "c": 4}


def test_within_a_namespace_first_come_first_served() -> None:
    agenda: Agenda[ModelRef] = Agenda()
    keys = [ModelRef("a", name) for name in "cab"]
    for key in keys:
        agenda.add(key, 0.0)
    assert [take(agenda, 0.0) for _ in keys] == keys
    assert agenda.next_due() is None


def test_a_key_is_given_up_and_then_tried_once_when_it_is_added() -> None:
    agenda: Agenda[str] = Agenda()
    agenda.add("a", 0.0)
    now, tries = 0.0, 0
    while agenda.take(now) == "a":
        tries += 1
        backoff = agenda.fail("a", now, give_up_after=3)
        now += backoff or 1000.0
    assert (tries, agenda.next_due()) == (3, None)
    agenda.add("a", now)
    assert agenda.take(now) == "a"
    assert agenda.fail("a", now, give_up_after=3) is None
    agenda.add("a", now)
    agenda.take(now)
    agenda.finish("a", now)
    agenda.add("a", now)
    agenda.take(now)
    assert agenda.fail("a", now, give_up_after=3) is not None, "a success forgets the failures"


def test_given_up_keys_are_not_remembered_for_ever() -> None:
    agenda: Agenda[int] = Agenda()
    for key in range(3 * REMEMBERED_FAILURES):
        agenda.add(key, 0.0)
        assert agenda.take(0.0) == key
        agenda.fail(key, 0.0, give_up_after=1)
    assert len(agenda._failures) <= REMEMBERED_FAILURES + 1


@pytest.mark.parametrize("error", [ObjectInvalid("spec"), ValueError("no key")], ids=["unreadable", "defect"])
async def test_what_fails_for_ever_ends_and_is_traced_once(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace_operator.agenda.FIRST_BACKOFF_SECONDS", 0.0)
    tries = 0
    given_up = asyncio.Event()

    class Observer:
        def reconciled(self, queue: str, outcome: str, seconds: float) -> None:
            nonlocal tries
            tries += 1
            if tries == GIVE_UP_AFTER:
                given_up.set()

    queue: WorkQueue[str] = WorkQueue("models", workers=1, observer=Observer())

    async def reconcile(_: str) -> None:
        raise error

    with capture_logs() as logs:
        running = asyncio.create_task(queue.run(reconcile))
        await asyncio.sleep(0)
        queue.add("a")
        async with asyncio.timeout(5):
            await given_up.wait()
        assert len(queue) == 0
        running.cancel()
        await asyncio.wait({running})
    assert sum("exc_info" in line for line in logs) == (0 if isinstance(error, ObjectInvalid) else 1)
    assert [line["reason"] for line in logs if line.get("reason") == "GivenUp"] == ["GivenUp"]
