"""A file server on loopback that drops, throttles, redirects and lies as a test tells it, and counts what it sends."""

import asyncio
import contextlib
import hashlib
import re
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field


@dataclass
class Asked:
    """One request: names of headers in lower case."""

    path: str
    headers: dict[str, str]

    @property
    def span(self) -> tuple[int, int] | None:
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range", ""))
        return (int(found[1]), int(found[2]) + 1) if found else None


@dataclass
class FileServer:
    """Serves ``content`` under every path but those of ``redirects``."""

    content: bytes
    etag: str | None = '"one"'
    ranges: bool = True
    conditions: bool = True
    """False: If-Range is not looked at."""
    length: bool = True
    """Content-Length in whole answers."""
    most_bytes: int = 1 << 60
    """Of a range so much is sent at most, as some stores do."""
    drop_after: list[int] = field(default_factory=list)
    """Bytes of a body after which connections are cut; one entry a request, then none is cut."""
    statuses: list[int] = field(default_factory=list)
    """Answered before anything else, one a request."""
    redirects: dict[str, str] = field(default_factory=dict)
    token: str | None = None
    """Asked for in Authorization."""
    bytes_per_second: float | None = None
    port: int = 0
    asked: list[Asked] = field(default_factory=list)
    sent_bytes: int = 0
    connections: int = 0
    open_now: int = 0
    open_most: int = 0
    headers: list[str] = field(default_factory=list)

    def asked_bytes(self, since: int = 0) -> int:
        """What the ranges of requests from that one on cover together, each time that they do."""
        size = len(self.content)
        return sum(min(span[1], size) - span[0] for each in self.asked[since:] if (span := each.span) is not None)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    def url(self, path: str = "/m.gguf") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    async def sent(self, count: int) -> None:
        """Returns when so many bytes have been sent."""
        async with asyncio.timeout(30):
            while self.sent_bytes < count:  # noqa: ASYNC110 — what is sent is also looked at from another thread
                await asyncio.sleep(0.01)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                line, *rest = head.strip().split("\r\n")
                pairs = (each.partition(":") for each in rest)
                request = Asked(line.split(" ")[1], {name.lower(): value.strip() for name, _, value in pairs})
                self.asked.append(request)
                self.open_now += 1
                self.open_most = max(self.open_most, self.open_now)
                try:
                    await self._answer(request, writer)
                finally:
                    self.open_now -= 1
                if writer.is_closing():
                    return
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            return
        finally:
            self.connections -= 1
            writer.transport.abort()

    async def _answer(self, request: Asked, writer: asyncio.StreamWriter) -> None:
        def head(status: int, length: int | None, *headers: str) -> None:
            lines = [f"HTTP/1.1 {status} x", *([] if length is None else [f"Content-Length: {length}"]), *headers]
            writer.write("\r\n".join([*lines, *self.headers]).encode() + b"\r\n\r\n")

        if self.statuses and (status := self.statuses.pop(0)):
            return head(status, 0)
        if (where := self.redirects.get(request.path)) is not None:
            return head(302, 0, f"Location: {where}")
        if self.token is not None and request.headers.get("authorization") != self.token:
            return head(401, 0)
        tag = [f"ETag: {self.etag}"] if self.etag else []
        span, same = request.span, request.headers.get("if-range") in (None, self.etag) or not self.conditions
        if span is None or not same or not self.ranges:
            head(200, len(self.content) if self.length else None, *tag)
            await self._send(self.content, writer)
            if not self.length:
                writer.close()
            return None
        if span[0] >= len(self.content):
            return head(416, 0, f"Content-Range: bytes */{len(self.content)}")
        start, end = span[0], min(span[1], len(self.content), span[0] + self.most_bytes)
        head(206, end - start, f"Content-Range: bytes {start}-{end - 1}/{len(self.content)}", *tag)
        await self._send(self.content[start:end], writer)
        return None

    async def _send(self, body: bytes, writer: asyncio.StreamWriter) -> None:
        cut = self.drop_after.pop(0) if self.drop_after else None
        if cut is not None:
            body = body[:cut]
        for at in range(0, len(body), 16384):
            piece = body[at : at + 16384]
            writer.write(piece)
            await writer.drain()
            self.sent_bytes += len(piece)
            if self.bytes_per_second is not None:
                await asyncio.sleep(len(piece) / self.bytes_per_second)
        if cut is not None:
            # What was written arrives, then the connection ends.
            writer.close()
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def serving(server: FileServer) -> AsyncIterator[FileServer]:
    listening = await asyncio.start_server(server.serve, "127.0.0.1", server.port)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()


@contextlib.contextmanager
def serving_apart(server: FileServer) -> Iterator[FileServer]:
    """In a thread of its own, for tests that wait for processes."""
    loop, ready, stop = asyncio.new_event_loop(), threading.Event(), asyncio.Event()

    async def main() -> None:
        async with serving(server):
            ready.set()
            await stop.wait()

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(main())
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0.05))
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    ready.wait()
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


def gguf_of(size: int) -> bytes:
    """A GGUF without tensors but with a value of so many bytes; no two parts of it are alike."""
    import random
    import struct

    key = b"general.architecture"
    filler = random.Random(size).randbytes(size)
    body = b"GGUF" + struct.pack("<IQQ", 3, 0, 2)
    body += struct.pack("<Q", len(key)) + key + struct.pack("<IQ", 8, 5) + b"llama"
    body += struct.pack("<Q", 8) + b"a.filler" + struct.pack("<IIQ", 9, 0, len(filler)) + filler
    return body
