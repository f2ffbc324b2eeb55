"""A provider that does what a test says, and a gate that writes down what it is told."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from headrace_runner.engine.embedding_request import Embed
from headrace_runner.engine.protocol import Delta, FinishReason, Generate, GenerationResult, Timings, Usage
from headrace_runner.providers.protocol import Fault
from headrace_runner.remote.call_gate import NotAdmitted
from headrace_runner.remote.gate_state import GateState

OnDelta = Callable[[Delta], None]
Script = Callable[[Generate, OnDelta], Awaitable[Any]]
USAGE = Usage(prompt_tokens=7, cached_tokens=2, completion_tokens=3, reasoning_tokens=1)


def result(text: str = "hello", finish_reason: FinishReason = "Stop", **more: Any) -> GenerationResult:
    # Times of its own, which nobody is to believe.
    return GenerationResult("provider's id", text, finish_reason, USAGE, Timings(9_000, 9_000, 9_000), **more)


def delta(text: str, tokens: int = 0, **more: Any) -> Delta:
    return Delta("provider's id", text, tokens, **more)


async def says_hello(request: Generate, on_delta: OnDelta) -> GenerationResult:
    on_delta(delta("hel", 1))
    on_delta(delta("lo", 3))
    return result()


def raises(error: BaseException, *texts: str) -> Script:
    async def script(request: Generate, on_delta: OnDelta) -> None:
        for text in texts:
            on_delta(delta(text))
        raise error

    return script


class Endless:
    """Says some words and then nothing; ``on_delta`` is how the test makes it speak on."""

    def __init__(self, *texts: str, stubborn: bool = False) -> None:
        self.spoke, self.cancelled, self.release = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.on_delta: OnDelta = lambda _: None
        self._texts = texts
        self._stubborn = stubborn

    async def __call__(self, request: Generate, on_delta: OnDelta) -> GenerationResult:
        self.on_delta = on_delta
        for text in self._texts:
            on_delta(delta(text))
        self.spoke.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            if not self._stubborn:
                raise
            await self.release.wait()
        return result("all of it")


class ScriptedProvider:
    def __init__(self, script: Script = says_hello) -> None:
        self.script = script
        self.on_start: Callable[[], None] = lambda: None
        self.on_health: Callable[[], None] = lambda: None
        self.started = self.health_checks = self.closed = 0
        self.requests: list[Generate] = []
        self.asked = asyncio.Event()

    async def start(self) -> None:
        self.started += 1
        self.on_start()

    async def generate(self, request: Generate, on_delta: OnDelta) -> GenerationResult:
        self.requests.append(request)
        self.asked.set()
        given: GenerationResult = await self.script(request, on_delta)
        return given

    async def embed(self, request: Embed) -> GenerationResult:
        return result(f"vectors of {len(request.input)}")

    async def check_health(self) -> None:
        self.health_checks += 1
        self.on_health()

    async def aclose(self) -> None:
        self.closed += 1


@dataclass(frozen=True)
class Settled:
    fault: Fault | None
    reason: str
    message: str
    tokens: int
    retry_after_seconds: float | None


@dataclass
class WatchedGate:
    """``refusal`` is raised by ``admit``; ``admission`` is waited for before."""

    refusal: NotAdmitted | None = None
    admission: asyncio.Event | None = None
    admitted: dict[str, int] = field(default_factory=dict)
    settled: dict[str, Settled] = field(default_factory=dict)
    now: GateState = field(default_factory=GateState)
    open: asyncio.Event = field(default_factory=asyncio.Event)
    ran: bool = False
    places: int = 3
    expected: int = 0
    changes: int = 0

    def room(self) -> int:
        return self.places

    def claimed(self, count: int) -> None:
        self.expected += count

    async def admit(self, call_id: str, tokens: int) -> None:
        if self.admission is not None:
            await self.admission.wait()
        if self.refusal is not None:
            raise self.refusal
        self.admitted[call_id] = tokens

    async def settle(self, call_id: str, **how: Any) -> None:
        assert call_id not in self.settled, "settled twice"
        self.settled[call_id] = Settled(**how)

    def changed(self) -> None:
        self.changes += 1

    def state(self) -> GateState:
        return self.now

    async def run(self) -> None:
        self.ran = True
        await asyncio.Event().wait()
