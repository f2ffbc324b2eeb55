"""A facade's calls in virtual time, against a bus that is played."""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from headrace_bus import FIRST, EntryState, Envelope, ModelKey, Stats, Token
from headrace_crds import LLMModel
from headrace_crds.task import Role
from headrace_crds.work import CallOptions, WorkMessage
from headrace_facade.bounds import Bounds
from headrace_facade.caller import Caller
from headrace_facade.calls.contract import CallEvent, CallRequest
from headrace_facade.calls.hub import Hub
from headrace_facade.calls.service import Calls
from headrace_facade.rates import Rates
from tests.fake_calls.service import CALLER
from tests.virtual_time import VirtualLoop

SMALL, OTHER = ModelKey("team-a", "small"), ModelKey("team-a", "other")
PLAIN = CallRequest("small", [WorkMessage(role=Role.USER, content="Hello?")])
STREAMED = replace(PLAIN, options=CallOptions(stream=True))
USAGE = {"promptTokens": 3, "completionTokens": 2}
TIMINGS = {"queuedMillis": 1, "firstTokenMillis": 2, "generationMillis": 3}


def ending(text: str = "Hello", **fields: Any) -> dict[str, Any]:
    choice = {"text": text, "reasoning": "", "finishReason": "Stop", "toolCalls": [], "logprobs": []}
    told = {"outcome": "Complete", "reason": "Succeeded", "message": "", "retryable": False, "choices": [choice]}
    return {**told, "usage": USAGE, "timings": TIMINGS, "enforcement": None, "repairs": 0, **fields}


def streamed_ending(text: str) -> dict[str, Any]:
    digest = hashlib.sha256(text.encode()).hexdigest()
    choice = {"textBytes": len(text), "sha256": digest, "finishReason": "Stop", "toolCalls": [], "logprobs": []}
    return ending(choices=[choice])


def failed(reason: str, *, retryable: bool = False) -> dict[str, Any]:
    return ending(outcome="Failed", reason=reason, message="why", retryable=retryable, choices=[], usage=None)


@dataclass
class FakeBus:
    """`plays` gets each queued envelope; what is told stands in the replay, and in the inbox unless it was `lost`."""

    plays: Callable[["FakeBus", ModelKey, Envelope], Awaitable[None]]
    queued: list[tuple[ModelKey, Envelope]] = field(default_factory=list)
    hung_up: list[str] = field(default_factory=list)
    states: dict[str, EntryState] = field(default_factory=dict)
    inboxes: dict[ModelKey, list[Token]] = field(default_factory=dict)
    replays: dict[str, list[Token]] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    playing: list[asyncio.Task[None]] = field(default_factory=list)

    async def call(self, model: ModelKey, envelope: Envelope, *, reader: str, lease_ms: int) -> None:
        self.queued.append((model, envelope))
        self.states[envelope.uid] = EntryState.QUEUED
        self.playing.append(asyncio.create_task(self.plays(self, model, envelope)))

    async def waiting(self, model: ModelKey, reader: str, uids: list[str], *, lease_ms: int) -> list[EntryState | None]:
        return [self.states.get(uid) for uid in uids]

    async def hang_up(self, model: ModelKey, uid: str, *, reader: str) -> bool:
        self.hung_up.append(uid)
        return True

    async def tokens(
        self, reader: str, after: Mapping[ModelKey, str], *, timeout_s: float
    ) -> dict[ModelKey, tuple[str, list[Token]]]:
        self.changed.clear()
        found = {model: self.inboxes.get(model, [])[int(last.partition("-")[0]) :] for model, last in after.items()}
        if not any(found.values()):
            try:
                await asyncio.wait_for(self.changed.wait(), timeout_s)
            except TimeoutError:
                return {}
            return await self.tokens(reader, after, timeout_s=timeout_s)
        return {model: (f"{len(self.inboxes[model])}-0", told) for model, told in found.items() if told}

    async def replay(self, model: ModelKey, uid: str, *, after: str = FIRST) -> list[Token]:
        number = int(after.partition("-")[0])
        return [each for each in self.replays.get(uid, []) if int(each.id.partition("-")[0]) > number]

    async def position(self, model: ModelKey, uid: str) -> int | None:
        return 7

    def tell(self, model: ModelKey, uid: str, event: dict[str, Any], *, lost: bool = False) -> None:
        kept = self.replays.setdefault(uid, [])
        same = [each for each in kept if each.event["attempt"] == event["attempt"]]
        token = Token(uid, f"{len(kept) + 1}-0", same[-1].id if same else FIRST, event)
        kept.append(token)
        if not lost:
            self.inboxes.setdefault(model, []).append(token)
            self.changed.set()

    def end(self, model: ModelKey, envelope: Envelope, document: dict[str, Any], **fields: bool) -> None:
        self.states.pop(envelope.uid, None)
        self.tell(model, envelope.uid, {"attempt": envelope.attempt, "end": json.dumps(document)}, **fields)


def model(key: ModelKey, **spec: Any) -> LLMModel:
    now = "2026-01-01T00:00:00Z"
    conditions = [
        {"type": each, "status": "True", "reason": "Serving", "message": "", "lastTransitionTime": now}
        for each in ("Ready", "Available")
    ]
    source = {"persistentVolumeClaim": {"claimName": "c", "path": "m.gguf"}}
    return LLMModel.model_validate(
        {
            "metadata": {"namespace": key.namespace, "name": key.name, "uid": "u"},
            "spec": {"local": {"source": source}, **spec},
            "status": {"conditions": conditions},
        }
    )


class Directory:
    def __init__(self, *models: LLMModel) -> None:
        self._models = {f"{each.metadata.namespace}/{each.metadata.name}": each for each in models}

    def model(self, caller: Caller, named: str) -> LLMModel | None:
        return self._models.get(named if "/" in named else f"{caller.namespace}/{named}")

    def any_model(self, key: ModelKey) -> LLMModel | None:
        return self._models.get(str(key))

    def may_call(self, caller: Caller, model: LLMModel) -> bool:
        return True

    def quota(self, namespace: str) -> None:
        return None

    def check_synced(self) -> None: ...


class Queues:
    async def recent_stats(self, model: ModelKey) -> Any:
        return Stats(0, 0, 0, 0, None)

    async def ahead(self, model: ModelKey, uid: str) -> int | None:
        return 7


Play = Callable[[FakeBus, ModelKey, Envelope], Awaitable[None]]


def run(
    plays: Play, request: CallRequest = PLAIN, *models: LLMModel, hold: float = 60
) -> tuple[list[CallEvent], FakeBus]:
    """All events of the call, and the bus."""

    async def main() -> tuple[list[CallEvent], FakeBus]:
        loop = asyncio.get_running_loop()
        bus = FakeBus(plays)
        hub = Hub(bus, "facade-1", loop.time)
        calls = Calls(
            hub,
            Directory(*(models or (model(SMALL),))),  # type: ignore[arg-type]
            Rates(None, 0, 0),
            Queues(),  # type: ignore[arg-type]
            bounds=Bounds(),
            hold_seconds=hold,
            calls_limit=8,
            clock=loop.time,
        )
        parts = [asyncio.create_task(each) for each in (hub.read(), hub.renew())]
        try:
            async with calls.call(CALLER, request) as call:
                return [event async for event in call.events()], bus
        finally:
            await calls.aclose()
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, *bus.playing, return_exceptions=True)
            assert hub.calls == 0
            run.bus = bus  # type: ignore[attr-defined]

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main())


def bus_of_last_run() -> FakeBus:
    found: FakeBus = run.bus  # type: ignore[attr-defined]
    return found
