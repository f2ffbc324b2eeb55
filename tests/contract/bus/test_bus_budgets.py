"""The ledger of budgets against a real Redis: figures stated by hand, and a machine against a reference in Python."""

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from redis.asyncio import Redis
from redis_server import RedisServer

from headrace_bus import Bus, Line, NoRoom, Totals
from headrace_crds.cost import COUNT_LIMIT, Spend

SPACE = "team-a"
HOUR_MS = 3_600_000
FAR_MS = 4_000_000_000_000
DAY = Line("Daily", "USD", 1_000, tokens=100, micros=50)
HOUR = Line("Hourly", "USD", 1_000, tokens=40)
USD = Spend(30, 10, "USD")


async def reserve(bus: Bus, uid: str, most: Spend = USD, *lines: Line, attempt: int = 1, **more: Any) -> NoRoom | None:
    more.setdefault("ends_ms", FAR_MS)
    return await bus.budgets.reserve(SPACE, uid, attempt, most, lines or [DAY], **more)


async def test_room_is_given_until_a_bound_and_again_when_less_was_taken(bus: Bus) -> None:
    for uid in ("a", "b", "c"):
        assert await reserve(bus, uid) is None
    full = await reserve(bus, "d")
    assert full == NoRoom(0, Totals(0, 0, 90, 30))
    assert await bus.budgets.settle(SPACE, "a", 1, Spend(5, 2, "USD"), [DAY])
    assert await bus.budgets.totals(SPACE, [DAY]) == [Totals(5, 2, 60, 20)]
    assert await reserve(bus, "d") is None
    assert await bus.budgets.held(SPACE) == {"b": 1, "c": 1, "d": 1}


async def test_every_line_needs_room_and_the_first_without_is_named(bus: Bus) -> None:
    assert await reserve(bus, "a", USD, DAY, HOUR) is None
    assert await reserve(bus, "b", USD, DAY, HOUR) == NoRoom(1, Totals(0, 0, 30, 10))
    assert await bus.budgets.held(SPACE) == {"a": 1}, "what found no room holds none"


async def test_money_bounds_its_own_currency_alone(bus: Bus) -> None:
    euros = Line("Daily", "EUR", 1_000, micros=5)
    assert await reserve(bus, "a", Spend(10, 50, "USD"), DAY, euros) is None
    assert await reserve(bus, "b", Spend(10, 1, "USD"), DAY, euros) == NoRoom(0, Totals(0, 0, 10, 50))
    assert await reserve(bus, "c", Spend(10, 6, "EUR"), DAY, euros) == NoRoom(1, Totals(0, 0, 10, 0))
    assert await reserve(bus, "d", Spend(10), DAY, euros) is None, "what has no price costs nothing"
    assert await bus.budgets.settle(SPACE, "a", 1, Spend(9, 40, "USD"), [DAY, euros])
    assert await bus.budgets.totals(SPACE, [DAY, euros]) == [Totals(9, 40, 10, 0), Totals(9, 0, 10, 0)]


async def test_an_attempt_is_reserved_once_and_settled_once(bus: Bus) -> None:
    assert await reserve(bus, "a") is None
    assert await reserve(bus, "a") is None
    assert await bus.budgets.totals(SPACE, [DAY]) == [Totals(0, 0, 30, 10)]
    assert not await bus.budgets.settle(SPACE, "a", 2, Spend(1), [DAY]), "another attempt"
    assert await bus.budgets.settle(SPACE, "a", 1, None, [DAY]), "as reserved"
    assert not await bus.budgets.settle(SPACE, "a", 1, None, [DAY])
    assert await bus.budgets.totals(SPACE, [DAY]) == [Totals(30, 10, 0, 0)]


async def test_a_later_attempt_replaces_an_earlier_one(bus: Bus) -> None:
    assert await reserve(bus, "a", Spend(90)) is None
    assert await reserve(bus, "a", Spend(95), attempt=2) is None
    assert await bus.budgets.held(SPACE) == {"a": 2}
    assert not await bus.budgets.settle(SPACE, "a", 1, Spend(7), [DAY])
    assert await bus.budgets.totals(SPACE, [DAY]) == [Totals(0, 0, 95, 0)]


async def test_what_is_handed_out_already_is_refused_nothing(bus: Bus) -> None:
    assert await reserve(bus, "a", Spend(101)) == NoRoom(0, Totals())
    assert await reserve(bus, "a", Spend(101), forced=True) is None
    assert await bus.budgets.totals(SPACE, [DAY]) == [Totals(0, 0, 101, 0)]


async def test_another_window_begins_with_nothing_spent_and_what_is_under_way(bus: Bus) -> None:
    assert await reserve(bus, "a", Spend(60)) is None
    assert await bus.budgets.settle(SPACE, "a", 1, Spend(60), [DAY])
    assert await reserve(bus, "b", Spend(40)) is None
    tomorrow = replace(DAY, start_ms=DAY.start_ms + HOUR_MS)
    assert await bus.budgets.totals(SPACE, [tomorrow]) == [Totals(0, 0, 40, 0)]
    # Whose clock is late does not bring yesterday back.
    assert await bus.budgets.totals(SPACE, [replace(DAY, told_tokens=60)]) == [Totals(0, 0, 40, 0)]


async def test_a_redis_that_forgot_begins_with_what_the_status_tells(bus: Bus, redis: Redis) -> None:
    assert await reserve(bus, "a") is None
    await redis.flushall()
    told = replace(DAY, told_tokens=80, told_micros=45)
    assert await reserve(bus, "b", Spend(30), told) == NoRoom(0, Totals(80, 45, 0, 0))
    assert not await bus.budgets.settle(SPACE, "a", 1, Spend(5), [told]), "nothing is reserved: it is not counted"
    # A status that is behind takes nothing away.
    assert await bus.budgets.totals(SPACE, [replace(DAY, told_tokens=3)]) == [Totals(80, 45, 0, 0)]


async def test_a_reservation_ends_with_its_time(bus: Bus) -> None:
    assert await reserve(bus, "a", Spend(100), ends_ms=await bus.server_time_ms() - 1) is None
    assert await reserve(bus, "b", Spend(100)) is None
    assert await bus.budgets.held(SPACE) == {"b": 1}
    assert await bus.budgets.totals(SPACE, [DAY]) == [Totals(0, 0, 100, 0)]


async def test_namespaces_have_ledgers_of_their_own_and_one_can_be_forgotten(bus: Bus, redis: Redis) -> None:
    assert await reserve(bus, "a") is None
    assert await bus.budgets.totals("team-b", [DAY]) == [Totals()]
    await bus.budgets.forget(SPACE)
    assert await redis.keys("headrace:budget:{team-a}:*") == []
    with pytest.raises(ValueError, match="cannot be part of a key"):
        await bus.budgets.totals("team}:*", [DAY])
    with pytest.raises(ValueError, match="not counted exactly"):
        await reserve(bus, "a", Spend(COUNT_LIMIT + 1))
    with pytest.raises(ValueError, match="5 budgets"):
        await bus.budgets.totals(SPACE, [DAY] * 5)


async def test_many_reservations_are_all_told(bus: Bus) -> None:
    for number in range(1_200):
        await bus.budgets.reserve(SPACE, f"u-{number}", 1, Spend(1), [], ends_ms=FAR_MS)
    assert len(await bus.budgets.held(SPACE)) == 1_200


UIDS = st.sampled_from(["u-1", "u-2", "u-3"])
FIGURES = st.integers(0, 60)
SPENDS = st.builds(Spend, FIGURES, FIGURES, st.sampled_from(["USD", "EUR", ""]))
LINES = (
    Line("Daily", "USD", 0, tokens=100, micros=80),
    Line("Hourly", "USD", 0, tokens=60),
    Line("Daily", "EUR", 0, micros=50),
)


class Ledger(RuleBasedStateMachine):
    """The reference: dictionaries. Time is the number of the window, which is the same for every line."""

    run: Any
    bus: Bus

    def __init__(self) -> None:
        super().__init__()
        self.window = 1
        self.held: dict[str, tuple[int, Spend]] = {}
        self.spent: dict[int, tuple[int, int]] = dict.fromkeys(range(len(LINES)), (0, 0))
        self.settled = 0

    @initialize()
    def empty(self) -> None:
        self.run(self.bus.budgets.forget(SPACE))

    def lines(self) -> list[Line]:
        return [replace(line, start_ms=self.window) for line in LINES]

    def totals(self, number: int) -> Totals:
        line, most = LINES[number], [spend for _, spend in self.held.values()]
        money = sum(spend.cost_micros for spend in most if spend.currency == line.currency)
        return Totals(*self.spent[number], sum(spend.tokens for spend in most), money)

    @rule(uid=UIDS, attempt=st.integers(1, 3), most=SPENDS, forced=st.booleans())
    def reserve(self, uid: str, attempt: int, most: Spend, forced: bool) -> None:
        answer = self.run(
            self.bus.budgets.reserve(SPACE, uid, attempt, most, self.lines(), ends_ms=FAR_MS, forced=forced)
        )
        if uid in self.held and self.held[uid][0] == attempt:
            assert answer is None
            return
        self.held.pop(uid, None)
        full = None
        for number, line in enumerate(LINES):
            now = self.totals(number)
            cost = most.cost_micros if most.currency == line.currency else None
            over = line.tokens is not None and now.tokens_spent + now.tokens_reserved + most.tokens > line.tokens
            if line.micros is not None and cost is not None:
                over |= now.micros_spent + now.micros_reserved + cost > line.micros
            if over and not forced:
                full = NoRoom(number, now)
                break
        assert answer == full
        if full is None:
            self.held[uid] = attempt, most

    @rule(uid=UIDS, attempt=st.integers(1, 3), spent=st.none() | SPENDS)
    def settle(self, uid: str, attempt: int, spent: Spend | None) -> None:
        answer = self.run(self.bus.budgets.settle(SPACE, uid, attempt, spent, self.lines()))
        known = uid in self.held and self.held[uid][0] == attempt
        assert answer == known
        if not known:
            return
        took = self.held.pop(uid)[1] if spent is None else spent
        self.held.pop(uid, None)
        for number, line in enumerate(LINES):
            tokens, micros = self.spent[number]
            mine = took.cost_micros if took.currency == line.currency else 0
            self.spent[number] = tokens + took.tokens, micros + mine

    @rule()
    def begin_another_window(self) -> None:
        self.window += 1
        self.spent = dict.fromkeys(range(len(LINES)), (0, 0))

    @invariant()
    def sums_are_those_of_the_reference(self) -> None:
        assert self.run(self.bus.budgets.totals(SPACE, self.lines())) == [self.totals(n) for n in range(len(LINES))]
        assert self.run(self.bus.budgets.held(SPACE)) == {uid: attempt for uid, (attempt, _) in self.held.items()}


def test_the_ledger_is_its_reference(shared_server: RedisServer) -> None:
    with asyncio.Runner() as runner:
        bus = runner.run(Bus.connect(shared_server.url).__aenter__())

        def run(awaited: Coroutine[Any, Any, Any]) -> Any:
            return runner.run(awaited)

        class Machine(Ledger):
            pass

        Machine.run, Machine.bus = staticmethod(run), bus
        try:
            run_state_machine_as_test(
                Machine,
                settings=settings(
                    max_examples=60,
                    stateful_step_count=25,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                    database=None,
                ),
            )
        finally:
            runner.run(bus.aclose())
