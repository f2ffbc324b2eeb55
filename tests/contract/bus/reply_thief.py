"""A TCP proxy that can let a command through and keep its reply to itself: the fault a request id is for."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass


@dataclass
class ReplyThief:
    """Armed with `steal(n)`, it drops the next n replies, each together with its connection."""

    upstream_port: int
    port: int = 0
    stolen: int = 0
    _left: int = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def steal(self, replies: int) -> None:
        self._left = replies
        self.stolen = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.upstream_port)

        async def forth() -> None:
            while data := await reader.read(65_536):
                up_writer.write(data)
                await up_writer.drain()

        async def back() -> None:
            while data := await up_reader.read(65_536):
                if self._left > 0:
                    self._left -= 1
                    self.stolen += 1
                    return
                writer.write(data)
                await writer.drain()

        both = [asyncio.create_task(forth()), asyncio.create_task(back())]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # First of all: this task may be cancelled at any await.
            writer.close()
            up_writer.close()
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)
            for each in (writer, up_writer):
                with contextlib.suppress(OSError):
                    await each.wait_closed()


@contextlib.asynccontextmanager
async def reply_thief(upstream_port: int) -> AsyncIterator[ReplyThief]:
    """A proxy in front of the Redis on this port."""
    thief = ReplyThief(upstream_port)
    handlers: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        try:
            await thief.serve(reader, writer)
        except asyncio.CancelledError:
            pass
        finally:
            handlers.discard(task)

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    thief.port = server.sockets[0].getsockname()[1]
    try:
        yield thief
    finally:
        server.close()
        for task in list(handlers):
            task.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)
        await server.wait_closed()
