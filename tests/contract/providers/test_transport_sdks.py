"""The real SDKs on the runner's transport: what they make of its errors is understood. On loopback."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx2
import pytest
from anthropic import AsyncAnthropic
from loopback_server import Loopback, Reply, answer, client_of, fixed, loopback
from openai import AsyncOpenAI

from headrace_crds.reasons import Reason
from headrace_runner.providers import transport
from headrace_runner.providers.protocol import Fault
from headrace_runner.providers.transport_errors import fault_of

UNREACHABLE = (Fault.TRANSIENT, Reason.PROVIDER_UNREACHABLE)
INVALID = (Fault.TRANSIENT, Reason.PROVIDER_ANSWER_INVALID)
NOT_ALLOWED = (Fault.UNAVAILABLE, Reason.HOST_NOT_ALLOWED)
KEY = "sk-canary"
MESSAGES: Any = [{"role": "user", "content": "hello"}]
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"

Ask = Callable[[httpx2.AsyncClient, str], Awaitable[None]]


async def openai_whole(http: httpx2.AsyncClient, url: str) -> None:
    sdk = AsyncOpenAI(api_key=KEY, base_url=url, http_client=http, max_retries=0)
    await sdk.chat.completions.create(model="m", messages=MESSAGES)


async def openai_stream(http: httpx2.AsyncClient, url: str) -> None:
    sdk = AsyncOpenAI(api_key=KEY, base_url=url, http_client=http, max_retries=0)
    async with await sdk.chat.completions.create(model="m", messages=MESSAGES, stream=True) as events:
        async for _ in events:
            pass


async def anthropic_whole(http: httpx2.AsyncClient, url: str) -> None:
    sdk = AsyncAnthropic(api_key=KEY, base_url=url, http_client=http, max_retries=0)
    await sdk.messages.create(model="m", max_tokens=8, messages=MESSAGES)


async def anthropic_stream(http: httpx2.AsyncClient, url: str) -> None:
    sdk = AsyncAnthropic(api_key=KEY, base_url=url, http_client=http, max_retries=0)
    async with await sdk.messages.create(model="m", max_tokens=8, messages=MESSAGES, stream=True) as events:
        async for _ in events:
            pass


ASKS = [openai_whole, openai_stream, anthropic_whole, anthropic_stream]
STREAMS = [openai_stream, anthropic_stream]


@pytest.fixture
async def elsewhere() -> AsyncIterator[Loopback]:
    async with loopback(fixed(answer(b"{}"))) as made:
        yield made


async def failure(ask: Ask, http: httpx2.AsyncClient, url: str) -> tuple[Fault, Reason]:
    with pytest.raises(Exception) as raised:
        await ask(http, url)
    found = fault_of(raised.value)
    assert found is not None, repr(raised.value)
    assert KEY not in found.message
    return found.fault, found.reason


async def closes(writer: asyncio.StreamWriter) -> None:
    writer.close()


async def silent(_: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def too_large(writer: asyncio.StreamWriter) -> None:
    writer.write(STREAM)
    while True:
        writer.write(b"10000\r\n" + (b": " + b"x" * 1020 + b"\n\n") * 64 + b"\r\n")
        await writer.drain()


async def endless_event(writer: asyncio.StreamWriter) -> None:
    writer.write(STREAM)
    while True:
        writer.write(b"1000\r\n" + b"data: x\n" * 512 + b"\r\n")
        await writer.drain()


async def cut(writer: asyncio.StreamWriter) -> None:
    writer.write(STREAM + b"2\r\n\n\n\r\n")
    await writer.drain()
    writer.close()


@pytest.mark.parametrize("ask", ASKS)
@pytest.mark.parametrize(
    ("reply", "meaning"),
    [
        (closes, UNREACHABLE),
        (silent, UNREACHABLE),
        (too_large, INVALID),
        (endless_event, INVALID),
        (cut, UNREACHABLE),
        (fixed(answer(b"{}", "Content-Encoding: br")), INVALID),
        (fixed(b"SSH-2.0\r\n\r\n"), UNREACHABLE),
    ],
    ids=["closes", "silent", "too large", "endless event", "cut", "encoding", "no http"],
)
async def test_an_answer_that_fails(
    ask: Ask, reply: Reply, meaning: tuple[Fault, Reason], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(transport._TIMEOUTS, "read", 0.5)
    async with loopback(reply) as there, client_of(there) as http:
        assert await failure(ask, http, there.url()) == meaning
        assert len(there.got) == 1, "tried once"


@pytest.mark.parametrize("ask", ASKS)
async def test_nobody_listens(ask: Ask) -> None:
    async with loopback(silent) as there:
        http = client_of(there)
    async with http:
        assert await failure(ask, http, there.url()) == UNREACHABLE


@pytest.mark.parametrize("ask", ASKS)
async def test_a_host_that_is_not_allowed_sees_nothing(ask: Ask, elsewhere: Loopback) -> None:
    async with loopback(silent) as there, client_of(there) as http:
        assert await failure(ask, http, elsewhere.url()) == NOT_ALLOWED
        assert await failure(ask, http, f"http://127.0.0.1:{elsewhere.port}/v1") == NOT_ALLOWED
    assert elsewhere.connections == 0


@pytest.mark.parametrize("ask", ASKS)
@pytest.mark.parametrize("status", [302, 307])
async def test_a_redirect_is_not_followed(ask: Ask, status: int, elsewhere: Loopback) -> None:
    away = f"HTTP/1.1 {status} X\r\nLocation: {elsewhere.url()}\r\nContent-Length: 0\r\n\r\n".encode()
    async with loopback(fixed(away)) as there, client_of(there, elsewhere) as http:
        assert await failure(ask, http, there.url()) == NOT_ALLOWED
        assert KEY.encode() in there.got[0].head, "the first had the key"
    assert elsewhere.connections == 0


@pytest.mark.parametrize("ask", STREAMS)
async def test_a_stream_that_is_cancelled_hangs_up(ask: Ask) -> None:
    begun = asyncio.Event()

    async def reply(writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM + b"2\r\n\n\n\r\n")
        await writer.drain()
        begun.set()
        await asyncio.Event().wait()

    async with loopback(reply) as there, client_of(there) as http:
        call = asyncio.ensure_future(ask(http, there.url()))
        await asyncio.wait_for(begun.wait(), 10)
        call.cancel()
        await asyncio.wait_for(there.hung_up.wait(), 10)
        await asyncio.gather(call, return_exceptions=True)


@pytest.mark.parametrize("ask", ASKS)
async def test_a_status_is_the_providers_affair(ask: Ask) -> None:
    said = b"HTTP/1.1 429 Too Many\r\nContent-Length: 2\r\nRetry-After: 7\r\n\r\n{}"
    async with loopback(fixed(said)) as there, client_of(there) as http:
        with pytest.raises(Exception) as raised:
            await ask(http, there.url())
    assert fault_of(raised.value) is None
    response = raised.value.response  # type: ignore[attr-defined]
    assert response.headers["retry-after"] == "7"
