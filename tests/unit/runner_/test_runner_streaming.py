"""What the engine adds reaches the bus in one append for all, in order, or is said to be missing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import pytest

from headrace_bus import BusOutOfMemory, LeaseToken, ModelKey, StreamEvent
from headrace_runner.attempt import Attempt
from headrace_runner.engine.client import EngineLost
from headrace_runner.engine.protocol import Delta, Generate, GenerationResult, Timings, Usage
from headrace_runner.engine.tools import ToolCall
from headrace_runner.engine_link import EngineLink
from headrace_runner.metrics import Metrics
from headrace_runner.quarantine import Quarantine
from headrace_runner.streaming import PENDING_CHARS, CallStream, TokenStreams

MODEL = ModelKey("ns", "smol")


class FakeBus:
    """Keeps what is appended; refuses while ``full``, and whoever is in ``lost``."""

    def __init__(self) -> None:
        self.appends: list[list[StreamEvent]] = []
        self.full = False
        self.lost: set[str] = set()

    async def stream(self, model: ModelKey, events: Sequence[StreamEvent]) -> list[bool]:
        assert model == MODEL
        await asyncio.sleep(0)
        if self.full:
            raise BusOutOfMemory("full")
        self.appends.append(list(events))
        return [event.token.uid not in self.lost for event in events]

    def told(self, uid: str = "u") -> list[dict[str, Any]]:
        return [each.event for append in self.appends for each in append if each.token.uid == uid]


@pytest.fixture
def bus() -> FakeBus:
    return FakeBus()


@pytest.fixture
async def streams(bus: FakeBus) -> TokenStreams:
    return TokenStreams(bus, MODEL, Metrics())


@pytest.fixture
async def running(streams: TokenStreams) -> AsyncIterator[TokenStreams]:
    task = asyncio.create_task(streams.run())
    yield streams
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def opened(streams: TokenStreams, uid: str = "u") -> CallStream:
    return streams.open(LeaseToken(uid, 3, "n"), "facade-0", streams.monotonic())


def added(text: str, tokens: int, **fields: Any) -> Delta:
    return Delta("any", text, tokens, **fields)


async def test_a_step_of_several_generations_is_one_append(bus: FakeBus, running: TokenStreams) -> None:
    calls = [opened(running, uid) for uid in ("a", "b", "c")]
    for call in calls:
        call.delta(added("x", 1))
    await asyncio.gather(*(call.end(outcome="Complete") for call in calls))
    assert [each.token.uid for each in bus.appends[0]] == ["a", "a", "b", "b", "c", "c"]
    assert {each.reader for each in bus.appends[0]} == {"facade-0"}
    assert bus.told("a") == [{"attempt": 3, "text": "x", "tokens": 1}, {"attempt": 3, "outcome": "Complete"}]


async def test_what_waits_together_is_one_event_and_nothing_is_out_of_order(
    bus: FakeBus, streams: TokenStreams
) -> None:
    call = opened(streams)
    for number, text in enumerate("abc", 1):
        call.delta(added(text, number))
    call.delta(added("z", 1, index=1))
    call.delta(added("d", 4))
    call.delta(added("", 5, tool_calls=(ToolCall("1", "f", "{}"),)))
    call.delta(added("", 6, tool_calls=(ToolCall("2", "f", "x" * 9000),)))
    assert await streams.append()
    assert bus.told() == [
        {"attempt": 3, "text": "abc", "tokens": 3},
        {"attempt": 3, "index": 1, "text": "z", "tokens": 1},
        {"attempt": 3, "text": "d", "tokens": 4},
        {"attempt": 3, "tokens": 5, "toolCall": {"id": "1", "name": "f", "arguments": "{}"}},
        {"attempt": 3, "skipped": True},
    ]


async def test_a_long_text_is_several_events_that_fit_the_bus(bus: FakeBus, streams: TokenStreams) -> None:
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 20_000)))
    opened(streams).delta(added(text, 9))
    await streams.append()
    assert "".join(event["text"] for event in bus.told()) == text
    assert all(len(event["text"].encode()) < 32 * 1024 for event in bus.told())


async def test_what_the_bus_does_not_take_is_told_later_and_in_order(bus: FakeBus, streams: TokenStreams) -> None:
    calls = [opened(streams, uid) for uid in ("a", "b")]
    bus.full = True
    for call in calls:
        call.delta(added("1", 1))
        call.begin()
    assert not await streams.append()
    for call in calls:
        call.delta(added("2", 1))
    bus.full = False
    assert await streams.append()
    for uid in ("a", "b"):
        assert [each.get("text", "restart") for each in bus.told(uid)] == ["1", "restart", "2"]


async def test_beyond_its_bound_a_gap_is_told_and_the_end_is_not_lost(bus: FakeBus, streams: TokenStreams) -> None:
    call = opened(streams)
    for number in range(PENDING_CHARS // 8000 + 2):
        call.delta(added("x" * 8000, number + 1))
    assert sum(len(event.get("text", "")) for event in call.pending) <= PENDING_CHARS
    ending = asyncio.create_task(call.end(outcome="Complete"))
    await asyncio.sleep(0)
    await streams.append()
    await ending
    assert bus.told()[0] == {"attempt": 3, "skipped": True}
    assert bus.told()[-1] == {"attempt": 3, "outcome": "Complete"}


async def test_who_lost_its_lease_says_no_more(bus: FakeBus, running: TokenStreams) -> None:
    call, other = opened(running), opened(running, "other")
    bus.lost.add("u")
    call.delta(added("a", 1))
    other.delta(added("b", 1))
    await other.end(outcome="Complete")
    call.delta(added("c", 2))
    await call.end(outcome="Complete")
    assert [event.get("text") for event in bus.told()] == ["a"]
    assert len(bus.told("other")) == 2


async def test_the_time_to_the_first_append_is_measured_once(bus: FakeBus, running: TokenStreams) -> None:
    call = opened(running)
    for number in range(3):
        call.delta(added("a", number + 1))
        await asyncio.sleep(0.05)
    await call.end(outcome="Complete")
    assert running.metrics.registry.get_sample_value("headrace_runner_first_append_seconds_count") == 1


class Engine:
    """Says ``text`` as it goes, and dies under it where it is to."""

    def __init__(self, text: str, *, dies: bool) -> None:
        self.closed = asyncio.Event()
        self._text, self._dies = text, dies

    async def generate(
        self, request: Generate, *, on_progress: object = None, on_delta: Callable[[Delta], None]
    ) -> GenerationResult:
        assert request.stream
        on_delta(Delta(request.id, self._text, 1))
        await asyncio.sleep(0.01)
        if self._dies:
            self.closed.set()
            raise EngineLost("gone")
        return GenerationResult(request.id, self._text, "Stop", Usage(1, 0, 1), Timings(0, 1, 1))


class Link:
    def __init__(self, client: Engine) -> None:
        self.client: Any = client
        self.serving = asyncio.Event()
        self.serving.set()


async def test_what_an_engine_said_before_it_died_is_void(
    bus: FakeBus, streams: TokenStreams, attempt: Attempt
) -> None:
    link = Link(Engine("lost", dies=True))
    quarantine = Quarantine(cast("EngineLink", link))
    fresh = replace(attempt, monotonic=streams.monotonic, claimed_at=streams.monotonic())
    trials = [quarantine.trial(fresh, opened(streams, uid)) for uid in ("a", "b")]
    asking = [asyncio.create_task(trial.generate(Generate(str(n), prompt="x"))) for n, trial in enumerate(trials)]
    await asyncio.sleep(0.005)
    link.client = Engine("kept", dies=False)
    assert [result.text for result in await asyncio.gather(*asking)] == ["kept", "kept"]
    await streams.append()
    for uid in ("a", "b"):
        assert [each.get("text", "restart") for each in bus.told(uid)] == ["lost", "restart", "kept"]
