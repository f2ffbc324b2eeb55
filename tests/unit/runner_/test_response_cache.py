"""What is given again, to whom, and what is not kept."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from headrace_bus import BusOutOfMemory, BusUnavailable, LeaseToken, ModelKey, StreamEvent
from headrace_crds.cache import CacheUse
from headrace_crds.inputs import Output
from headrace_crds.remote import Price
from headrace_crds.result import Usage as BilledUsage
from headrace_crds.task import Message, Outcome, Role, Tool
from headrace_runner.attempt import Attempt
from headrace_runner.curb import Curb
from headrace_runner.engine.protocol import Generate, GenerationResult, Timings, Usage
from headrace_runner.execute import execute
from headrace_runner.metrics import Metrics
from headrace_runner.response_cache import ResponseCache, digest_of, restored
from headrace_runner.streaming import TokenStreams
from headrace_runner.validate import Validator
from headrace_runner.verdict import GivenBack, Setback, Verdict

MODEL = ModelKey("ns", "smol")
USE = CacheUse(incarnation="uid/1", ttl_seconds=60, max_entries=3)
PRICE = Price(input_per_million_tokens="100000", output_per_million_tokens="100000")


class Kept:
    """A bus that keeps everything, and fails where it is told to."""

    def __init__(self) -> None:
        self.values: dict[str, dict[str, Any]] = {}
        self.away = False

    async def cached(self, model: ModelKey, digest: str) -> dict[str, Any] | None:
        if self.away:
            raise BusUnavailable("away")
        return self.values.get(digest)

    async def cache(
        self, model: ModelKey, digest: str, value: dict[str, Any], *, ttl_seconds: int, max_entries: int
    ) -> None:
        if self.away:
            raise BusOutOfMemory("full")
        self.values[digest] = value


class Model:
    """An engine that counts how often it is asked."""

    def __init__(self, text: str = "four", finish: Any = "Stop") -> None:
        self.asked, self._text, self._finish = 0, text, finish

    async def generate(
        self, request: Generate, *, on_progress: Callable[[int], None] | None = None
    ) -> GenerationResult:
        self.asked += 1
        return GenerationResult(request.id, self._text, self._finish, Usage(5, 0, 7), Timings(0, 1, 2))

    async def abort(self, generation_id: str) -> None: ...


class Ends:
    def __init__(self) -> None:
        self.told: list[Verdict | Setback | GivenBack] = []

    def progress(self, completion_tokens: int) -> None: ...

    def generated(self) -> None: ...

    async def conclude(self, verdict: Verdict) -> None:
        self.told.append(verdict)

    async def give_back(self, setback: Setback) -> None:
        self.told.append(setback)

    async def release(self, reason: str, usage: BilledUsage | None = None) -> None:
        self.told.append(GivenBack(reason, usage))


async def tried(bus: Kept, attempt: Attempt, model: Model, *, use: CacheUse = USE) -> Verdict:
    ends = Ends()
    cache = ResponseCache(bus, MODEL, attempt, use, model, ends, None, Metrics())
    async with Validator() as validator:
        await execute(attempt, cache, validator, cache, Curb())
    [verdict] = ends.told
    assert isinstance(verdict, Verdict)
    return verdict


def changed(attempt: Attempt, **work: Any) -> Attempt:
    return replace(attempt, work=attempt.work.model_copy(update=work))


def parameters(attempt: Attempt, **given: Any) -> Attempt:
    return changed(attempt, parameters=attempt.work.parameters.model_copy(update=given))


async def test_the_second_time_nobody_is_asked_and_nothing_is_billed(attempt: Attempt) -> None:
    bus, model = Kept(), Model()
    first = await tried(bus, changed(attempt, price=PRICE), model)
    second = await tried(bus, changed(replace(attempt, uid="u-2"), price=PRICE), model)
    assert model.asked == 1
    assert first.usage is not None
    assert (first.usage.cache_hit, first.usage.cost_micros) == (None, 1_200_000)
    assert second.usage is not None
    assert second.usage.dump() == {
        "promptTokens": 0,
        "cachedTokens": 0,
        "completionTokens": 0,
        "cacheHit": True,
        "costMicros": 0,
        "currency": "USD",
    }
    assert second.outcome is Outcome.COMPLETE
    assert second.result == first.result


@pytest.mark.parametrize("given", [{"temperature": "0.7"}, {"temperature": None}], ids=["drawn", "by default"])
async def test_what_is_drawn_is_not_given_again_without_a_seed(given: dict[str, Any], attempt: Attempt) -> None:
    bus, model = Kept(), Model()
    for _ in range(2):
        await tried(bus, parameters(attempt, **given), model)
    assert (model.asked, bus.values) == (2, {})
    for _ in range(2):
        await tried(bus, parameters(attempt, **given, seed=7), model)
    assert model.asked == 3


async def test_who_asks_for_something_else_is_given_something_else(attempt: Attempt) -> None:
    bus, model = Kept(), Model('"x"')
    others = [
        attempt,
        replace(attempt, namespace="other"),
        changed(attempt, messages=[Message(role=Role.USER, content="hello!")]),
        changed(attempt, messages=[Message(role=Role.SYSTEM, content="hello")]),
        changed(attempt, output=Output(json_schema='{"type":"string"}')),
        parameters(attempt, max_tokens=65),
        parameters(attempt, seed=1),
    ]
    for each in others:
        await tried(bus, each, model)
    await tried(bus, attempt, model, use=USE.model_copy(update={"incarnation": "uid/2"}))
    assert model.asked == len(others) + 1 == len(bus.values)
    assert "hello" not in repr(bus.values)


@pytest.mark.parametrize(
    ("model", "asked"),
    [
        (Model("fou", "Length"), {}),
        (Model("no JSON"), {"output": Output(json_schema='{"type":"object"}', max_repairs=0)}),
        (Model(), {"tools": [Tool(name="act")]}),
    ],
    ids=["cut off", "invalid", "tools"],
)
async def test_what_is_partial_invalid_or_may_act_is_not_kept(
    model: Model, asked: dict[str, Any], attempt: Attempt
) -> None:
    bus = Kept()
    for _ in range(2):
        await tried(bus, changed(attempt, **asked), model)
    assert model.asked == 2
    assert bus.values == {}


async def test_without_the_bus_the_model_is_asked(attempt: Attempt) -> None:
    bus, model = Kept(), Model()
    bus.away = True
    for _ in range(2):
        assert (await tried(bus, attempt, model)).outcome is Outcome.COMPLETE
    assert model.asked == 2


@pytest.mark.parametrize(
    "spoilt",
    [{}, {"text": "five"}, {"text": 4}, {"enforcement": "Mine"}, {"sha256": None}, {"reasoning": None}],
    ids=lambda each: ",".join(each) or "same",
)
async def test_an_entry_that_does_not_fit_its_digest_is_none(spoilt: dict[str, Any], attempt: Attempt) -> None:
    bus, model = Kept(), Model()
    await tried(bus, attempt, model)
    [digest] = bus.values
    bus.values[digest] |= spoilt
    assert (restored(bus.values[digest], "g") is None) == bool(spoilt)
    assert (await tried(bus, attempt, model)).result is not None
    assert model.asked == (2 if spoilt else 1)


def test_how_it_is_told_makes_no_other_request() -> None:
    request = Generate("a", prompt="p")
    told = replace(request, id="b", stream=True, whole=True, cache_scope="s")
    assert digest_of(request, "ns", "u/1") == digest_of(told, "ns", "u/1")
    assert digest_of(request, "ns", "u/1") != digest_of(request, "n", "su/1")


class Told:
    """A bus that is told what streams say."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    async def stream(self, model: ModelKey, events: Sequence[StreamEvent]) -> list[bool]:
        self.events += [each.event for each in events]
        return [True] * len(events)


async def test_who_streams_is_told_the_whole_text_of_a_hit(attempt: Attempt) -> None:
    bus, model, told, ends = Kept(), Model(), Told(), Ends()
    await tried(bus, attempt, model)
    streams = TokenStreams(told, MODEL, Metrics())
    stream = streams.open(LeaseToken("u-1", 1, "n"), "facade-0", streams.monotonic())
    cache = ResponseCache(bus, MODEL, attempt, USE, model, ends, stream, Metrics())
    async with Validator() as validator:
        await execute(attempt, cache, validator, cache, Curb())
    await streams.append()
    assert [each.get("text") for each in told.events] == ["four"]
    assert model.asked == 1
