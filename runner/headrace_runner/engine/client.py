"""The runner's side of the engine's socket: many generations over one connection.

Imports no model code. Every way in which the engine can fail comes out as ``EngineRefused`` (it answered) or
``EngineLost`` (it did not), and a cancelled ``generate`` frees its sequence in the engine.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Self

from headrace_runner.engine.embedding_request import Embed
from headrace_runner.engine.events import decode_event
from headrace_runner.engine.frames import ProtocolError, encode_frame, read_frame
from headrace_runner.engine.protocol import (
    Abort,
    Delta,
    Event,
    Failure,
    Generate,
    GenerationResult,
    Hello,
    Progress,
    Reason,
    Request,
)
from headrace_runner.engine.state import EngineModel, EngineState, Stage, read_state

__all__ = [
    "EngineClient",
    "EngineError",
    "EngineLost",
    "EngineModel",
    "EngineRefused",
    "EngineState",
    "Stage",
    "read_state",
]


class EngineError(Exception):
    """A generation that gave no text.

    ::

        EngineError
        ├── EngineRefused   the engine answered: reason, message, retryable
        └── EngineLost      no answer: the engine died, closed the socket or broke the protocol
    """


class EngineRefused(EngineError):
    """The engine answered with a reason; ``retryable`` tells whether the same request may succeed later.

    ``left``: it was not begun, as the engine makes room for the next; its connection ends soon.
    """

    def __init__(self, reason: str, message: str, retryable: bool) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message
        self.retryable = retryable

    @property
    def left(self) -> bool:
        return self.retryable and self.reason == Reason.ENGINE_STOPPING


class EngineLost(EngineError):
    """The connection ended before the answer. Says nothing about whose fault it was: suspects are tried alone."""


class _Running:
    def __init__(
        self, wire_id: str, on_progress: Callable[[int], None] | None, on_delta: Callable[[Delta], None] | None
    ) -> None:
        self.wire_id = wire_id
        self.result: asyncio.Future[GenerationResult] = asyncio.get_running_loop().create_future()
        self.on_progress = on_progress
        self.on_delta = on_delta


class EngineClient:
    """One connection to the engine. Create with ``connect``; usable from one event loop.

    ``info`` is what is loaded; ``closed`` is set as soon as the engine is gone, also while nothing runs. ``goodbye`` is
    what it said on leaving, None for one that serves or died.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, info: EngineModel) -> None:
        self.info = info
        self.closed = asyncio.Event()
        self.goodbye: str | None = None
        self._reader = reader
        self._writer = writer
        self._running: dict[str, _Running] = {}  # by the caller's id
        # On the wire ids are never used twice: a caller may use its own again before an abort has arrived. They end in
        # the caller's, so that an engine can say whose generation it talks about.
        self._by_wire_id: dict[str, _Running] = {}
        self._wire_ids = itertools.count(1)
        self._end = "the engine closed the connection"
        self._receiver = asyncio.create_task(self._receive(), name="engine-client")

    @classmethod
    async def connect(cls, path: Path | str, *, timeout_seconds: float = 10.0) -> Self:
        """Connect to a serving engine. Raises EngineLost where none serves at ``path`` or it stays silent."""
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(timeout_seconds):
                reader, writer = await asyncio.open_unix_connection(str(path))
                body = await read_frame(reader)
                hello = None if body is None else decode_event(body)
                if not isinstance(hello, Hello):
                    raise EngineLost("the engine did not greet")
                return cls(reader, writer, hello.engine)
        except (OSError, ProtocolError, ValueError, EngineLost) as error:  # TimeoutError is an OSError
            if writer is not None:
                writer.close()
            if isinstance(error, EngineLost):
                raise
            raise EngineLost(f"no engine at {path}: {error or type(error).__name__}") from error
        except BaseException:
            if writer is not None:
                writer.close()
            raise

    async def generate(
        self,
        request: Generate | Embed,
        *,
        on_progress: Callable[[int], None] | None = None,
        on_delta: Callable[[Delta], None] | None = None,
    ) -> GenerationResult:
        """Run one generation to its end.

        ``on_progress`` gets the number of completion tokens, at most twice a second; ``on_delta`` the text as it grows,
        where the request has ``stream``, with the caller's id. After ``abort`` the result has the
        finish reason Cancelled. Cancelling this coroutine aborts the sequence and gives nothing. Raises EngineRefused,
        EngineLost, and ValueError for an id that is running or a request that cannot be encoded (FrameTooLarge is a
        ProtocolError).
        """
        if request.id in self._running:
            raise ValueError(f"generation {request.id!r} is running already")
        running = _Running(f"{next(self._wire_ids)}/{request.id}", on_progress, on_delta)
        frame = encode_frame(replace(request, id=running.wire_id).to_json())
        if self.closed.is_set():
            raise self._ended()
        self._running[request.id] = self._by_wire_id[running.wire_id] = running
        try:
            self._writer.write(frame)
            await self._drain()
            return replace(await running.result, id=request.id)
        except asyncio.CancelledError:
            self._post(Abort(running.wire_id))
            raise
        finally:
            del self._running[request.id], self._by_wire_id[running.wire_id]

    async def abort(self, generation_id: str) -> None:
        """Ask the engine to end a generation before its next step; its ``generate`` gives what there is then.

        One that has ended meanwhile gives its result. Unknown ids are ignored.
        """
        if running := self._running.get(generation_id):
            self._post(Abort(running.wire_id))
            await self._drain()

    async def aclose(self) -> None:
        """Close the connection; the engine aborts whatever still runs on it."""
        self._receiver.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._receiver
        # A receiver that was cancelled before its first step has closed nothing.
        self.closed.set()
        self._writer.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def _post(self, request: Request) -> None:
        if not self.closed.is_set():
            self._writer.write(encode_frame(request.to_json()))

    async def _drain(self) -> None:
        # A connection that broke is reported by the receiver, with everything that ran on it.
        with contextlib.suppress(OSError):
            await self._writer.drain()

    async def _receive(self) -> None:
        try:
            while (body := await read_frame(self._reader)) is not None:
                event = decode_event(body)
                if isinstance(event, Failure) and not event.id and event.reason == Reason.ENGINE_STOPPING:
                    self.goodbye = event.message
                    break
                if event is not None:
                    self._handle(event)
        except (OSError, ProtocolError) as error:
            self._end = f"the connection to the engine broke: {error}"
        finally:
            self.closed.set()
            for running in self._running.values():
                if not running.result.done():
                    running.result.set_exception(self._ended())
            self._writer.close()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()

    def _ended(self) -> EngineError:
        if self.goodbye is not None:
            return EngineRefused(Reason.ENGINE_STOPPING, self.goodbye, retryable=True)
        return EngineLost(self._end)

    def _handle(self, event: Event) -> None:
        if isinstance(event, Failure) and not event.id:
            raise ProtocolError(f"{event.reason}: {event.message}")
        running = None if isinstance(event, Hello) else self._by_wire_id.get(event.id)
        if running is None or running.result.done():
            return  # a generation that was cancelled here meanwhile
        match event:
            case Progress():
                if running.on_progress is not None:
                    running.on_progress(event.completion_tokens)
            case Delta():
                if running.on_delta is not None:
                    running.on_delta(replace(event, id=running.wire_id.partition("/")[2]))
            case GenerationResult():
                running.result.set_result(event)
            case Failure():
                running.result.set_exception(EngineRefused(event.reason, event.message, event.retryable))
