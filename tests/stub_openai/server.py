"""OpenAI's API on loopback: refuses what the real one refuses, and answers as it is told.

A lenient one takes the place of a compatible server: any members, any key.
"""

import base64
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.stub_openai.judging import Refusal, judge_chat, judge_embedding
from tests.stub_openai.replies import USAGE, Reply, streaming, text_chunks

KEY = "sk-proj-good"
MODELS = ("gpt-4.1-mini", "ft:gpt-4.1-mini:org::abc")
REASONING_MODELS = ("o4-mini",)
EMBEDDING_MODELS = ("text-embedding-3-small",)


@dataclass
class StubOpenAI:
    """``replies`` are given in turn to what is not refused; without any ``usual``, an answer of two words."""

    port: int = 0
    strict: bool = True
    keys: set[str] = field(default_factory=lambda: {KEY})
    replies: list[Reply] = field(default_factory=list)
    usual: Reply = field(default_factory=lambda: streaming(*text_chunks("Hello", " world")))
    bodies: list[dict[str, Any]] = field(default_factory=list)
    """Of all requests that had one, refused ones included."""
    authorizations: list[str | None] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    """Of the last request that had a body."""
    peers: set[object] = field(default_factory=set)
    """Connections that requests came through."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await self._body(request)
        try:
            self._judge_caller(request, body.get("model"), (*MODELS, *REASONING_MODELS))
            if self.strict:
                judge_chat(body, reasoning=body["model"] in REASONING_MODELS)
        except Refusal as refusal:
            return web.json_response(refusal.body(), status=refusal.status, headers=refusal.headers)
        reply = self.replies.pop(0) if self.replies else self.usual
        return await reply(request)

    async def embeddings(self, request: web.Request) -> web.StreamResponse:
        body = await self._body(request)
        try:
            self._judge_caller(request, body.get("model"), EMBEDDING_MODELS)
            if self.strict:
                judge_embedding(body)
        except Refusal as refusal:
            return web.json_response(refusal.body(), status=refusal.status, headers=refusal.headers)
        if self.replies:
            return await self.replies.pop(0)(request)
        data = [
            {"object": "embedding", "index": index, "embedding": _encoded(text, body.get("encoding_format"))}
            for index, text in enumerate(body["input"])
        ]
        usage = {"prompt_tokens": USAGE["prompt_tokens"], "total_tokens": USAGE["prompt_tokens"]}
        return web.json_response({"object": "list", "data": data, "model": body["model"], "usage": usage})

    async def models(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info.get("model")
        try:
            known = (*MODELS, *REASONING_MODELS, *EMBEDDING_MODELS)
            self._judge_caller(request, name if name is not None else known[0], known)
        except Refusal as refusal:
            return web.json_response(refusal.body(), status=refusal.status)
        if self.replies:
            return await self.replies.pop(0)(request)
        return web.json_response({"id": name, "object": "model", "created": 0, "owned_by": "openai"})

    async def _body(self, request: web.Request) -> dict[str, Any]:
        assert request.transport is not None
        self.peers.add(request.transport.get_extra_info("peername"))
        self.headers = dict(request.headers)
        self.bodies.append(await request.json())
        return self.bodies[-1]

    def _judge_caller(self, request: web.Request, model: Any, known: tuple[str, ...]) -> None:
        authorization = request.headers.get("Authorization")
        self.authorizations.append(authorization)
        if not self.strict:
            return
        key = (authorization or "").removeprefix("Bearer ")
        if key not in self.keys:
            raise Refusal(f"Incorrect API key provided: {key}.", code="invalid_api_key", status=401)
        if model not in known:
            message = f"The model `{model}` does not exist or you do not have access to it."
            raise Refusal(message, code="model_not_found", status=404)


def vector(text: str) -> tuple[float, ...]:
    """The embedding that the stub gives a text."""
    return (float(len(text)), 0.5, -1.0)


def _encoded(text: str, encoding: str | None) -> Any:
    numbers = vector(text)
    return base64.b64encode(struct.pack("<3f", *numbers)).decode() if encoding == "base64" else list(numbers)


@asynccontextmanager
async def serving(*, strict: bool = True) -> AsyncIterator[StubOpenAI]:
    """A stub that listens until the context ends."""
    stub = StubOpenAI(strict=strict)
    application = web.Application()
    application.router.add_post("/v1/chat/completions", stub.chat)
    application.router.add_post("/v1/embeddings", stub.embeddings)
    application.router.add_get("/v1/models", stub.models)
    application.router.add_get("/v1/models/{model}", stub.models)
    runner = web.AppRunner(application, shutdown_timeout=0.2)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert runner.addresses
    stub.port = runner.addresses[0][1]
    try:
        yield stub
    finally:
        await runner.cleanup()
