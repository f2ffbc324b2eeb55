"""How often a model is looked at that is named all the time, and that no other waits for that."""

import asyncio

from headrace_operator.heard import GAP_SECONDS, Heard
from headrace_operator.refs import ModelRef

LOUD, QUIET = ModelRef("ns", "loud"), ModelRef("ns", "quiet")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_model_that_is_named_all_the_time_is_given_out_five_times_a_second() -> None:
    clock = Clock()
    heard = Heard(clock)
    given = 0
    for _ in range(1_000):
        heard.add(LOUD)
        given += heard.take() is not None
        clock.now += 0.001
    assert given == 5


def test_another_is_given_out_at_once() -> None:
    heard = Heard(Clock())
    heard.add(LOUD)
    assert heard.take() == LOUD
    heard.add(LOUD)
    heard.add(QUIET)
    assert (heard.take(), heard.take()) == (QUIET, None)


def test_what_is_named_during_a_look_is_looked_at_once_more() -> None:
    clock = Clock()
    heard = Heard(clock)
    heard.add(LOUD)
    assert heard.take() == LOUD
    for _ in range(10):
        heard.add(LOUD)
    assert heard.take() is None
    clock.now += GAP_SECONDS
    assert (heard.take(), heard.take()) == (LOUD, None)


async def test_who_waits_is_woken_by_a_name_and_by_the_time() -> None:
    heard = Heard(asyncio.get_running_loop().time)
    waiting = asyncio.create_task(heard.next())
    await asyncio.sleep(0)
    heard.add(LOUD)
    assert await waiting == LOUD
    heard.add(LOUD)
    assert await asyncio.wait_for(heard.next(), 10) == LOUD
