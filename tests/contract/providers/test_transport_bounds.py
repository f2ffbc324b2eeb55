"""Answers that are too long, too slow, cut, compressed or no HTTP: the runner's transport bounds them. On loopback."""

import asyncio
import gzip
import time
import zlib
from collections.abc import AsyncIterator

import httpx2
import pytest
from loopback_server import NAME, Reply, answer, client_of, fixed, listening, loopback

from headrace_crds.reasons import Reason
from headrace_runner.providers import pinned, transport
from headrace_runner.providers.protocol import Fault
from headrace_runner.providers.transport_errors import AnswerRefused, fault_of

MIB = 2**20
STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
EVENTS = STREAM + b"Content-Type: text/event-stream; charset=utf-8\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def meaning(error: BaseException) -> tuple[Fault, Reason]:
    found = fault_of(error)
    assert found is not None
    assert NAME in found.message
    return found.fault, found.reason


UNREACHABLE = (Fault.TRANSIENT, Reason.PROVIDER_UNREACHABLE)
INVALID = (Fault.TRANSIENT, Reason.PROVIDER_ANSWER_INVALID)


async def read(http: httpx2.AsyncClient, url: str, pieces: list[bytes]) -> None:
    async with http.stream("POST", url, json={}) as response:
        async for piece in response.aiter_bytes():
            pieces.append(piece)


async def test_sixteen_mebibytes_pass() -> None:
    body = bytes(16 * MIB)
    async with loopback(fixed(answer(body))) as there, client_of(there) as http:
        assert (await http.get(there.url())).content == body


async def test_an_answer_that_says_that_it_is_too_large_is_not_read() -> None:
    async with loopback(fixed(answer(bytes(50 * MIB)))) as there, client_of(there) as http:
        with pytest.raises(AnswerRefused, match="more than 16 MiB") as refused:
            await http.get(there.url())
        assert meaning(refused.value) == INVALID
        await asyncio.wait_for(there.hung_up.wait(), 10)


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_answer_of_fifty_megabytes_is_cut(streamed: bool) -> None:
    sent = 0

    async def reply(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(STREAM + b"\r\n")
        for _ in range(800):
            writer.write(chunk(b"x" * 65536))
            await writer.drain()
            sent += 65536

    async with loopback(reply) as there, client_of(there) as http:
        pieces: list[bytes] = []
        asked = read(http, there.url(), pieces) if streamed else http.post(there.url(), json={})
        with pytest.raises(AnswerRefused, match="more than 16 MiB") as refused:
            await asked
        assert meaning(refused.value) == INVALID
        await asyncio.wait_for(there.hung_up.wait(), 10)
        assert 16 * MIB <= sent < 40 * MIB, "what the sockets hold, and no more"
        assert sum(map(len, pieces)) == (16 * MIB if streamed else 0)


@pytest.mark.parametrize("rounds", [1, 2])
async def test_a_gzip_bomb_counts_as_what_it_becomes(rounds: int) -> None:
    bomb = gzip.compress(bytes(64 * MIB), 9)
    encoding = "Content-Encoding: gzip"
    if rounds == 2:
        bomb, encoding = gzip.compress(bomb), "Content-Encoding: gzip, gzip"
    pieces: list[bytes] = []
    async with loopback(fixed(answer(bomb, encoding))) as there, client_of(there) as http:
        with pytest.raises(AnswerRefused, match="16 MiB" if rounds == 1 else "compresses") as refused:
            await read(http, there.url(), pieces)
        assert meaning(refused.value) == INVALID
    assert sum(map(len, pieces)) <= 16 * MIB
    assert max(map(len, pieces), default=0) <= 256 * 1024


async def test_gzip_is_read_and_streams_through() -> None:
    packer = zlib.compressobj(wbits=31)
    first, second = packer.compress(b"data: 1\n\n") + packer.flush(zlib.Z_SYNC_FLUSH), packer.compress(b"data: 2\n\n")
    go_on = asyncio.Event()

    async def reply(writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM + b"Content-Encoding: gzip\r\n\r\n" + chunk(first))
        await go_on.wait()
        writer.write(chunk(second + packer.flush()) + b"0\r\n\r\n")
        await writer.drain()

    async with loopback(reply) as there, client_of(there) as http, http.stream("GET", there.url()) as response:
        pieces: AsyncIterator[bytes] = response.aiter_bytes()
        assert await anext(pieces) == b"data: 1\n\n", "before the rest is there"
        go_on.set()
        assert b"".join([piece async for piece in pieces]) == b"data: 2\n\n"
        assert "content-encoding" not in response.headers


# Named: an id made of gzip's bytes holds the second they were made in, and two workers would collect two tests.
@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        pytest.param(gzip.compress(b"{}" * 500)[:-9], "gzip", id="cut"),
        pytest.param(gzip.compress(b"{}") + b"more", "gzip", id="longer"),
        pytest.param(b"{}", "gzip", id="plain"),
        pytest.param(zlib.compress(b"{}"), "deflate", id="deflate"),
        pytest.param(b"{}", "br", id="br"),
        pytest.param(b"{}", "zstd", id="zstd"),
    ],
)
async def test_what_is_no_whole_gzip(body: bytes, encoding: str) -> None:
    async with loopback(fixed(answer(body, f"Content-Encoding: {encoding}"))) as there, client_of(there) as http:
        with pytest.raises(AnswerRefused) as refused:
            await http.get(there.url())
    assert meaning(refused.value) == INVALID


@pytest.mark.parametrize(
    ("events", "passes"),
    [
        ([b"data: x\n\n" * 7000] * 3, True),
        ([b"data: x\r\n", b"\r\n"] * 3000, True),
        ([b"data: " + b"x" * (MIB - 100) + b"\n", b"\n"] * 2, True),
        ([b"data: " + b"x" * 600_000] * 2, False),
        ([b": x\n" * 3000], False),
        ([b"data: x\n\n" + b"data: x\r" * 3000 + b"\r\n\r\n"], False),
    ],
)
async def test_one_event_is_bounded_whatever_the_whole_is(events: list[bytes], passes: bool) -> None:
    said = EVENTS + b"".join(chunk(each) for each in events) + b"0\r\n\r\n"
    pieces: list[bytes] = []
    async with loopback(fixed(said)) as there, client_of(there) as http:
        if passes:
            await read(http, there.url(), pieces)
            assert b"".join(pieces) == b"".join(events)
            return
        with pytest.raises(AnswerRefused, match="1 MiB or 2048 lines") as refused:
            await read(http, there.url(), pieces)
        assert meaning(refused.value) == INVALID


async def test_bytes_that_are_no_text_pass_as_they_are() -> None:
    body = b'{"text": "\xff\xfe\x80\xc0"}'
    async with loopback(fixed(answer(body))) as there, client_of(there) as http:
        assert (await http.get(there.url())).content == body


@pytest.mark.parametrize("lines", [1, 20_000])
async def test_a_megabyte_of_headers_is_no_answer(lines: int) -> None:
    header = b"".join(b"X-%d: %s\r\n" % (n, b"y" * (MIB // lines)) for n in range(lines))
    async with loopback(fixed(b"HTTP/1.1 200 OK\r\n" + header + b"\r\n")) as there, client_of(there) as http:
        with pytest.raises(httpx2.RemoteProtocolError) as refused:
            await http.get(there.url())
        assert meaning(refused.value) == UNREACHABLE
        await asyncio.wait_for(there.hung_up.wait(), 10)


async def test_what_counts_for_nothing_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pinned, "RECEIVED_LIMIT_BYTES", MIB)

    async def informed(writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 100)
            await writer.drain()

    async def extended(writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM + b"\r\n")
        while True:
            writer.write(b"1;" + b"e" * 4000 + b"\r\nx\r\n")
            await writer.drain()

    for reply in (informed, extended):
        async with loopback(reply) as there, client_of(there) as http:
            with pytest.raises(AnswerRefused, match="without end"):
                await http.get(there.url())


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 999999 x\r\n\r\n",
        b"",
        STREAM + b"\r\nzz\r\n",
        STREAM + b"\r\n" + chunk(b"data: 1\n\n"),
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
    ],
)
async def test_what_is_no_http_or_is_cut(said: bytes) -> None:
    async def reply(writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await writer.drain()
        writer.close()

    async with loopback(reply) as there, client_of(there) as http:
        with pytest.raises(httpx2.RemoteProtocolError) as refused:
            await http.get(there.url())
    assert meaning(refused.value) == UNREACHABLE


async def test_a_stream_that_is_reset_in_the_middle_keeps_what_was_there() -> None:
    read_all = asyncio.Event()

    async def reply(writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM + b"\r\n" + chunk(b"data: 1\n\n"))
        await read_all.wait()
        writer.transport.abort()

    async with loopback(reply) as there, client_of(there) as http, http.stream("GET", there.url()) as response:
        pieces = response.aiter_bytes()
        assert await anext(pieces) == b"data: 1\n\n"
        read_all.set()
        with pytest.raises((httpx2.ReadError, httpx2.RemoteProtocolError)) as refused:
            await anext(pieces)
    assert meaning(refused.value) == UNREACHABLE


async def test_nobody_listens() -> None:
    async with loopback(fixed(b"")) as there:
        http = client_of(there)
    async with http:
        with pytest.raises(httpx2.ConnectError) as refused:
            await http.get(there.url())
    assert meaning(refused.value) == UNREACHABLE


async def test_silence_is_bounded_even_where_the_caller_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(transport._TIMEOUTS, "read", 0.1)
    silent = asyncio.Event()

    async def reply(writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM + b"\r\n" + chunk(b"data: 1\n\n"))
        await silent.wait()

    async with loopback(reply) as there, client_of(there) as http:
        with pytest.raises(httpx2.ReadTimeout) as refused:
            await http.post(there.url(), json={}, timeout=None)
        assert meaning(refused.value) == UNREACHABLE
        await asyncio.wait_for(there.hung_up.wait(), 10)


async def drip(writer: asyncio.StreamWriter) -> None:
    """Never silent, never done."""
    writer.write(STREAM + b"\r\n")
    while True:
        writer.write(chunk(b"x"))
        await writer.drain()
        await asyncio.sleep(0.01)


async def drip_headers(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("reply", [drip, drip_headers])
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_slow_loris_ends_when_its_caller_does(reply: Reply, streamed: bool) -> None:
    async with loopback(reply) as there, client_of(there, maxConcurrency=1) as http:
        for _ in range(5):  # more than the pool has: every one comes back
            there.hung_up.clear()
            begun = time.monotonic()
            asked = read(http, there.url(), []) if streamed else http.get(there.url())
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asked, 0.1)
            assert time.monotonic() - begun < 5
            await asyncio.wait_for(there.hung_up.wait(), 10)
        assert http._transport._pool.connections == []  # type: ignore[attr-defined]


async def test_a_call_that_is_cancelled_hangs_up() -> None:
    received = asyncio.Event()

    async def reply(_: asyncio.StreamWriter) -> None:
        received.set()
        await asyncio.Event().wait()

    async with loopback(reply) as there, client_of(there) as http:
        call = asyncio.ensure_future(http.post(there.url(), json={}))
        await asyncio.wait_for(received.wait(), 10)
        assert not there.hung_up.is_set()
        call.cancel()
        await asyncio.wait_for(there.hung_up.wait(), 10)
        assert (await asyncio.gather(call, return_exceptions=True))[0].__class__ is asyncio.CancelledError


async def test_a_call_that_is_cancelled_while_tls_begins_hangs_up() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read(1)  # of the client's hello, which is never answered
        begun.set()
        await reader.read()
        ended.set()

    async with listening(serve) as port:
        there = loopback(fixed(b""))
        async with there as named:
            named.port = port
            async with client_of(named) as http:
                call = asyncio.ensure_future(http.get(named.url("https")))
                await asyncio.wait_for(begun.wait(), 10)
                call.cancel()
                await asyncio.wait_for(ended.wait(), 10)
                await asyncio.gather(call, return_exceptions=True)


async def test_a_caller_that_stops_reading_and_closes_hangs_up() -> None:
    async with loopback(drip) as there, client_of(there) as http:
        async with http.stream("GET", there.url()) as response:
            async for _ in response.aiter_bytes():
                break
        await asyncio.wait_for(there.hung_up.wait(), 10)


async def test_an_answer_that_fails_hangs_up_whoever_forgets_to_close_it() -> None:
    async def reply(writer: asyncio.StreamWriter) -> None:
        writer.write(EVENTS + chunk(b": x\n" * 3000))
        await asyncio.Event().wait()

    async with loopback(reply) as there, client_of(there) as http:
        response = await http.send(http.build_request("GET", there.url()), stream=True)
        with pytest.raises(AnswerRefused):
            await anext(response.aiter_bytes())
        await asyncio.wait_for(there.hung_up.wait(), 10)
        pool = http._transport._pool  # type: ignore[attr-defined]
        assert (pool.connections, pool._requests) == ([], []), "nothing of it stays"
