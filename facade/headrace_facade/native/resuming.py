"""Streams that outlive a connection for a while, for clients that asked for it: they come back with Last-Event-ID.

This process is the record, as of every call: another replica, or one that begins anew, knows nothing of them.
"""

import asyncio
import re
import secrets
import traceback
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import structlog
from starlette.types import Send

from headrace_facade.attended import UNBUFFERED, Attended, end, start, write
from headrace_facade.caller import Caller
from headrace_facade.calls.contract import Call, CallRequest, CallService, Delta, Ended, Waiting
from headrace_facade.calls.failures import TooManyCalls
from headrace_facade.errors import Expired, FacadeError, Internal, NotFound
from headrace_facade.native.told import Events, told_waiting

GRACE_S: Final = 30.0
"""So long a generation goes on without a reader, and what has ended is kept."""
BUFFER_BYTES: Final = 256 * 1024
"""Of one stream's events: older ones go first."""
STREAMS_MOST: Final = 128
EACH_MOST: Final = 16
"""Of one identity."""
_EVENT_ID: Final = re.compile(r"([0-9a-f]{32}):([0-9]{1,9})", re.ASCII)
_DEFECT: Final = "an unexpected error: report it with the trace id"
_log = structlog.get_logger("headrace_facade")


class EventsGone(Expired):
    code = "EVENTS_GONE"


class Recording:
    """One stream's events. What it takes is bounded, however slowly it is read."""

    def __init__(self, caller: Caller) -> None:
        self.id = secrets.token_hex(16)
        self.caller = caller
        self._failure: Exception | None = None
        self._ended = False
        self._events: deque[str] = deque()
        self._size = 0
        self._first = 1
        self._changed = asyncio.Event()

    @property
    def told(self) -> int:
        """Events so far."""
        return self._first + len(self._events) - 1

    def tell(self, event: str) -> None:
        """A whole server-sent event."""
        event = f"id: {self.id}:{self.told + 1}\n{event}"
        self._events.append(event)
        self._size += len(event)
        while self._size > BUFFER_BYTES and len(self._events) > 1:
            self._size -= len(self._events.popleft())
            self._first += 1
        self._changed.set()

    def end(self, failure: Exception | None = None) -> None:
        """`failure` is raised to readers: before the first event it is the answer's status."""
        self._ended, self._failure = True, failure
        self._changed.set()

    async def after(self, number: int) -> AsyncIterator[str]:
        """Events beyond that one, until the end. Raises EventsGone where some are missing, and what ended it."""
        while True:
            self._changed.clear()
            if not self._first <= number + 1 <= self.told + 1:
                raise EventsGone("what comes next is not kept any more: read faster, or ask anew")
            if number < self.told:
                number += 1
                yield self._events[number - self._first]
            elif self._ended:
                if self._failure is not None:
                    raise self._failure
                return
            else:
                await self._changed.wait()


class Resumables:
    """Raises NotFound and TooManyCalls."""

    def __init__(self, *, grace_s: float = GRACE_S, most: int = STREAMS_MOST, each: int = EACH_MOST) -> None:
        self._grace_s = grace_s
        self._most = most
        self._each = each
        self._held: dict[str, tuple[Recording, asyncio.Task[None]]] = {}
        self._of: Counter[str] = Counter()
        self._readers: Counter[str] = Counter()
        self._leaving: dict[str, asyncio.TimerHandle] = {}

    @property
    def held(self) -> int:
        return len(self._held)

    def begin(
        self, calls: CallService, caller: Caller, request: CallRequest, narrator: Callable[[Call], Events]
    ) -> Recording:
        """The call runs from now on, for a reader who is about to come."""
        if self.held >= self._most:
            raise TooManyCalls("this replica has as many streams that can be resumed as it may: try again", 1)
        if self._of[caller.name] >= self._each:
            raise TooManyCalls(f"you have {self._each} streams that can be resumed: wait for one", 1)
        recording = Recording(caller)
        self._of[caller.name] += 1
        self._held[recording.id] = recording, asyncio.create_task(_record(recording, calls, request, narrator))
        self._left(recording)
        return recording

    def find(self, caller: Caller, identifier: str) -> Recording:
        """The caller's own."""
        recording, _ = self._held.get(identifier, (None, None))
        who = (caller.namespace, caller.name)
        if recording is None or (recording.caller.namespace, recording.caller.name) != who:
            raise NotFound(
                "there is no such stream here: its time is over, or it is of another replica or of somebody else"
            )
        return recording

    @contextmanager
    def reading(self, recording: Recording) -> Iterator[None]:
        """So long it is kept, and for the grace after it."""
        self._readers[recording.id] += 1
        if (handle := self._leaving.pop(recording.id, None)) is not None:
            handle.cancel()
        try:
            yield
        finally:
            self._readers[recording.id] -= 1
            if not self._readers[recording.id]:
                del self._readers[recording.id]
                self._left(recording)

    async def aclose(self) -> None:
        tasks = [task for _, task in self._held.values()]
        for recording, _ in list(self._held.values()):
            self._forget(recording)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _left(self, recording: Recording) -> None:
        if recording.id in self._held:
            later = asyncio.get_running_loop().call_later(self._grace_s, self._forget, recording)
            self._leaving[recording.id] = later

    def _forget(self, recording: Recording) -> None:
        _, task = self._held.pop(recording.id)
        if (handle := self._leaving.pop(recording.id, None)) is not None:
            handle.cancel()
        # Hangs up where it has not ended.
        task.cancel()
        self._of[recording.caller.name] -= 1
        if not self._of[recording.caller.name]:
            del self._of[recording.caller.name]


class RecordedStream(Attended):
    """Server-sent events of a recording, from the one after `number` on."""

    def __init__(self, resumables: Resumables, recording: Recording, number: int, failed: Callable[..., str]) -> None:
        super().__init__()
        self._resumables = resumables
        self._recording = recording
        self._number = number
        self._failed = failed

    async def _work(self, send: Send) -> None:
        begun = False
        with self._resumables.reading(self._recording):
            try:
                async for event in self._recording.after(self._number):
                    if not begun:
                        begun = True
                        await start(send, 200, "text/event-stream", UNBUFFERED)
                    await write(send, [event])
            except FacadeError as error:
                if not begun:
                    raise
                await write(send, [self._failed(error)])
        if not begun:
            # All of it was read before; a browser's EventSource asks no more.
            await start(send, 204, "text/event-stream")
        await end(send)


@asynccontextmanager
async def open_resumables() -> AsyncIterator[Resumables]:
    """What is left at the end hangs up."""
    resumables = Resumables()
    try:
        yield resumables
    finally:
        await resumables.aclose()


def last_event(text: str | None) -> tuple[str, int] | None:
    """Stream and number of a Last-Event-ID; None where it is none of ours."""
    match = _EVENT_ID.fullmatch(text or "")
    return None if match is None else (match[1], int(match[2]))


async def _record(
    recording: Recording, calls: CallService, request: CallRequest, narrator: Callable[[Call], Events]
) -> None:
    try:
        async with calls.call(recording.caller, request) as call:
            events = narrator(call)
            try:
                async for event in call.events():
                    match event:
                        case Waiting():
                            recording.tell(told_waiting(event))
                        case Delta():
                            _tell(recording, events.delta(event))
                        case Ended(result):
                            _tell(recording, events.ended(result))
            except FacadeError as error:
                if not recording.told:
                    raise
                _tell(recording, events.failed(error))
        recording.end()
    except asyncio.CancelledError:
        recording.end(NotFound("the stream's time is over"))
        raise
    except FacadeError as error:
        recording.end(error)
    except Exception as error:
        # Where, not what: the text of an exception may quote a prompt or a result.
        stack = "".join(traceback.format_tb(error.__traceback__))
        _log.error("stream failed", error=type(error).__name__, stack=stack)
        recording.end(Internal(_DEFECT))


def _tell(recording: Recording, events: Iterable[str]) -> None:
    for each in events:
        recording.tell(each)
