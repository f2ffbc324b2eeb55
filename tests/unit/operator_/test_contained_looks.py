"""Whose failure a lost connection is: Redis', or that of the one model during whose look it is lost."""

from types import SimpleNamespace
from typing import Any

import pytest

from headrace_bus import BusCorrupt, BusError, BusOutOfMemory, BusUnavailable
from headrace_operator.context import Memory
from headrace_operator.loops import contained
from headrace_operator.metrics import Metrics
from headrace_operator.refs import ModelRef

REF = ModelRef("ns", "m")


class Bus:
    def __init__(self) -> None:
        self.away = False

    async def server_time_ms(self) -> int:
        if self.away:
            raise BusUnavailable("away")
        return 1


@pytest.fixture
def ctx() -> Any:
    return SimpleNamespace(bus=Bus(), memory=Memory(), metrics=Metrics(), store=SimpleNamespace(model=lambda ref: None))


async def look(ctx: Any, error: BusError | None = None) -> None:
    async with contained(REF, "sweep", ctx):
        if error is not None:
            raise error


def told(ctx: Any) -> set[tuple[str, str]]:
    return ctx.memory.complaints.get(REF, set())


async def test_a_connection_that_ends_at_one_model_twice_is_that_models_failure(ctx: Any) -> None:
    await look(ctx, BusUnavailable("closed"))
    assert told(ctx) == set()
    await look(ctx, BusUnavailable("closed"))
    assert told(ctx) == {("sweep", "BusUnavailable")}
    await look(ctx)
    assert told(ctx) == set()


async def test_a_look_between_two_that_failed_counts(ctx: Any) -> None:
    for _ in range(3):
        await look(ctx, BusUnavailable("closed"))
        await look(ctx)
    assert told(ctx) == set()


async def test_a_redis_that_is_away_is_no_models_failure(ctx: Any) -> None:
    ctx.bus.away = True
    for _ in range(3):
        with pytest.raises(BusUnavailable):
            await look(ctx, BusUnavailable("away"))
    assert told(ctx) == set()


async def test_a_redis_that_is_full_is_no_models_failure(ctx: Any) -> None:
    with pytest.raises(BusOutOfMemory):
        await look(ctx, BusOutOfMemory("full"))


async def test_what_is_not_understood_is_the_models(ctx: Any) -> None:
    await look(ctx, BusCorrupt("x"))
    assert told(ctx) == {("sweep", "BusCorrupt")}
