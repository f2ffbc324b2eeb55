"""Text on its way to whoever shows it as it grows: collects what the engine's steps add, and appends it to the bus.

One append holds what all generations have added since the last, at most every 30 ms. It must not decide anything: a
stream that cannot be told is cut short and says so; the result is the record. What an event holds is a contract with
the facade, in docs/architecture.md.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import structlog

from headrace_bus import EVENTS_AT_ONCE, BusError, LeaseToken, ModelKey, StreamEvent
from headrace_runner.engine.protocol import Delta
from headrace_runner.metrics import Metrics

APPEND_EVERY_SECONDS: Final = 0.03
PENDING_CHARS: Final = 64 * 1024
"""Of one call, while the bus is away; more is skipped."""
_STEP_SECONDS: Final = 0.002
_EVENT_CHARS: Final = 8 * 1024
_CALLS_CHARS: Final = 8 * 1024
_AGAIN_SECONDS: Final = 0.25
_END_SECONDS: Final = 1.0

_log = structlog.get_logger()


class Appends(Protocol):
    """The bus, as far as it is needed here."""

    async def stream(self, model: ModelKey, events: Sequence[StreamEvent]) -> list[bool]: ...


class TokenStreams:
    """All streams of a runner. Run ``run`` as a task."""

    def __init__(
        self, bus: Appends, model: ModelKey, metrics: Metrics, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.metrics = metrics
        self.monotonic = monotonic
        self._bus = bus
        self._model = model
        # In the order in which they have something to tell.
        self._waiting: dict[CallStream, None] = {}
        self._changed = asyncio.Event()

    def open(self, token: LeaseToken, reader: str, claimed_at: float) -> "CallStream":
        """The stream of one attempt to a replica of the facade."""
        return CallStream(self, token, reader, claimed_at)

    def wake(self, call: "CallStream") -> None:
        """This call has something to tell."""
        self._waiting[call] = None
        self._changed.set()

    def forget(self, call: "CallStream") -> None:
        """This call has nothing to tell any more."""
        self._waiting.pop(call, None)

    async def run(self) -> None:
        appended_at = -APPEND_EVERY_SECONDS
        while True:
            await self._changed.wait()
            # What else the engine's step has added is read in the next turns of the event loop.
            await asyncio.sleep(max(_STEP_SECONDS, appended_at + APPEND_EVERY_SECONDS - self.monotonic()))
            appended_at = self.monotonic()
            self._changed.clear()
            if self._waiting and not await self.append():
                await asyncio.sleep(_AGAIN_SECONDS)
                self._changed.set()

    async def append(self) -> bool:
        """Tell the bus what waits, in one go; False where it did not take it."""
        batch: list[tuple[CallStream, dict[str, Any]]] = []
        while self._waiting and len(batch) < EVENTS_AT_ONCE:
            call = next(iter(self._waiting))
            batch += [(call, event) for event in call.take(EVENTS_AT_ONCE - len(batch))]
            if not call.pending:
                del self._waiting[call]
        try:
            kept = await self._bus.stream(
                self._model, [StreamEvent(call.token, call.reader, event) for call, event in batch]
            )
        except BusError as error:
            _log.warning("tokens not streamed", reason=error.reason, events=len(batch))
            for call, event in reversed(batch):
                call.put_back(event)
            return False
        for (call, event), is_kept in zip(batch, kept, strict=True):
            call.told(event, is_kept=is_kept)
        if self._waiting:
            self._changed.set()
        return True


class CallStream:
    """One attempt's events. A call that lost its lease is told no further."""

    def __init__(self, streams: TokenStreams, token: LeaseToken, reader: str, claimed_at: float) -> None:
        self.token = token
        self.reader = reader
        self.pending: list[dict[str, Any]] = []
        self._streams = streams
        self._claimed_at = claimed_at
        self._pending_chars = 0
        self._in_flight = 0
        self._has_text = False
        self._is_first = True
        self._lost = False
        self._told = asyncio.Event()

    def begin(self) -> None:
        """The engine is asked; what an earlier one of this attempt has said is void."""
        if self._has_text:
            self._has_text = False
            self._push({"restart": True})

    def delta(self, delta: Delta) -> None:
        """The engine has added this."""
        self._has_text = True
        fields = {name: value for name, value in delta.to_json().items() if value and name not in ("type", "id")}
        text, calls = fields.pop("text", ""), fields.pop("tool_calls", ())
        if "completion_tokens" in fields:
            fields["tokens"] = fields.pop("completion_tokens")
        for begin in range(0, len(text), _EVENT_CHARS):
            self._push({**fields, "text": text[begin : begin + _EVENT_CHARS]})
        if not text and fields.get("reasoning"):
            self._push(fields)
        for call in calls:
            whole = len(call.get("arguments", "")) <= _CALLS_CHARS
            self._push({**fields, "toolCall": dict(call)} if whole else {"skipped": True})

    async def end(self, **event: str) -> None:
        """Tell how it ended, and wait until that is told, but for no longer than a second."""
        self._push(event)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_SECONDS):
                while (self.pending or self._in_flight) and not self._lost:
                    self._told.clear()
                    await self._told.wait()

    async def drain(self) -> list[dict[str, Any]]:
        """What is not told yet, for who tells the end and that in one go; nothing more is taken. Waits for what is on
        its way, but for no longer than a second.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_SECONDS):
                while self._in_flight and not self._lost:
                    self._told.clear()
                    await self._told.wait()
        pending, self.pending, self._lost = self.pending, [], True
        self._streams.forget(self)
        return pending

    def take(self, most: int) -> list[dict[str, Any]]:
        """Events for the next append; they are ``told`` or ``put_back``."""
        taken, self.pending = self.pending[:most], self.pending[most:]
        self._in_flight += len(taken)
        self._pending_chars = sum(map(_chars, self.pending))
        return taken

    def put_back(self, event: dict[str, Any]) -> None:
        """It was not told; the last taken comes first."""
        self._in_flight -= 1
        self._told.set()
        self.pending.insert(0, event)
        self._bound()
        self._streams.wake(self)

    def told(self, event: dict[str, Any], *, is_kept: bool) -> None:
        """The bus has answered."""
        self._in_flight -= 1
        self._lost |= not is_kept
        if is_kept and self._is_first and "text" in event:
            self._is_first = False
            self._streams.metrics.first_append.observe(self._streams.monotonic() - self._claimed_at)
        self._told.set()

    def _push(self, event: dict[str, Any]) -> None:
        if self._lost:
            return
        event = {"attempt": self.token.attempt, **event}
        last = self.pending[-1] if self.pending else {}
        if _grows(last, event):
            last["text"] += event["text"]
            last["tokens"] = event.get("tokens", 0)
        else:
            self.pending.append(event)
        self._bound()
        self._streams.wake(self)

    def _bound(self) -> None:
        self._pending_chars = sum(map(_chars, self.pending))
        if self._pending_chars > PENDING_CHARS:
            # What says more than text is small, and stays.
            kept = [event for event in self.pending if "text" not in event and "skipped" not in event]
            self.pending = [{"attempt": self.token.attempt, "skipped": True}, *kept]


def _grows(last: dict[str, Any], event: dict[str, Any]) -> bool:
    """Whether the event's text belongs behind the last one's."""
    plain = {"attempt", "index", "text", "tokens"}
    return (
        "text" in last
        and "text" in event
        and set(last) <= plain
        and set(event) <= plain
        and last.get("index") == event.get("index")
        and len(last["text"]) + len(event["text"]) <= _EVENT_CHARS
    )


def _chars(event: dict[str, Any]) -> int:
    return sum(len(value) for value in event.values() if isinstance(value, str))
