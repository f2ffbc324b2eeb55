"""A CallService without Redis and runners: plays a script and remembers what was asked. And all that is around it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

from starlette.datastructures import Headers

from headrace_bus.tracing import SILENT, Tracing
from headrace_crds.dialogue import ToolCall
from headrace_crds.model import LLMModel
from headrace_crds.result import Timings, Usage
from headrace_facade.bearer import bearer_token
from headrace_facade.budget import ByteBudget
from headrace_facade.caller import Caller
from headrace_facade.calls.contract import CallEvent, CallRequest, CallResult, Choice, Delta, Ended, Waiting
from headrace_facade.errors import FacadeError, Unauthenticated
from headrace_facade.metrics import Metrics
from headrace_facade.openai_dialect.port import Models
from headrace_facade.settings import Settings

CALL_ID = "call-" + "0123456789abcdef" * 2
KEY = "hr_test_key"
CALLER = Caller(namespace="team-a", name="key:test")
USAGE = Usage(prompt_tokens=11, cached_tokens=4, completion_tokens=7, reasoning_tokens=2)
TIMINGS = Timings(queued_millis=1, first_token_millis=2, generation_millis=3)
WEATHER = ToolCall(id="call_1", name="weather", arguments='{"city":"Bern"}')
TIME = ToolCall(id="call_2", name="time", arguments="{}")


class Never:
    """In a script: from here on nothing comes."""


@dataclass
class Gate:
    """In a script: what follows comes once it is open."""

    opened: asyncio.Event = field(default_factory=asyncio.Event)


Step = CallEvent | FacadeError | Exception | Never | Gate


def result(*choices: Choice, model: str = "team-a/small", embeddings: Sequence[list[float]] = ()) -> CallResult:
    return CallResult(list(choices), USAGE, TIMINGS, model, list(embeddings))


def ended(text: str = "", finish: str = "Stop", *calls: ToolCall, reasoning: str = "") -> Ended:
    return Ended(result(Choice(text, finish, list(calls), reasoning)))


def spoken(*pieces: str) -> list[Step]:
    """The pieces, and the end."""
    return [*(Delta(text=piece) for piece in pieces), ended("".join(pieces))]


@dataclass
class FakeCall:
    script: list[Step]
    id: str = CALL_ID
    model: str = "team-a/small"

    async def events(self) -> AsyncIterator[CallEvent]:
        for step in self.script:
            match step:
                case Exception():
                    raise step
                case Never():
                    await asyncio.Event().wait()
                case Gate(opened):
                    await opened.wait()
                case Waiting() | Delta() | Ended():
                    yield step

    async def result(self) -> CallResult:
        async for event in self.events():
            if isinstance(event, Ended):
                return event.result
        raise AssertionError("the script has no end")


@dataclass
class FakeCalls:
    """`refusal` is raised when a call is entered, before anything is queued."""

    script: list[Step] = field(default_factory=lambda: spoken("Hello"))
    refusal: FacadeError | None = None
    asked: list[CallRequest] = field(default_factory=list)
    callers: list[Caller] = field(default_factory=list)
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def call(self, caller: Caller, request: CallRequest) -> AsyncIterator[FakeCall]:
        self.asked.append(request)
        self.callers.append(caller)
        if self.refusal is not None:
            raise self.refusal
        self.entered.set()
        try:
            yield FakeCall(self.script)
        finally:
            self.left.set()


class Authenticating(Protocol):
    async def authenticate(self, headers: Headers) -> Caller: ...


class FakeCallers:
    async def authenticate(self, headers: Headers) -> Caller:
        if bearer_token(headers.get("Authorization")) != KEY:
            raise Unauthenticated("no such key")
        return CALLER


def model(namespace: str, name: str) -> LLMModel:
    return LLMModel.model_validate(
        {
            "metadata": {
                "namespace": namespace,
                "name": name,
                "creationTimestamp": "2026-01-02T03:04:05Z",
                "uid": "u",
                "generation": 1,
            },
            "spec": {"remote": {"provider": "OpenAI", "model": "m"}},
        }
    )


@dataclass
class FakeDirectory:
    found: list[LLMModel] = field(default_factory=lambda: [model("team-a", "small"), model("platform", "large")])

    def check_synced(self) -> None: ...

    def model(self, caller: Caller, named: str) -> LLMModel | None:
        key = named if "/" in named else f"{caller.namespace}/{named}"
        return next((m for m in self.found if f"{m.metadata.namespace}/{m.metadata.name}" == key), None)

    def models(self, caller: Caller) -> list[LLMModel]:
        return self.found


@dataclass
class FakeContext:
    """Of the real one what the dialects and the Guard use."""

    calls: FakeCalls = field(default_factory=FakeCalls)
    callers: Authenticating = field(default_factory=FakeCallers)
    directory: Models = field(default_factory=FakeDirectory)
    settings: Settings = field(default_factory=lambda: Settings(kube_url="http://127.0.0.1:1", kube_ca_file=None))
    metrics: Metrics = field(default_factory=Metrics)
    bodies: ByteBudget = field(default_factory=lambda: ByteBudget(16 * 1024 * 1024, "too many bodies"))
    tracing: Tracing = SILENT
