"""One connection for every call that is answered at once: what is called in one turn of the event loop leaves in one
write, and replies come back in the order of the calls.

A connection of its own per call in flight costs several times the CPU, here and in Redis, and under `appendfsync
always` one fsync per call. Reconnecting is the next call's; whether a call may be sent again is decided by its caller.
"""

import asyncio
import contextlib
import itertools
import math
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

import hiredis
from redis import exceptions as vendor
from redis.asyncio.connection import AbstractConnection

Reply = Any
_CLOSED: Final = "the bus is closed"
_WATCHES: Final = 8
"""A silence is noticed after `reply_within_s`, or up to so large a part of it later."""
_REPLIES_A_TURN: Final = 8
"""Redis answers a write at once. Were all those replies handed out in one turn of the loop, the calls that follow would
leave in one write again, and either side would idle while the other works. So the first of them are at the server while
the later replies are read. A turn costs about as much as a reply: among eight that is little.
"""


class Wire:
    """`make` gives a connection that is not connected yet. A reply that takes longer than `reply_within_s` breaks the
    connection, and every call on it fails. Raises redis-py's exceptions.
    """

    def __init__(self, make: Callable[[], AbstractConnection], *, reply_within_s: float) -> None:
        self._make = make
        self._reply_within_s = reply_within_s
        self._link: _Link | None = None
        self._linking: asyncio.Task[_Link] | None = None
        self._closed = False

    async def call(self, *args: bytes | str | int) -> Reply:
        """The raw reply: bytes, int, None or lists of these. A cancelled call may have its effect all the same."""
        link = self._link
        if link is None or link.broken:
            link = await self._linked()
        return await link.call(*args)

    async def _linked(self) -> "_Link":
        # One attempt for all who wait: a server that is away is not knocked at by each in turn.
        if self._linking is None or self._linking.done():
            if self._closed:
                raise vendor.ConnectionError(_CLOSED)
            self._linking = asyncio.create_task(self._connect())
        return await asyncio.shield(self._linking)

    async def _connect(self) -> "_Link":
        connection = self._make()
        # Untyped in redis-py.
        connect: Callable[[], Awaitable[None]] = connection.connect
        try:
            await connect()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        # What cannot be written is not answered either, which is noticed here. redis-py makes a task per write for it.
        connection.socket_timeout = None
        self._link = _Link(connection, self._reply_within_s)
        return self._link

    async def aclose(self) -> None:
        """Calls under way fail."""
        self._closed = True
        if self._linking is not None and not self._linking.done():
            self._linking.cancel()
            await asyncio.gather(self._linking, return_exceptions=True)
        if self._link is not None:
            await self._link.aclose()


class _Link:
    """One connection from its beginning to its end."""

    def __init__(self, connection: AbstractConnection, reply_within_s: float) -> None:
        self.broken = False
        self._connection = connection
        self._reply_within_s = reply_within_s
        self._loop = asyncio.get_running_loop()
        self._expected: deque[asyncio.Future[Reply]] = deque()
        self._outgoing: list[bytes] = []
        self._sending: asyncio.Task[None] | None = None
        self._overdue: asyncio.Timeout | None = None
        self._watched = 0.0
        # Also while nothing is expected: a connection that the server has ended is noticed before it is used.
        self._reading = asyncio.create_task(self._read())

    def call(self, *args: bytes | str | int) -> asyncio.Future[Reply]:
        future: asyncio.Future[Reply] = self._loop.create_future()
        # Raises before anything is noted when an argument cannot be sent. redis-py's own is not in C.
        self._outgoing.append(hiredis.pack_command(args))  # type: ignore[arg-type]  # its stub knows tuples of one
        if not self._expected:
            self._watch()
        self._expected.append(future)
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())
        return future

    async def _send(self) -> None:
        try:
            while self._outgoing:
                batch, self._outgoing = self._outgoing, []
                await self._connection.send_packed_command(batch, check_health=False)
        except (vendor.RedisError, OSError) as error:
            await self._break(error)
        finally:
            self._sending = None

    async def _read(self) -> None:
        try:
            async with asyncio.timeout(None) as self._overdue:
                for number in itertools.count(1):
                    if not self._expected:
                        self._overdue.reschedule(None)
                    elif self._loop.time() - self._watched > self._reply_within_s / _WATCHES:
                        self._watch()
                    try:
                        reply = await self._connection.read_response(timeout=math.inf)
                    except vendor.ResponseError as error:
                        reply = error
                    self._answer(reply)
                    if number % _REPLIES_A_TURN == 0:
                        await asyncio.sleep(0)
        except TimeoutError:
            await self._break(vendor.TimeoutError(f"no reply within {self._reply_within_s} s"))
        except (vendor.RedisError, OSError) as error:
            await self._break(error)

    def _watch(self) -> None:
        """From here on a reply is due. Not moved for each: a timer costs as much as a reply."""
        self._watched = self._loop.time()
        if self._overdue is not None:
            self._overdue.reschedule(self._watched + self._reply_within_s * (1 + 1 / _WATCHES))

    def _answer(self, reply: Reply) -> None:
        if not self._expected:
            raise vendor.InvalidResponse("a reply that nobody asked for")
        future = self._expected.popleft()
        # Done already: its caller was cancelled.
        if future.done():
            return
        if isinstance(reply, Exception):
            future.set_exception(reply)
        else:
            future.set_result(reply)

    async def _break(self, error: Exception) -> None:
        if self.broken:
            return
        self.broken = True
        kind = vendor.TimeoutError if isinstance(error, vendor.TimeoutError) else vendor.ConnectionError
        for future in self._expected:
            if not future.done():
                future.set_exception(kind(str(error)))
        self._expected.clear()
        self._outgoing.clear()
        for task in (self._reading, self._sending):
            if task is not None and task is not asyncio.current_task():
                task.cancel()
        with contextlib.suppress(vendor.RedisError, OSError):
            await self._connection.disconnect(nowait=True)

    async def aclose(self) -> None:
        await self._break(vendor.ConnectionError(_CLOSED))
        await asyncio.gather(*(task for task in (self._reading, self._sending) if task), return_exceptions=True)
