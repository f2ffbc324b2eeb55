"""Who is charged for an engine's death: only a generation that was alone with it."""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, cast

import pytest

from headrace_crds.reasons import Reason
from headrace_runner import quarantine
from headrace_runner.attempt import Attempt
from headrace_runner.cut import Quarantined
from headrace_runner.engine.client import EngineLost
from headrace_runner.engine.protocol import Generate, GenerationResult, Timings, Usage
from headrace_runner.engine_link import EngineLink
from headrace_runner.quarantine import Quarantine, Trial

LOST_ALONE = {"number": 1, "outcome": "Failed", "reason": str(Reason.ENGINE_LOST)}


class Engine:
    """One life of an engine: dies under whoever is poison, with all that runs beside."""

    def __init__(self, world: "World") -> None:
        self.closed = asyncio.Event()
        self._world = world
        self._running: dict[str, asyncio.Future[GenerationResult]] = {}

    async def generate(
        self, request: Generate, *, on_progress: Callable[[int], None] | None = None
    ) -> GenerationResult:
        result = self._running[request.id] = asyncio.get_running_loop().create_future()
        self._world.runs.append(set(self._running))
        after = 0 if request.id in self._world.poison else self._world.seconds
        asyncio.get_running_loop().call_later(after, self._end, request.id)
        try:
            return await result
        finally:
            self._running.pop(request.id, None)

    async def abort(self, generation_id: str) -> None:
        self._world.aborted.append(generation_id)

    def _end(self, name: str) -> None:
        if name not in self._running or self._running[name].done():
            return
        if name in self._world.poison:
            self.die()
        else:
            self._running[name].set_result(GenerationResult(name, name, "Stop", Usage(1, 0, 1), Timings(0, 1, 1)))

    def die(self) -> None:
        self.closed.set()
        for result in self._running.values():
            if not result.done():
                result.set_exception(EngineLost("gone"))
        self._world.deaths += 1
        self._world.died.set()
        self._world.restart()


class World:
    """A link to one engine after another."""

    def __init__(self, poison: Iterable[str] = (), *, seconds: float = 0.01, away: float = 0.01) -> None:
        self.poison, self.seconds, self.away = set(poison), seconds, away
        self.deaths = 0
        self.died = asyncio.Event()
        self.runs: list[set[str]] = []
        self.aborted: list[str] = []
        self.serving = asyncio.Event()
        self.client: Any = None
        self._serve()
        self.quarantine = Quarantine(cast("EngineLink", self))

    def _serve(self) -> None:
        self.client = Engine(self)
        self.serving.set()

    def restart(self) -> None:
        # As the link does: it notices a moment after those who waited for an answer.
        asyncio.get_running_loop().call_soon(self.serving.clear)
        asyncio.get_running_loop().call_later(self.away, self._serve)


@pytest.fixture
def trial(attempt: Attempt) -> Callable[[World], Trial]:
    fresh = replace(attempt, monotonic=time.monotonic, claimed_at=time.monotonic())
    return lambda world: world.quarantine.trial(fresh)


async def generated(trial: Trial, name: str) -> str:
    try:
        return (await trial.generate(Generate(name, prompt="x"))).text
    except EngineLost:
        return "charged"
    except Quarantined:
        return "given back"


@pytest.mark.parametrize("guilty", range(16))
async def test_one_poison_among_fifteen_is_found(guilty: int, trial: Callable[[World], Trial]) -> None:
    names = [f"t{number}" for number in range(16)]
    world = World({names[guilty]})
    ends = await asyncio.gather(*(generated(trial(world), name) for name in names))
    assert ends == [name if name != names[guilty] else "charged" for name in names]
    # All, eight, four, two, alone: fewer where some had not begun again when the others' engine died.
    assert 2 <= world.deaths <= 5
    assert world.quarantine.open.is_set()


async def test_several_are_found_one_by_one(trial: Callable[[World], Trial]) -> None:
    names = [f"t{number}" for number in range(9)]
    world = World({"t1", "t2", "t8"})
    ends = await asyncio.gather(*(generated(trial(world), name) for name in names))
    assert [name for name, end in zip(names, ends, strict=True) if end == "charged"] == ["t1", "t2", "t8"]
    assert [end for end in ends if end != "charged"] == [name for name in names if name not in world.poison]


async def test_a_death_that_nobody_caused_charges_nobody(trial: Callable[[World], Trial]) -> None:
    world = World(seconds=0.05)
    running = [asyncio.create_task(generated(trial(world), name)) for name in ("a", "b", "c")]
    await asyncio.sleep(0.01)
    world.client.die()
    assert await asyncio.gather(*running) == ["a", "b", "c"]
    assert world.quarantine.open.is_set()


async def test_who_was_alone_is_charged_at_once(trial: Callable[[World], Trial]) -> None:
    world = World({"a"})
    assert await generated(trial(world), "a") == "charged"
    assert world.deaths == 1
    assert world.quarantine.open.is_set()


async def test_nobody_else_runs_beside_suspects(trial: Callable[[World], Trial]) -> None:
    world = World({"a"})
    suspects = [asyncio.create_task(generated(trial(world), name)) for name in ("a", "b")]
    await world.died.wait()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not world.quarantine.open.is_set()
    await world.serving.wait()
    late = asyncio.create_task(generated(trial(world), "late"))
    assert await asyncio.gather(*suspects, late) == ["charged", "b", "late"]
    assert all(run == {"late"} for run in world.runs if "late" in run)


async def test_a_suspect_of_an_earlier_attempt_runs_alone(attempt: Attempt, trial: Callable[[World], Trial]) -> None:
    world = World({"again"}, seconds=0.03)
    beside = asyncio.create_task(generated(trial(world), "beside"))
    await asyncio.sleep(0.01)
    work = attempt.work.model_copy(update={"attempts": [LOST_ALONE]})
    suspected = replace(attempt, monotonic=time.monotonic, claimed_at=time.monotonic(), work=work)
    again = asyncio.create_task(generated(world.quarantine.trial(suspected), "again"))
    assert await asyncio.gather(beside, again) == ["beside", "charged"]
    assert {"again"} in world.runs
    assert world.deaths == 1


async def test_who_waits_for_its_turn_until_its_time_is_over_is_given_back(
    attempt: Attempt, trial: Callable[[World], Trial]
) -> None:
    world = World({"a"}, seconds=60.0, away=60.0)
    work = attempt.work.model_copy(update={"attempt_timeout_ms": 700})
    short = replace(attempt, monotonic=time.monotonic, claimed_at=time.monotonic(), work=work)
    beside = asyncio.create_task(generated(trial(world), "a"))
    assert await generated(world.quarantine.trial(short), "b") == "given back"
    beside.cancel()
    await asyncio.wait({beside})
    assert world.quarantine.open.is_set()


async def test_an_abort_ends_who_waits_for_its_turn(trial: Callable[[World], Trial]) -> None:
    world = World({"a"}, away=60.0)
    trials = {name: trial(world) for name in ("a", "b")}
    waiting = [asyncio.create_task(generated(each, name)) for name, each in trials.items()]
    await world.died.wait()
    await asyncio.sleep(0.01)
    for name, each in trials.items():
        await each.abort(name)
    assert await asyncio.gather(*waiting) == ["given back", "given back"]
    assert world.aborted == []
    assert world.quarantine.open.is_set()


async def test_an_abort_reaches_the_engine_that_generates(trial: Callable[[World], Trial]) -> None:
    world = World(seconds=0.05)
    one = trial(world)
    running = asyncio.create_task(generated(one, "a"))
    await asyncio.sleep(0.01)
    await one.abort("a")
    assert world.aborted == ["a"]
    assert await running == "a"


async def test_a_suspect_that_is_cancelled_holds_nobody_up(trial: Callable[[World], Trial]) -> None:
    world = World({"a"}, seconds=0.02)
    tasks = {name: asyncio.create_task(generated(trial(world), name)) for name in ("a", "b", "c", "d")}
    await world.died.wait()
    tasks["a"].cancel()
    assert await asyncio.gather(*(tasks[name] for name in ("b", "c", "d"))) == ["b", "c", "d"]
    assert world.quarantine.open.is_set()


@pytest.mark.parametrize("record", [{**LOST_ALONE, "outcome": "Released"}, {**LOST_ALONE, "reason": "LeaseExpired"}])
async def test_who_was_given_back_is_no_suspect(attempt: Attempt, record: dict[str, Any]) -> None:
    world = World(seconds=0.05)
    work = attempt.work.model_copy(update={"attempts": [record]})
    again = replace(attempt, monotonic=time.monotonic, claimed_at=time.monotonic(), work=work)
    both = [asyncio.create_task(generated(world.quarantine.trial(again), name)) for name in ("a", "b")]
    await asyncio.gather(*both)
    assert {"a", "b"} in world.runs


async def test_suspects_of_earlier_attempts_are_tried_in_the_order_in_which_they_came(attempt: Attempt) -> None:
    world = World()
    work = attempt.work.model_copy(update={"attempts": [LOST_ALONE]})
    again = replace(attempt, monotonic=time.monotonic, claimed_at=time.monotonic(), work=work)
    names = ["a", "b", "c", "d"]
    await asyncio.gather(*(generated(world.quarantine.trial(again), name) for name in names))
    assert world.runs == [{"a"}, {"b"}, {"c"}, {"d"}]


async def test_who_generates_for_long_is_cleared_and_keeps_nobody_waiting(
    attempt: Attempt, trial: Callable[[World], Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "TRIAL_SECONDS", 0.05)
    world = World(seconds=60.0)
    work = attempt.work.model_copy(update={"attempts": [LOST_ALONE]})
    again = replace(attempt, monotonic=time.monotonic, claimed_at=time.monotonic(), work=work)
    world.quarantine = Quarantine(cast("EngineLink", world))
    long = asyncio.create_task(generated(world.quarantine.trial(again), "long"))
    await asyncio.sleep(0)
    assert not world.quarantine.open.is_set()
    async with asyncio.timeout(30):
        await world.quarantine.open.wait()
    beside = asyncio.create_task(generated(trial(world), "beside"))
    await asyncio.sleep(0.01)
    assert {"long", "beside"} in world.runs
    for task in (long, beside):
        task.cancel()
    await asyncio.wait({long, beside})


async def test_others_trials_are_charged_to_nobody(attempt: Attempt) -> None:
    """One claim brings a suspect that takes its whole time, and two that have nothing to do with it."""
    world = World(seconds=60.0)
    work = attempt.work.model_copy(update={"attempt_timeout_ms": 700})
    fresh = replace(attempt, monotonic=time.monotonic, claimed_at=time.monotonic(), work=work)
    suspected = replace(fresh, work=work.model_copy(update={"attempts": [LOST_ALONE]}))
    suspect = asyncio.create_task(generated(world.quarantine.trial(suspected), "suspect"))
    await asyncio.sleep(0)
    ends = await asyncio.gather(*(generated(world.quarantine.trial(fresh), name) for name in ("a", "b")))
    assert ends == ["given back", "given back"]
    suspect.cancel()
    await asyncio.wait({suspect})


async def test_an_abort_between_two_tries_ends_the_second(trial: Callable[[World], Trial]) -> None:
    world = World()
    one = trial(world)
    assert await generated(one, "first") == "first"
    world.quarantine.accuse(["another"])
    second = asyncio.create_task(generated(one, "second"))
    await asyncio.sleep(0.01)
    await one.abort("second")
    assert await second == "given back"
    assert world.aborted == []
