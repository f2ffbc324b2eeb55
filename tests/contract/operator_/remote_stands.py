"""Providers on loopback that do what the prompt says, each in its own language.

A task's text holds ``act=WORD``; all refusals quote the key and the text, as some providers' do.
"""

import asyncio
import json
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from aiohttp import web

# Test folders are no packages, and the stubs import one another by name.
sys.path.insert(0, str(Path(__file__).parents[1] / "providers"))
from tests.contract.providers import anthropic_stub, plain_api
from tests.stub_openai import replies, server

KEY: Final = "sk-canary-Umber4Tapir-0123456789abcdef"
ANSWER: Final = ("Good ", "evening.")
DOCUMENT: Final = ('{"colour": ', '"red"}')
SAID: Final = ("so ", "far")
"""Before it hangs."""
RETRY_AFTER: Final = "6"
"""Seconds; shorter pauses are ordinary pacing, of which no status tells."""


class Act(StrEnum):
    TALK = "talk"
    HANG = "hang"
    REFUSE = "refuse"
    CUT = "cut"
    LONG = "long"
    BREAK = "break"


def act_of(text: str) -> Act:
    found = re.search(r"act=([a-z]+)", text)
    return Act.TALK if found is None else Act(found.group(1))


class Stand(ABC):
    """One provider. ``storm``: so many requests more are refused by 429; ``asked`` are the texts of all others."""

    def __init__(self, name: str, provider: str) -> None:
        self.name = name
        self.provider = provider
        self.storm = 0
        self.asked: list[str] = []
        self.free = asyncio.Event()
        """Calls that hang end, and none hangs any more."""

    @asynccontextmanager
    @abstractmethod
    def serving(self) -> AsyncIterator[None]: ...

    @property
    @abstractmethod
    def base_url(self) -> str: ...

    @property
    @abstractmethod
    def good_keys(self) -> set[str]: ...

    def remote(self) -> dict[str, Any]:
        """Its ``spec.remote``."""
        return {
            "provider": self.provider,
            "model": self.model,
            "baseURL": self.base_url,
            "credentials": {"secretKeyRef": {"name": self.name, "key": "key"}},
            "maxConcurrency": 8,
        }

    @property
    def host(self) -> str:
        return self.base_url.removeprefix("http://").partition("/")[0]

    @property
    def model(self) -> str:
        return "m"

    def _act(self, text: str) -> Act | None:
        """None: refused for now."""
        if self.storm:
            self.storm -= 1
            return None
        self.asked.append(text)
        return act_of(text)


def _repeated(text: str) -> str:
    return f"refused for key {KEY}: {text}"


class ChatStand(Stand):
    """OpenAI's language, by the stub that refuses what OpenAI refuses, or a lenient one."""

    def __init__(self, name: str, provider: str, *, strict: bool) -> None:
        super().__init__(name, provider)
        self._strict = strict
        self._stub = server.StubOpenAI()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        async with server.serving(strict=self._strict) as self._stub:
            self._stub.usual, self._stub.keys = self._reply, {KEY}
            yield

    @property
    def base_url(self) -> str:
        return self._stub.url

    @property
    def good_keys(self) -> set[str]:
        return self._stub.keys

    @property
    def model(self) -> str:
        return server.MODELS[0]

    async def _reply(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        text = body["messages"][-1]["content"]
        key = (request.headers.get("Authorization") or "").removeprefix("Bearer ")
        if key not in self.good_keys:
            return await replies.refusing(401, _repeated(text), code="invalid_api_key")(request)
        return await self._of(self._act(text), text, "response_format" in body)(request)

    def _of(self, act: Act | None, text: str, shaped: bool) -> replies.Reply:
        match act:
            case None:
                return replies.refusing(
                    429, _repeated(text), code="rate_limit_exceeded", headers={"Retry-After": RETRY_AFTER}
                )
            case Act.REFUSE:
                return replies.refusing(400, _repeated(text), code="content_policy_violation")
            case Act.LONG:
                long = f"This model's maximum context length is 128 tokens. {_repeated(text)}"
                return replies.refusing(400, long, code="context_length_exceeded", param="messages")
            case Act.BREAK:
                return replies.refusing(500, _repeated(text), type="server_error")
            case Act.HANG if self.free.is_set():
                return replies.streaming(*replies.text_chunks(*SAID))
            case Act.HANG:
                return replies.raw(replies.sse(replies.text_chunks(*SAID)[:-1], done=False), hang=self.free)
            case Act.CUT:
                return replies.streaming(*replies.text_chunks(DOCUMENT[0], finish="length"))
        return replies.streaming(*replies.text_chunks(*(DOCUMENT if shaped else ANSWER)))


class MessagesStand(Stand):
    """Anthropic's."""

    def __init__(self) -> None:
        super().__init__("anthropic", "Anthropic")
        self._stub = anthropic_stub.Stub()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        async with anthropic_stub.anthropic_stub() as self._stub:
            self._stub.usual, self._stub.good_keys = self._script, {KEY}
            yield

    @property
    def base_url(self) -> str:
        return self._stub.url.removesuffix("/v1")

    @property
    def good_keys(self) -> set[str]:
        return self._stub.good_keys

    @property
    def model(self) -> str:
        return anthropic_stub.MODEL

    def _script(self, body: dict[str, Any]) -> anthropic_stub.Script:
        text = body["messages"][-1]["content"][-1]["text"]
        shaped, hangs, stub = "output_config" in body, not self.free.is_set(), anthropic_stub
        match self._act(text):
            case None:
                return stub.Script(status=429, message=_repeated(text), headers={"retry-after": RETRY_AFTER})
            case Act.REFUSE:
                return stub.Script(blocks=[stub.text("I am")], stop_reason="refusal")
            case Act.LONG:
                return stub.Script(
                    status=400, message=f"prompt is too long: 300 tokens > 128 maximum {_repeated(text)}"
                )
            case Act.BREAK:
                return stub.Script(status=500, message=_repeated(text))
            case Act.HANG:
                return stub.Script(blocks=[stub.text(*SAID)], silent_end=hangs, lingers=hangs)
            case Act.CUT:
                return stub.Script(blocks=[stub.text(DOCUMENT[0])], stop_reason="max_tokens")
        return stub.Script(blocks=[stub.text(*(DOCUMENT if shaped else ANSWER))])


class PlainStand(Stand):
    """Somebody's own API, which streams lines of JSON."""

    def __init__(self) -> None:
        super().__init__("plain", "HTTP")
        self._api = plain_api.PlainApi()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        async with plain_api.serving(self._api):
            self._api.answer, self._api.good_keys = self._answer, {KEY}
            yield

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._api.port}/v1"

    @property
    def good_keys(self) -> set[str]:
        return self._api.good_keys

    def remote(self) -> dict[str, Any]:
        http = {
            "path": "/generate",
            "headers": [{"name": "Authorization", "value": "Bearer {{credential}}"}],
            "body": plain_api.BODY % "true",
            "style": "Stream",
            "response": plain_api.RESPONSE,
        }
        return {**super().remote(), "http": http}

    async def _answer(self, request: web.Request, body: Any) -> web.StreamResponse:
        text = body["prompt"]
        match self._act(text):
            case None:
                refused = {"error": {"message": _repeated(text)}}
                return web.json_response(refused, status=429, headers={"Retry-After": RETRY_AFTER})
            case Act.REFUSE:
                return web.json_response({"error": {"message": _repeated(text)}}, status=422)
            case Act.LONG:
                return web.json_response({"error": {"message": _repeated(text)}}, status=413)
            case Act.BREAK:
                return web.json_response({"error": {"message": _repeated(text)}}, status=500)
            case Act.HANG:
                return await self._stream(request, SAID, None)
            case Act.CUT:
                return await self._stream(request, DOCUMENT[:1], "length")
        return await self._stream(request, DOCUMENT if "format" in body else ANSWER, "stop")

    async def _stream(self, request: web.Request, pieces: tuple[str, ...], why: str | None) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        for piece in pieces:
            await response.write(json.dumps({"out": {"text": piece}}).encode() + b"\n")
        if why is None:
            await self.free.wait()
        last = {"out": {"why": why or "stop"}, "usage": {"in": 9, "out": 3}}
        await response.write(json.dumps(last).encode() + b"\n")
        return response


def stands() -> list[Stand]:
    return [
        ChatStand("openai", "OpenAI", strict=True),
        MessagesStand(),
        ChatStand("compatible", "OpenAICompatible", strict=False),
        PlainStand(),
    ]


@asynccontextmanager
async def all_serving() -> AsyncIterator[dict[str, Stand]]:
    """By name; each by itself on a port of loopback."""
    made = stands()
    async with AsyncExitStack() as stack:
        for each in made:
            await stack.enter_async_context(each.serving())
        yield {each.name: each for each in made}
