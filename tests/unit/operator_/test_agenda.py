"""The work queue's bounds, proven on its bookkeeping: no clocks, no sleeps."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace_operator.agenda import (
    BACKOFF_LIMIT_SECONDS,
    BURST,
    FIRST_BACKOFF_SECONDS,
    MAX_PER_MINUTE,
    STALE_TIMES,
    Agenda,
)


def test_a_key_that_waits_waits_once() -> None:
    agenda: Agenda[str] = Agenda()
    for _ in range(5):
        agenda.add("a", 0.0)
    assert (agenda.take(0.0), agenda.take(0.0)) == ("a", None)


def test_first_in_first_out() -> None:
    agenda: Agenda[str] = Agenda()
    for key in "cab":
        agenda.add(key, 0.0)
    assert [agenda.take(0.0) for _ in range(3)] == ["c", "a", "b"]


def test_never_two_workers_on_one_key() -> None:
    agenda: Agenda[str] = Agenda()
    agenda.add("a", 0.0)
    assert agenda.take(0.0) == "a"
    agenda.add("a", 0.0)
    assert agenda.take(100.0) is None
    agenda.finish("a", 100.0)
    assert agenda.take(100.0) == "a"


def test_what_came_in_while_it_was_worked_on_is_not_lost() -> None:
    agenda: Agenda[str] = Agenda()
    agenda.add("a", 0.0)
    agenda.take(0.0)
    agenda.add("a", 0.0, after=7.0)
    agenda.add("a", 0.0, after=3.0)
    agenda.finish("a", 1.0, again_after=30.0)
    assert agenda.take(2.9) is None
    assert agenda.take(3.0) == "a"


def test_the_earlier_time_stands() -> None:
    agenda: Agenda[str] = Agenda()
    agenda.add("a", 0.0, after=30.0)
    agenda.add("a", 0.0, after=60.0)
    assert agenda.take(30.0) == "a"
    agenda.finish("a", 30.0)
    agenda.add("b", 30.0, after=30.0)
    agenda.add("b", 30.0)
    assert agenda.take(30.0) == "b"
    agenda.finish("b", 30.0)
    assert agenda.take(1e9) is None


def test_failures_back_off_and_success_forgets_them() -> None:
    agenda: Agenda[str] = Agenda()
    now, backoffs = 0.0, []
    for _ in range(9):
        agenda.add("a", now)
        assert agenda.take(now) == "a"
        backoffs.append(agenda.fail("a", now))
        now += backoffs[-1]
    assert backoffs == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
    assert backoffs[-1] == BACKOFF_LIMIT_SECONDS
    agenda.take(now)
    agenda.finish("a", now)
    agenda.add("a", now)
    agenda.take(now)
    assert agenda.fail("a", now) == FIRST_BACKOFF_SECONDS


@pytest.mark.parametrize("outcome", ["finish", "fail", "again"])
def test_at_most_seventy_reconciles_a_minute_and_object(outcome: str) -> None:
    """An event storm on one key, every reconcile instant: in no minute more than MAX_PER_MINUTE."""
    assert MAX_PER_MINUTE == 70
    agenda: Agenda[str] = Agenda()
    times: list[float] = []
    for millisecond in range(0, 300_000, 5):
        now = millisecond / 1000
        agenda.add("a", now)
        if agenda.take(now) == "a":
            times.append(now)
            if outcome == "fail":
                agenda.fail("a", now)
            else:
                agenda.finish("a", now, again_after=0.0 if outcome == "again" else None)
    most = max(sum(start <= at < start + 60 for at in times) for start in times)
    assert most <= MAX_PER_MINUTE
    assert len(times) >= 290, "the bound must not starve the key"


def test_a_storm_on_one_key_does_not_slow_another() -> None:
    agenda: Agenda[str] = Agenda()
    for _ in range(BURST):
        agenda.add("noisy", 0.0)
        assert agenda.take(0.0) == "noisy"
        agenda.finish("noisy", 0.0)
    agenda.add("noisy", 0.0)
    agenda.add("quiet", 0.0)
    assert agenda.take(0.0) == "quiet"
    assert agenda.take(0.0) is None
    assert agenda.take(1.0) == "noisy"


def test_it_remembers_nothing_of_keys_at_rest() -> None:
    agenda: Agenda[int] = Agenda()
    for key in range(5_000):
        agenda.add(key, float(key))
        assert agenda.take(float(key)) == key
        agenda.finish(key, float(key))
    assert len(agenda._buckets) < 1_500
    assert not agenda._failures
    assert len(agenda) == 0


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32))
def test_nothing_that_was_added_is_forgotten(seed: int) -> None:
    """A random run: whatever was added after it was last taken is taken again, and never by two at once."""
    dice = random.Random(seed)
    agenda: Agenda[int] = Agenda()
    owed: set[int] = set()
    taken: set[int] = set()
    now = 0.0
    for _ in range(400):
        now += dice.random()
        action = dice.random()
        if action < 0.5:
            key = dice.randrange(8)
            agenda.add(key, now, after=dice.choice([0.0, 0.0, 5.0]))
            owed.add(key)
        elif action < 0.8:
            key_or_none = agenda.take(now)
            if key_or_none is not None:
                assert key_or_none not in taken
                taken.add(key_or_none)
                owed.discard(key_or_none)
        elif taken:
            key = taken.pop()
            if dice.random() < 0.3:
                agenda.fail(key, now)
                owed.add(key)
            else:
                agenda.finish(key, now)
    for key in list(taken):
        agenda.finish(key, now)
    while owed:
        now += 120
        found = agenda.take(now)
        if found is not None:
            owed.discard(found)
            agenda.finish(found, now)
        else:
            assert agenda.next_due() is not None, f"{owed} were forgotten"


def test_deadlines_a_day_ahead_are_no_work_that_waits() -> None:
    agenda: Agenda[str] = Agenda()
    agenda.add("deadline", 0.0, 86_400.0)
    agenda.add("event", 0.0)
    assert (len(agenda), agenda.due(0.0), agenda.due(86_400.0)) == (2, 1, 2)


def test_a_dropped_time_is_forgotten_work_is_not() -> None:
    agenda: Agenda[str] = Agenda()
    agenda.add("later", 0.0, 86_400.0)
    agenda.drop("later", 1.0)
    assert len(agenda) == 0
    assert agenda.take(100_000.0) is None
    agenda.add("due", 0.0)
    agenda.drop("due", 1.0)
    agenda.drop("unknown", 1.0)
    assert agenda.take(1.0) == "due"


def test_a_time_that_a_worker_is_about_to_set_is_looked_at_once_more() -> None:
    agenda: Agenda[str] = Agenda()
    agenda.add("a", 0.0)
    agenda.take(0.0)
    agenda.drop("a", 1.0)
    agenda.finish("a", 2.0, again_after=86_400.0)
    assert agenda.take(2.0) == "a"
    agenda.finish("a", 3.0)
    assert len(agenda) == 0


@pytest.mark.parametrize("dropped", [True, False])
def test_a_day_of_tasks_leaves_no_times_behind(dropped: bool) -> None:
    agenda: Agenda[int] = Agenda()
    for n in range(10_000):
        now = n / 100
        agenda.add(n, now)
        assert agenda.take(now) == n
        agenda.finish(n, now, again_after=86_400.0)
        if dropped:
            agenda.drop(n, now)
        else:
            agenda.add(n, now)  # an event brings it forward, and leaves the former time in the heap
            assert agenda.take(now) == n
            agenda.finish(n, now)
    assert len(agenda) == 0
    assert len(agenda._heap) <= STALE_TIMES
