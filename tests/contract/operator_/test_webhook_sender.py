"""One POST: TLS for the name at the checked address, no redirect, no proxy, bounded answers. All on loopback."""

import asyncio
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from webhook_receiver import receiver

from headrace_crds.hosts import AllowedHost, Target
from headrace_operator.webhooks import send, target
from headrace_operator.webhooks.send import ANSWER_LIMIT_BYTES, Sender

NAME = "hooks.example"


async def loopback(_: Target) -> Sequence[str]:
    return ["127.0.0.1"]


def to(port: int, scheme: str = "http", name: str = NAME, path: str = "/hook?a=%2Fb&c=d+e") -> Target:
    return target.parse(f"{scheme}://{name}:{port}{path}", [AllowedHost.parse(f"{name}:{port}")])


async def test_the_request_is_what_the_url_says() -> None:
    seen: dict[str, str] = {}

    async def look(request: web.Request) -> web.StreamResponse:
        seen.update(host=request.headers["Host"], path=request.raw_path, type=request.headers["Content-Type"])
        return web.Response(status=202, headers={"Retry-After": "7", "Date": "then"})

    async with receiver(look) as there:
        answer = await Sender(loopback).post(to(there.port), b'{"a":1}', {"webhook-id": "x"})
        assert (answer.status, answer.retry_after, answer.date) == (202, "7", "then")
        assert seen == {"host": f"{NAME}:{there.port}", "path": "/hook?a=%2Fb&c=d+e", "type": "application/json"}
        assert there.received[0].body == b'{"a":1}'
        assert there.received[0].headers["webhook-id"] == "x"


async def test_redirects_are_not_followed() -> None:
    async with receiver() as elsewhere:

        async def away(_: web.Request) -> web.StreamResponse:
            return web.Response(status=307, headers={"Location": f"http://127.0.0.1:{elsewhere.port}/inside"})

        async with receiver(away) as there:
            assert (await Sender(loopback).post(to(there.port), b"", {})).status == 307
        assert elsewhere.received == []


async def test_no_proxy_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    async with receiver() as proxy, receiver() as there:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert (await Sender(loopback).post(to(there.port), b"", {})).status == 204
        assert proxy.received == []


async def test_a_receiver_that_hangs_is_left_after_the_total_time() -> None:
    async with receiver() as there:
        there.answers = [there.hang]
        posted = Sender(loopback, total_seconds=0.2).post(to(there.port), b"", {})
        answer = await asyncio.wait_for(posted, 20)
        assert answer.status == 0
        assert "no answer within 0.2 s" in answer.problem


async def test_an_endless_body_is_cut_off_and_the_status_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    # By its bytes, not by the time that it takes.
    monkeypatch.setattr(send, "_DRAIN_SECONDS", 5.0)
    sent = 0
    ended = asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(status=200)
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * 16384)
                sent += 16384
        finally:
            ended.set()

    async with receiver(endless) as there:
        assert (await Sender(loopback).post(to(there.port), b"", {})).status == 200
        await asyncio.wait_for(ended.wait(), 10)
    # What the kernels hold in between comes on top.
    assert sent < 16 * 1024 * 1024
    assert ANSWER_LIMIT_BYTES == 64 * 1024


async def test_a_body_that_trickles_does_not_hold_up_the_answer() -> None:
    async with receiver() as there:

        async def trickles(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(status=200)
            await response.prepare(request)
            await response.write(b"x")
            await there.hanging.wait()
            return response

        there.answers = [trickles]
        assert (await Sender(loopback).post(to(there.port), b"", {})).status == 200


@asynccontextmanager
async def raw(reply: Callable[[asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[int]:
    """A server that speaks whatever it likes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await reply(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_endless_headers_are_no_answer() -> None:
    async def headers(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"X: " + b"y" * 4000 + b"\r\n")
            await writer.drain()

    async with raw(headers) as port:
        answer = await Sender(loopback).post(to(port), b"", {})
    assert (answer.status, answer.problem) == (0, "the receiver's answer is not HTTP")


@pytest.mark.parametrize(
    ("said", "problem"),
    [(b"SSH-2.0-OpenSSH\r\n", "not HTTP"), (b"", "hung up"), (b"HTTP/1.1 999999 x\r\n\r\n", "not HTTP")],
)
async def test_what_is_no_http(said: bytes, problem: str) -> None:
    async def reply(writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await writer.drain()

    async with raw(reply) as port:
        answer = await Sender(loopback).post(to(port), b"", {})
    assert answer.status == 0
    assert problem in answer.problem


async def test_nobody_listens() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        answer = await Sender(loopback).post(to(bound.getsockname()[1]), b"", {})
    assert answer.problem == "no connection to the receiver"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and self-signed certificate for NAME."""
    path = tmp_path_factory.mktemp("tls") / "pair.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    command += ["-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}", "-keyout", str(path), "-out", "-"]
    made = subprocess.run(command, capture_output=True, check=True)
    path.write_bytes(path.read_bytes() + made.stdout)
    return path


async def test_tls_is_for_the_name_in_the_url(certificate: Path) -> None:
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate)
    names: list[str | None] = []
    server.sni_callback = lambda _socket, name, _context: names.append(name)
    trusting = ssl.create_default_context(cafile=str(certificate))
    async with receiver(tls=server) as there:
        answer = await Sender(loopback, tls=trusting).post(to(there.port, "https"), b"", {})
        assert (answer.status, names) == (204, [NAME])
        other = await Sender(loopback, tls=trusting).post(to(there.port, "https", "other.example"), b"", {})
        assert other.problem == "the receiver's certificate is not trusted"
        unknown = await Sender(loopback).post(to(there.port, "https"), b"", {})
        assert unknown.problem == "the receiver's certificate is not trusted"
        assert len(there.received) == 1
