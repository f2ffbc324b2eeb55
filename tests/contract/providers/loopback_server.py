"""A server on loopback that answers as a test tells it, byte by byte, and remembers what it got; its certificates."""

import asyncio
import contextlib
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from headrace_crds.hosts import Target, parse_hosts
from headrace_crds.remote import Remote
from headrace_runner.providers.client_certificate import ClientCertificate
from headrace_runner.providers.transport import client

NAME = "llm.example"


@dataclass
class Got:
    """One request."""

    head: bytes
    body: bytes


Reply = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Loopback:
    """Every request is answered by ``reply``; who returns keeps the connection, who closes the writer ends it."""

    reply: Reply
    port: int = 0
    connections: int = 0
    got: list[Got] = field(default_factory=list)
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)
    """Set: a client has closed its connection."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A client that hangs up ends the reply, as it would end a generation."""
        self.connections += 1
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                length = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if b"content-length" in line]
                self.got.append(Got(head, await reader.readexactly(int(length[0]) if length else 0)))
                replying = asyncio.ensure_future(self.reply(writer))
                # Nobody pipelines: what is to be read while a reply goes on is an end.
                ending = asyncio.ensure_future(reader.read(1))
                try:
                    await asyncio.wait({replying, ending}, return_when=asyncio.FIRST_COMPLETED)
                    if not replying.done():
                        raise ConnectionResetError
                    await replying
                finally:
                    for each in (replying, ending):
                        each.cancel()
                    await asyncio.gather(replying, ending, return_exceptions=True)
                if not ending.cancelled():
                    raise ConnectionResetError
        except (ConnectionError, asyncio.IncompleteReadError):
            self.hung_up.set()
            raise

    def url(self, scheme: str = "http", path: str = "/v1") -> str:
        return f"{scheme}://{NAME}:{self.port}{path}"


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def listening(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A port on loopback; at the end all its connections are closed."""
    tasks: set[asyncio.Task[None]] = set()

    async def tracked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with contextlib.suppress(asyncio.CancelledError, ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            await serve(reader, writer)
        writer.transport.abort()
        await asyncio.sleep(0)

    server = await asyncio.start_server(tracked, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


@contextlib.asynccontextmanager
async def loopback(reply: Reply, tls: ssl.SSLContext | None = None) -> AsyncIterator[Loopback]:
    made = Loopback(reply)
    async with listening(made.serve, tls) as made.port:
        yield made


@contextlib.asynccontextmanager
async def proxy_to(
    target: Loopback,
    asked: list[bytes],
    tls: ssl.SSLContext | None = None,
    shown: list[object] | None = None,
) -> AsyncIterator[int]:
    """A proxy whose every tunnel leads to ``target``; ``asked`` is what it was asked for, ``shown`` the clients'
    certificates.
    """

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        if shown is not None:
            shown.append(writer.get_extra_info("peercert"))
        there, back = await asyncio.open_connection("127.0.0.1", target.port)
        try:
            writer.write(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n")
            await asyncio.gather(pump(reader, back), pump(there, writer), return_exceptions=True)
        finally:
            back.transport.abort()

    async with listening(serve, tls) as port:
        yield port


async def to_loopback(_: Target) -> Sequence[str]:
    """A resolver that knows one address."""
    return ["127.0.0.1"]


def client_of(*servers: Loopback, certificate: ClientCertificate | None = None, **spec: Any) -> httpx2.AsyncClient:
    """A client for which NAME with the servers' ports is allowed and exempt."""
    remote = Remote.model_validate({"provider": "OpenAICompatible", "model": "m", **spec})
    hosts = parse_hosts(",".join(f"{NAME}:{each.port}" for each in servers))
    return client(remote, hosts, hosts, certificate=certificate, resolver=to_loopback)


def fixed(raw: bytes) -> Reply:
    """The same bytes for every request."""

    async def reply(writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        await writer.drain()

    return reply


def answer(body: bytes, *headers: str) -> bytes:
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@dataclass(frozen=True)
class Pair:
    """A key with a certificate that is its own authority."""

    file: Path
    pem: str

    def server(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.file)
        return context


def pair(folder: Path, name: str, *, days: int = 2) -> Pair:
    """``days`` -1: it has expired."""
    key, asked, extensions = folder / "key.pem", folder / "asked.pem", folder / "extensions"
    extensions.write_text(f"subjectAltName=DNS:{name}\nbasicConstraints=critical,CA:TRUE\n")
    _openssl(
        *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
        *("-subj", f"/CN={name}", "-keyout", str(key), "-out", str(asked)),
    )
    made = _openssl(
        *("x509", "-req", "-in", str(asked), "-signkey", str(key), "-days", str(days)),
        *("-extfile", str(extensions)),
    )
    file = folder / "pair.pem"
    file.write_bytes(key.read_bytes() + made)
    return Pair(file, made.decode())


def _openssl(*args: str) -> bytes:
    return subprocess.run(["openssl", *args], capture_output=True, check=True).stdout
