"""An attempt's calls of a provider: results, early ends, faults, and what the gate is told of each."""

import asyncio
import json
from dataclasses import replace
from typing import Any, cast

import pytest
from scripted_provider import (
    USAGE,
    Endless,
    OnDelta,
    Script,
    ScriptedProvider,
    Settled,
    WatchedGate,
    delta,
    raises,
    result,
    says_hello,
)

from headrace_crds.model import Capability
from headrace_crds.reasons import Reason
from headrace_runner.engine.embedding_request import Embed
from headrace_runner.engine.protocol import Delta, Generate, GenerationResult, Message, Parameters, Usage
from headrace_runner.engine.tools import Tool, ToolCall
from headrace_runner.providers.protocol import Fault, ProviderError, counted
from headrace_runner.remote import engine as remote_engine
from headrace_runner.remote.call_gate import NotAdmitted
from headrace_runner.remote.engine import Line, RemoteEngine
from headrace_runner.remote.refused import Consequence, ProviderRefused
from headrace_runner.streaming import CallStream

REQUEST = Generate("u-1/1", messages=(Message("user", "x" * 40),), parameters=Parameters(max_tokens=64))
INPUT_TOKENS = 10
KEY_IN_TEXT = "sk-secret"


class World:
    def __init__(self, script: Script = says_hello, stream: CallStream | None = None, **line: Any) -> None:
        self.provider, self.gate, self.successes = ScriptedProvider(script), WatchedGate(), 0
        self.engine = RemoteEngine(Line(self.provider, self.gate, on_success=self._succeeded, **line), stream)

    def _succeeded(self) -> None:
        self.successes += 1

    async def refused(self, request: Generate | Embed = REQUEST) -> ProviderRefused:
        with pytest.raises(ProviderRefused) as caught:
            await self.engine.generate(request)
        return caught.value

    @property
    def settled(self) -> Settled:
        """What the gate was told, of the one call that there was."""
        (call_id,) = self.gate.settled
        assert not call_id.startswith("health/")
        return self.gate.settled[call_id]


class Stream:
    """What a reader would see."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def begin(self) -> None:
        self.seen.append("begin")

    def delta(self, delta: Delta) -> None:
        self.seen.append(delta.text)


async def test_a_result_has_the_callers_id_and_times_measured_here() -> None:
    now = [100.0]

    async def script(request: Generate, on_delta: OnDelta) -> GenerationResult:
        now[0] += 0.25
        on_delta(delta("hello", 3))
        now[0] += 0.5
        return result(enforcement="Provider", reasoning="hm")

    world = World(script, monotonic=lambda: now[0])
    given = await world.engine.generate(REQUEST)
    assert (given.id, given.text, given.usage, given.enforcement) == ("u-1/1", "hello", USAGE, "Provider")
    assert given.reasoning == "hm"
    assert (given.timings.queued_ms, given.timings.first_token_ms, given.timings.generation_ms) == (0, 250, 750)
    assert list(world.gate.admitted.values()) == [INPUT_TOKENS + 64]
    assert world.settled == Settled(None, "", "", USAGE.prompt_tokens + USAGE.completion_tokens, None)
    assert world.successes == 1


async def test_the_estimate_counts_all_that_is_sent() -> None:
    world = World()
    said = Message("assistant", "", (ToolCall("1", "f", "y" * 8),))
    tool = Tool("f", "d" * 4, "p" * 4)
    await world.engine.generate(Generate("1", messages=(said,), json_schema="s" * 4, tools=(tool,)))
    await world.engine.generate(Embed("2", ("a" * 4, "b" * 5)))
    assert list(world.gate.admitted.values()) == [5, 3]


async def test_progress_is_told_at_most_twice_a_second() -> None:
    now, told = [0.0], list[int]()

    async def script(request: Generate, on_delta: OnDelta) -> GenerationResult:
        for number in range(1, 11):
            now[0] = number / 10
            # No count: a delta is taken for a token.
            on_delta(delta("x"))
        return result()

    await World(script, monotonic=lambda: now[0]).engine.generate(REQUEST, on_progress=told.append)
    assert told == [5, 10]


async def test_tool_calls_come_through_and_impossible_ones_are_a_setback() -> None:
    calls = (ToolCall("call_1", "weather", '{"city": "Bern"}'),)

    async def script(request: Generate, on_delta: OnDelta) -> GenerationResult:
        on_delta(delta("", tool_calls=calls))
        return result("", "ToolCalls", tool_calls=calls)

    assert (await World(script).engine.generate(REQUEST)).tool_calls == calls
    calls = (ToolCall("no id of ours", "weather", "{}"),)
    world = World(script)
    refused = await world.refused()
    assert (refused.consequence, refused.reason) == (Consequence.SETBACK, Reason.PROVIDER_ANSWER_INVALID)
    assert (world.settled.fault, world.successes) == (Fault.TRANSIENT, 0)


async def test_halves_of_characters_do_not_break_what_follows() -> None:
    async def script(request: Generate, on_delta: OnDelta) -> GenerationResult:
        return result("\ud83d\ude00 \ud83d")

    assert (await World(script).engine.generate(REQUEST)).text == "😀 \ufffd"


async def test_texts_are_embedded() -> None:
    world = World()
    assert (await world.engine.generate(Embed("u-1/1", ("a", "b")))).text == "vectors of 2"
    assert world.settled.fault is None


@pytest.mark.parametrize(
    ("request_", "capability"),
    [(Embed("1", ("a",)), Capability.CHAT), (REQUEST, Capability.EMBEDDING)],
)
async def test_what_the_model_cannot_is_not_asked(request_: Generate | Embed, capability: Capability) -> None:
    world = World(capabilities={capability})
    refused = await world.refused(request_)
    assert (refused.consequence, refused.reason) == (Consequence.FAILED, Reason.MODEL_NOT_CAPABLE)
    assert "spec.capabilities" in refused.message
    assert not world.gate.admitted


async def test_an_abort_ends_the_call_and_gives_the_text_so_far() -> None:
    script = Endless("so ", "far")
    world = World(script)
    asking = asyncio.create_task(world.engine.generate(REQUEST))
    await script.spoke.wait()
    await world.engine.abort("another")
    await world.engine.abort("u-1/1")
    partial = await asking
    assert script.cancelled.is_set()
    assert (partial.id, partial.text, partial.finish_reason) == ("u-1/1", "so far", "Cancelled")
    assert partial.usage == Usage(INPUT_TOKENS, 0, 2)
    assert world.settled == Settled(None, Reason.CANCELLED, "", INPUT_TOKENS + 2, None)
    assert world.successes == 0


async def test_a_call_that_does_not_end_is_left_and_its_late_deltas_are_ignored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(remote_engine, "END_SECONDS", 0.01)
    stream, script, told = Stream(), Endless("so far", stubborn=True), list[int]()
    world = World(script, cast("CallStream", stream), monotonic=iter(range(100)).__next__)
    asking = asyncio.create_task(world.engine.generate(REQUEST, on_progress=told.append))
    await script.spoke.wait()
    await world.engine.abort("u-1/1")
    assert (await asking).text == "so far"
    told.clear()
    script.on_delta(delta(" and more", 9))
    assert stream.seen == ["begin", "so far"]
    assert told == []
    assert world.settled.reason == Reason.CANCELLED
    script.release.set()


async def test_an_abort_while_the_gate_waits_gives_an_empty_text() -> None:
    world = World()
    world.gate.admission = asyncio.Event()
    asking = asyncio.create_task(world.engine.generate(REQUEST))
    await asyncio.sleep(0)
    await world.engine.abort("u-1/1")
    partial = await asking
    assert (partial.text, partial.finish_reason, partial.usage) == ("", "Cancelled", Usage(0, 0, 0))
    # It may have been admitted just then.
    assert world.settled.reason == Reason.CANCELLED
    assert not world.provider.requests


async def test_a_call_that_has_ended_when_the_abort_comes_is_whole() -> None:
    world = World()
    asking = asyncio.create_task(world.engine.generate(REQUEST))
    await world.provider.asked.wait()
    await world.engine.abort("u-1/1")
    assert (await asking).finish_reason == "Stop"


async def test_cancelling_it_ends_the_call_and_gives_nothing() -> None:
    script = Endless("so far")
    world = World(script)
    asking = asyncio.create_task(world.engine.generate(REQUEST))
    await script.spoke.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert script.cancelled.is_set()
    assert world.settled.reason == Reason.CANCELLED


async def test_a_reader_sees_the_text_and_what_a_second_try_makes_void() -> None:
    stream = Stream()
    world = World(stream=cast("CallStream", stream))
    await world.engine.generate(REQUEST)
    await world.engine.generate(REQUEST)
    await world.engine.generate(Embed("u-1/1", ("a",)))
    assert stream.seen == ["begin", "hel", "lo", "begin", "hel", "lo"]


@pytest.mark.parametrize(
    ("fault", "consequence"),
    [
        (Fault.RATE_LIMITED, Consequence.RELEASED),
        (Fault.OVERLOADED, Consequence.RELEASED),
        (Fault.UNAVAILABLE, Consequence.RELEASED),
        (Fault.TRANSIENT, Consequence.SETBACK),
        (Fault.TERMINAL, Consequence.FAILED),
    ],
)
async def test_a_fault_ends_the_attempt_as_it_says(fault: Fault, consequence: Consequence) -> None:
    error = ProviderError(fault, Reason.PROVIDER_FAILED, "a\nb" + "x" * 600, retry_after_seconds=4.0)
    world = World(raises(error))
    refused = await world.refused()
    assert (refused.consequence, refused.reason, refused.usage) == (consequence, Reason.PROVIDER_FAILED, None)
    assert refused.message == "a b" + "x" * 509
    tokens = INPUT_TOKENS if fault is Fault.TRANSIENT else 0
    assert world.settled == Settled(fault, Reason.PROVIDER_FAILED, refused.message, tokens, 4.0)
    assert world.successes == 0


def test_every_fault_has_a_consequence() -> None:
    assert set(remote_engine._CONSEQUENCES) == set(Fault)


async def test_an_error_keeps_the_usage_that_the_provider_charges() -> None:
    world = World(raises(ProviderError(Fault.TERMINAL, Reason.CONTENT_REFUSED, "no", usage=USAGE), "so far"))
    refused = await world.refused()
    assert refused.usage == USAGE
    assert world.settled.tokens == USAGE.prompt_tokens + USAGE.completion_tokens
    world = World(raises(ProviderError(Fault.OVERLOADED, Reason.PROVIDER_OVERLOADED, "later"), "so far"))
    await world.refused()
    assert world.settled.tokens == INPUT_TOKENS + 1


@pytest.mark.parametrize("error", [KeyError(KEY_IN_TEXT), TimeoutError(KEY_IN_TEXT), asyncio.CancelledError()])
async def test_what_else_a_provider_raises_is_a_setback_without_its_text(
    error: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(raises(error))
    refused = await world.refused()
    assert (refused.consequence, refused.reason) == (Consequence.SETBACK, Reason.RUNNER_ERROR)
    assert type(error).__name__ in refused.message
    assert KEY_IN_TEXT not in f"{refused} {world.settled} {capsys.readouterr()}"
    assert world.settled.fault is Fault.TRANSIENT


@pytest.mark.parametrize("given", [None, "text", result("so far", "Cancelled")])
async def test_a_provider_that_gives_no_finished_result_is_a_setback(given: object) -> None:
    async def script(request: Generate, on_delta: OnDelta) -> object:
        return given

    refused = await World(script).refused()
    assert (refused.consequence, refused.reason) == (Consequence.SETBACK, Reason.RUNNER_ERROR)


async def test_what_the_gate_refuses_is_released_and_never_asked() -> None:
    world = World()
    world.gate.refusal = NotAdmitted(Reason.RATE_LIMITED, "in a minute")
    refused = await world.refused()
    assert (refused.consequence, refused.reason) == (Consequence.RELEASED, Reason.RATE_LIMITED)
    assert not world.provider.requests
    assert not world.gate.settled


async def test_a_gate_that_does_not_answer_delays_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_engine, "SETTLE_SECONDS", 0.01)
    world = World()

    async def forever(call_id: str, **how: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(world.gate, "settle", forever)
    assert (await world.engine.generate(REQUEST)).text == "hello"


async def test_a_generation_that_runs_is_not_begun_again() -> None:
    script = Endless()
    world = World(script)
    asking = asyncio.create_task(world.engine.generate(REQUEST))
    await script.spoke.wait()
    with pytest.raises(ValueError, match="running already"):
        await world.engine.generate(REQUEST)
    script.release.set()
    assert (await asking).text == "all of it"


class CountingProvider(ScriptedProvider):
    async def count(self, request: Generate) -> GenerationResult:
        return counted(request, 17)


async def test_a_provider_that_counts_is_asked_and_nothing_is_taken_from_its_rates() -> None:
    world = World()
    world.engine = RemoteEngine(Line(CountingProvider(), world.gate, on_success=world._succeeded), None)
    asked = replace(REQUEST, count="Conversation")
    assert json.loads((await world.engine.generate(asked)).text) == {"count": 17}
    assert list(world.gate.admitted.values()) == [0]
    assert world.settled.tokens == 0


@pytest.mark.parametrize(("count", "said"), [("Conversation", "beforehand"), ("Text", "vocabulary")])
async def test_a_provider_that_does_not_count_is_not_asked(count: Any, said: str) -> None:
    world = World()
    refused = await world.refused(replace(REQUEST, prompt="x", messages=(), count=count))
    assert (refused.consequence, refused.reason) == (Consequence.FAILED, Reason.MODEL_NOT_CAPABLE)
    assert said in refused.message
    assert not world.gate.admitted
