"""The calendar's windows, the words for who waits, and what an attempt took without an outcome that says so."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from operator_cases import (
    NOW_MS,
    REMOTE,
    SERVING,
    came_back,
    finished,
    held,
    queued,
    snapshot,
    suspended,
    task,
    waiting,
)

from headrace_bus import Line, Totals
from headrace_crds.cost import Spend
from headrace_crds.quota import Budget, BudgetWindow, LLMQuota, LLMQuotaSpec
from headrace_operator.budget_book import BudgetBook, Room, Wait
from headrace_operator.budgets import lines
from headrace_operator.decide import budget, quota
from headrace_operator.decide.budget import Ended, Used
from headrace_operator.decide.task import decide
from headrace_operator.decide.waiting import cause
from headrace_operator.refs import ModelRef, TaskRef
from headrace_operator.views import task_view

SPENT = Spend(7, 3, "USD")


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("window", "now", "begins", "ends"),
    [
        ("Hourly", "2028-02-29T23:59:59.999", "2028-02-29T23:00:00", "2028-03-01T00:00:00"),
        ("Hourly", "2028-02-29T23:00:00", "2028-02-29T23:00:00", "2028-03-01T00:00:00"),
        ("Daily", "2028-02-28T12:00:00", "2028-02-28T00:00:00", "2028-02-29T00:00:00"),
        ("Monthly", "2028-02-29T12:00:00", "2028-02-01T00:00:00", "2028-03-01T00:00:00"),
        ("Monthly", "2027-12-31T23:59:59", "2027-12-01T00:00:00", "2028-01-01T00:00:00"),
    ],
)
def test_windows_are_the_calendars_in_utc(window: str, now: str, begins: str, ends: str) -> None:
    assert budget.window_of(BudgetWindow(window), ms(now)) == (ms(begins), ms(ends))


@given(st.sampled_from(BudgetWindow), st.integers(0, 4_000_000_000_000))
def test_every_moment_is_in_one_window_and_the_next_begins_where_it_ends(window: BudgetWindow, now_ms: int) -> None:
    begins, ends = budget.window_of(window, now_ms)
    assert begins <= now_ms < ends
    assert budget.window_of(window, ends)[0] == ends
    assert budget.window_of(window, begins) == budget.window_of(window, ends - 1) == (begins, ends)


def words(used: Used, most: Spend, ends_ms: int = NOW_MS, **bounds: Any) -> Any:
    return budget.exhausted(Budget(window=BudgetWindow.DAILY, **bounds), used, most, "team-a", ends_ms)


def test_who_waits_is_told_what_is_spent_until_when_and_what_to_do() -> None:
    why = words(Used(60, 0, 30, 0), Spend(20), tokens=100)
    for word in ("Daily budget", "'team-a'", "until 2027-01-15T08:00:00Z", "60 tokens are spent", "30 reserved", "100"):
        assert word in why.message
    assert "may take 20" in why.message
    assert "raise LLMQuota" not in why.message
    assert "lower spec.parameters.maxTokens" in words(Used(0, 0, 0, 0), Spend(101), tokens=100).message
    money = words(Used(60, 9, 30, 1), Spend(5, 2, "EUR"), tokens=100, cost_micros=11, currency="EUR")
    assert "9 micros of EUR are spent and 1 reserved, of at most 11, and this task may take 2" in money.message


def test_who_waits_is_written_anew_with_another_window_and_not_before() -> None:
    first = words(Used(60, 0, 30, 0), Spend(20), tokens=100)
    later = words(Used(90, 0, 0, 0), Spend(20), tokens=100)
    tomorrow = words(Used(90, 0, 0, 0), Spend(20), NOW_MS + 86_400_000, tokens=100)
    assert first.cause == later.cause != tomorrow.cause
    assert first.cause == cause(first.reason, first.message)


def seen(status: dict[str, Any] | None, *, model: Any = SERVING, remote_allowed: bool = True, **more: Any) -> Any:
    spec = more.pop("spec", {})
    return replace(snapshot(task(status, **spec), model=model, **more), remote_allowed=remote_allowed)


def ended(s: Any) -> Ended | None:
    return budget.ended(s, decide(s))


@pytest.mark.parametrize(
    ("how", "told", "expected"),
    [
        ("Failed", SPENT, SPENT),
        ("Failed", None, Spend()),
        ("Released", SPENT, SPENT),
        ("Released", None, Spend()),
        ("LeaseExpired", None, None),
        ("AttemptTimeout", SPENT, SPENT),
        ("AttemptTimeout", None, None),
        ("RunnerStopped", None, None),
    ],
)
@pytest.mark.parametrize("last", [False, True])
def test_what_came_back_took_what_its_runner_says(
    how: str, told: Spend | None, expected: Spend | None, last: bool
) -> None:
    cut_off = {"AttemptTimeout": "Failed", "RunnerStopped": "Released"}
    back = came_back(cut_off[how], reason=how) if how in cut_off else came_back(how)
    assert back.returned is not None
    back = replace(back, returned=replace(back.returned, spent=told))
    found = ended(seen(queued(1), held=back, spec={"backoff_limit": 0} if last else {}))
    assert found == Ended(1, expected)


def test_what_was_only_queued_took_nothing_once_it_is_taken_back() -> None:
    back = Ended(1, Spend(), held=True)
    assert ended(seen(queued(1), held=held("Queued", 1), spec={"suspend": True})) == back
    assert ended(seen(queued(1), held=held("Queued", 1), spec={"cancel": True})) == back


def test_what_goes_on_or_has_a_usage_is_not_settled_by_the_plan() -> None:
    assert ended(seen(queued(1), held=held("Queued", 1))) is None
    assert ended(seen(queued(1), held=held("Leased", 1))) is None
    assert ended(seen(waiting(1))) is None
    assert ended(seen(finished(1), held=held("Leased", 1))) is None
    s = seen(queued(1), held=held("Leased", 1))
    plan = replace(decide(s), status={"outcome": "Complete", "usage": {"promptTokens": 1, "completionTokens": 1}})
    assert budget.ended(s, plan) is None
    assert budget.ended(s, replace(plan, status={"outcome": "Failed"})) == Ended(1, None, held=True)


def test_a_remote_model_waits_for_the_right() -> None:
    for status in (None, waiting(1), suspended(1)):
        plan = decide(seen(status, model=REMOTE, remote_allowed=False))
        assert plan.status is not None
        assert (plan.status["reason"], plan.enqueue) == ("RemoteNotAllowed", None)
        assert decide(seen(status, model=REMOTE)).enqueue is not None
        assert decide(seen(status, remote_allowed=False)).enqueue is not None, "a local model needs none"
    told = {**waiting(1, reason="RemoteNotAllowed"), "message": "already said"}
    assert decide(seen(told, model=REMOTE, remote_allowed=False)).status is None


def test_what_is_queued_for_a_remote_model_comes_off_and_what_is_claimed_goes_on() -> None:
    plan = decide(seen(queued(1), model=REMOTE, remote_allowed=False, held=held("Queued", 1)))
    assert plan.status is not None
    assert plan.take_back is not None
    assert (plan.status["phase"], plan.status["attempt"], plan.status["retries"]) == ("Waiting", 2, 0)
    leased = seen(queued(1), model=REMOTE, held=held("Leased", 1))
    assert decide(replace(leased, remote_allowed=False)) == decide(leased)
    plan = decide(seen(queued(1), model=REMOTE, remote_allowed=False, held=came_back("Failed")))
    assert plan.status is not None
    assert (plan.status["phase"], plan.status["attempt"], plan.status["retries"]) == ("Waiting", 2, 1)
    last = seen(queued(1), model=REMOTE, remote_allowed=False, held=came_back("Failed"), spec={"backoff_limit": 0})
    assert (decide(last).status or {})["outcome"] == "Failed"


@pytest.mark.parametrize(
    ("own", "default", "allowed"),
    [(None, None, True), (False, None, False), (None, False, False), (True, False, True), (False, True, False)],
)
def test_the_right_to_remote_models(own: bool | None, default: bool | None, allowed: bool) -> None:
    granted = quota.grant(LLMQuotaSpec(remote_models=own), LLMQuotaSpec(remote_models=default))
    assert granted.remote_models is allowed
    assert quota.grant(None, LLMQuotaSpec(remote_models=default)).remote_models is (default is not False)


def test_lines_begin_with_what_the_status_tells_of_the_same_window() -> None:
    told = {"tokensSpent": 5, "costMicrosSpent": 6, "tokensReserved": 1, "costMicrosReserved": 1}
    found = LLMQuota.model_validate(
        {
            "spec": {"budgets": [{"window": "Hourly", "tokens": 9}, {"window": "Daily", "costMicros": 8}]},
            "status": {
                "budgets": [
                    {"window": "Hourly", "currency": "USD", "resetTime": "2027-01-15T09:00:00Z", **told},
                    {"window": "Daily", "currency": "USD", "resetTime": "2027-01-15T00:00:00Z", **told},
                    {"window": "Daily", "currency": "EUR", "resetTime": "2027-01-16T00:00:00Z", **told},
                ]
            },
        }
    )
    hour, day = ms("2027-01-15T08:00:00"), ms("2027-01-15T00:00:00")
    assert lines(found, NOW_MS) == [
        Line("Hourly", "USD", hour, 5, 6, 9, None),
        Line("Daily", "USD", day, 0, 0, None, 8),
    ]


def test_room_is_taken_by_those_who_fit() -> None:
    room = Room(Line("Daily", "USD", 0, tokens=100, micros=10), Totals(40, 3, 20, 2))
    assert room.fits(Spend(40, 5, "USD"))
    assert not room.fits(Spend(41))
    assert not room.fits(Spend(1, 6, "USD"))
    assert room.fits(Spend(1, 600, "EUR"))
    room.take(Spend(30, 5, "USD"))
    assert room.fits(Spend(10))
    assert not room.fits(Spend(1, 1, "USD"))
    assert Room(Line("Daily", "USD", 0), Totals(1, 1, 1, 1)).fits(Spend(1 << 40, 1 << 40, "USD"))


def body(status: dict[str, Any]) -> dict[str, Any]:
    return {
        "metadata": {"name": "t", "namespace": "team-a", "uid": "u", "resourceVersion": "1"},
        "spec": {"modelRef": {"name": "qwen"}, "prompt": "x"},
        "status": status,
    }


def test_the_book_keeps_ends_of_what_is_reserved_and_forgets_who_stopped_waiting() -> None:
    book, usage = BudgetBook(), {"promptTokens": 3, "completionTokens": 4, "costMicros": 3, "currency": "USD"}
    done = task_view(body({"outcome": "Complete", "attempt": 2, "usage": usage}))
    assert done.spent == SPENT
    book.note(done)
    book.reserved["u"] = 1
    book.note(done)
    assert book.ended == {}, "another attempt's"
    book.reserved["u"] = 2
    book.note(done)
    assert book.ended == {"u": (done.ref, 2, SPENT)}
    ref = TaskRef("team-a", "t", "u", ModelRef("team-a", "qwen"))
    book.waits["team-a"]["u"] = Wait(ref, SPENT)
    book.note(task_view(body({"phase": "Waiting", "reason": "BudgetExhausted", "attempt": 1})))
    assert book.waits
    book.settled("team-a", "other", 1)
    assert book.freed == {"team-a"}
    book.note(task_view(body({"phase": "Queued", "attempt": 1})))
    assert not book.waits
    book.clear()
    assert (book.ended, book.reserved, book.freed) == ({}, {}, set())


@pytest.mark.parametrize(
    "usage", [{}, {"promptTokens": "x", "completionTokens": 1}, {"promptTokens": -1, "completionTokens": 1}]
)
def test_a_usage_that_does_not_read_is_none(usage: dict[str, Any]) -> None:
    assert task_view(body({"outcome": "Failed", "attempt": 1, "usage": usage})).spent is None
