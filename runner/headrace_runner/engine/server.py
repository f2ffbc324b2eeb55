"""The child's Unix socket: reads requests, prepares them off the event loop, writes what the decode loop emits."""

import asyncio
import contextlib
import itertools
import os
import traceback
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, Final

from headrace_runner.engine.embedding_request import Embed
from headrace_runner.engine.frames import MAX_FRAME_BYTES, ProtocolError, encode_frame, read_frame
from headrace_runner.engine.generation import never_begun
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
    Refusal,
)
from headrace_runner.engine.requests import decode_request
from headrace_runner.engine.state import EngineModel

if TYPE_CHECKING:
    from headrace_runner.engine.dispatch import Dispatch

MAX_CONNECTIONS: Final = 64
_UNREAD_PROGRESS_BYTES: Final = 1024 * 1024
_UNREAD_BYTES: Final = 8 * MAX_FRAME_BYTES
_NUMBERS: Final = itertools.count(1)
_GOODBYE_SECONDS: Final = 5.0
_GOODBYE: Final = "the engine has grown and makes room for its successor"


class EngineServer:
    """Serves one model. ``drained`` is set when ``drain`` was called and no connection is left."""

    def __init__(self, engine: EngineModel, dispatch: "Dispatch", executor: Executor) -> None:
        self.drained = asyncio.Event()
        self.engine = engine
        self.dispatch = dispatch
        self.executor = executor
        # Requests of all connections that have no event yet that ends them.
        self.unfinished = 0
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._path: Path | None = None
        self._draining = False
        self._leaves_when_idle = False
        self._refuses = False
        self.said_goodbye = False

    async def listen(self, path: Path) -> None:
        """Accept connections at ``path``, mode 0660; an old socket there is replaced."""
        path.unlink(missing_ok=True)  # noqa: ASYNC240  on a memory-backed volume
        # By umask and not chmod: the socket is never open to more, not even for a moment.
        before = os.umask(0o117)
        try:
            self._server = await asyncio.start_unix_server(self._accept, path=str(path))
        finally:
            os.umask(before)
        self._path = path

    def drain(self) -> None:
        """Accept no further connection; those that are open go on until their runner closes them."""
        if self._server is not None:
            self._server.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        self._draining = True
        self._note_drained()

    def leave_when_idle(self) -> None:
        """Say goodbye on every connection as soon as nothing is unfinished, and be ``drained`` after that."""
        self._leaves_when_idle = True
        self.leave_if_idle()

    def refuse_from_now_on(self) -> None:
        """Begin nothing further: the runner asks the next engine."""
        self._refuses = True

    @property
    def refuses(self) -> bool:
        return self._refuses

    def leave_if_idle(self) -> None:
        """The check and the goodbye are one step of the event loop: nothing can begin between them."""
        if not self._leaves_when_idle or self.unfinished or self.said_goodbye:
            return
        self.said_goodbye = True
        for connection in self._connections:
            connection.say_goodbye()
        self.drain()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(self, reader, writer)
        if len(self._connections) >= MAX_CONNECTIONS:
            connection.send(Failure("", Reason.ENGINE_OVERLOADED, "too many connections", retryable=True))
            writer.close()
            return
        if self.said_goodbye:
            connection.say_goodbye()
            return
        self._connections.add(connection)
        try:
            await connection.serve()
        finally:
            self._connections.discard(connection)
            self._note_drained()

    def _note_drained(self) -> None:
        if self._draining and not self._connections:
            self.drained.set()


class Connection:
    """One runner's connection: its generations end with it. ``number`` is never used twice."""

    def __init__(self, server: EngineServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number = next(_NUMBERS)
        self._server = server
        self._reader = reader
        self._writer = writer
        self._event_loop = asyncio.get_running_loop()
        self._unfinished: set[str] = set()
        self._preparing: dict[str, asyncio.Task[None]] = {}

    async def serve(self) -> None:
        """Greet, then work on requests until the other side ends or breaks the protocol."""
        self.send(Hello(self._server.engine))
        try:
            while (body := await read_frame(self._reader)) is not None:
                if self._server.said_goodbye:
                    break  # what was on its way then is asked of the next engine
                try:
                    request = decode_request(body)
                except Refusal as refusal:
                    self.send(Failure(str(body["id"]), refusal.reason, refusal.message, refusal.retryable))
                    continue
                if isinstance(request, Abort):
                    self._abort(request.id)
                else:
                    self._begin(request)
        except ProtocolError as error:
            self.send(Failure("", Reason.PROTOCOL_ERROR, str(error)))
        except OSError:
            pass  # the runner died; its generations end below
        finally:
            for request_id in tuple(self._unfinished):
                self._abort(request_id)
            self._writer.close()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()

    def emit_from_thread(self, event: Event) -> None:
        """Deliver an event from the decode thread."""
        with contextlib.suppress(RuntimeError):  # the event loop ended: nobody is left to tell
            self._event_loop.call_soon_threadsafe(self._deliver, event)

    def send(self, event: Event) -> None:
        """Queue an event for the socket; a peer that does not read loses progress first, then the connection."""
        if self._writer.is_closing():
            return
        unread = self._writer.transport.get_write_buffer_size()
        if unread > _UNREAD_PROGRESS_BYTES and isinstance(event, Progress):
            return
        if unread > _UNREAD_BYTES:
            self._writer.transport.abort()
            return
        self._writer.write(encode_frame(event.to_json()))

    def say_goodbye(self) -> None:
        """End the connection in order: what was not answered was not begun."""
        self.send(Failure("", Reason.ENGINE_STOPPING, _GOODBYE, retryable=True))
        self._writer.close()
        # A runner that does not read holds nobody up.
        self._event_loop.call_later(_GOODBYE_SECONDS, self._writer.transport.abort)

    def _begin(self, request: Generate | Embed) -> None:
        if request.id in self._unfinished:
            raise ProtocolError(f"the id {request.id!r} is in use on this connection")
        if self._server.refuses:
            self.send(Failure(request.id, Reason.ENGINE_STOPPING, _GOODBYE, retryable=True))
            return
        limit = self._server.dispatch.max_waiting * 2
        if self._server.unfinished >= limit:
            message = f"{limit} generations are unfinished already"
            self.send(Failure(request.id, Reason.ENGINE_OVERLOADED, message, retryable=True))
            return
        self._unfinished.add(request.id)
        self._server.unfinished += 1
        self._preparing[request.id] = asyncio.create_task(self._prepare(request))

    async def _prepare(self, request: Generate | Embed) -> None:
        server = self._server
        try:
            job = await self._event_loop.run_in_executor(server.executor, server.dispatch.prepare, self, request)
            del self._preparing[request.id]
            if isinstance(job, GenerationResult):
                self._finish(job)
            else:
                server.dispatch.submit(job)
        except Refusal as refusal:
            self._finish(Failure(request.id, refusal.reason, refusal.message, refusal.retryable))
        except Exception as error:
            # Without an answer the runner would wait until its deadline.
            traceback.print_exc()
            self._finish(Failure(request.id, Reason.INTERNAL_ERROR, type(error).__name__, retryable=True))

    def _abort(self, request_id: str) -> None:
        if (task := self._preparing.get(request_id)) is not None:
            # Leaves the executor's queue at once; what a thread has begun it finishes for nobody.
            task.cancel()
            self._finish(never_begun(request_id))
        elif request_id in self._unfinished:
            self._server.dispatch.abort((self.number, request_id))

    def _deliver(self, event: Event) -> None:
        if isinstance(event, Progress | Delta):
            self.send(event)
        else:
            self._finish(event)

    def _finish(self, event: Event) -> None:
        request_id = "" if isinstance(event, Hello) else event.id
        if request_id in self._unfinished:
            self._unfinished.discard(request_id)
            self._preparing.pop(request_id, None)
            self._server.unfinished -= 1
        self.send(event)
        self._server.leave_if_idle()
