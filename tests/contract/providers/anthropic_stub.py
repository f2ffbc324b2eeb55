"""Anthropic's Messages API on the loopback, which refuses what the real one refuses (``anthropic_rules``).

Shapes of events: the page "Streaming messages" of the documentation; of errors: "Errors"; of the headers: "Rate
limits". An answer is scripted with ``Script``; without one the model says ``Hello there.``

    async with anthropic_stub() as stub:
        stub.scripts.append(Script(status=529))
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from anthropic_rules import VERSIONS, problem

KEY = "sk-ant-api03-good"
MODEL = "claude-stub-1"
REQUEST_ID = "req_011CSHoEeqs5C35K2UUqR7Fy"
COUNTED = {"messages", "model", "output_config", "system", "thinking", "tool_choice", "tools"}
ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def text(*pieces: str) -> dict[str, Any]:
    return {"start": {"type": "text", "text": ""}, "deltas": [{"type": "text_delta", "text": one} for one in pieces]}


def thinking(*pieces: str) -> dict[str, Any]:
    deltas = [{"type": "thinking_delta", "thinking": one} for one in pieces]
    signed = {"type": "signature_delta", "signature": "EqQBCgIYAhIM1gbcDa9GJwZA2b3hGgxBdjrkzLoky3dl1pkiMOYds"}
    return {"start": {"type": "thinking", "thinking": "", "signature": ""}, "deltas": [*deltas, signed]}


def redacted() -> dict[str, Any]:
    return {"start": {"type": "redacted_thinking", "data": "EmwKAhgBEgy3va3pzix"}, "deltas": []}


def tool_use(call_id: str, name: str, *pieces: str) -> dict[str, Any]:
    deltas = [{"type": "input_json_delta", "partial_json": one} for one in ("", *pieces)]
    return {"start": {"type": "tool_use", "id": call_id, "name": name, "input": {}}, "deltas": deltas}


@dataclass
class Script:
    """One answer. ``error`` is an ``error`` event after all blocks, ``cut`` ends the connection there instead."""

    blocks: list[dict[str, Any]] = field(default_factory=lambda: [text("Hello", " there.")])
    stop_reason: str = "end_turn"
    usage: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200
    message: str = "scripted"
    error: str | None = None
    cut: bool = False
    silent_end: bool = False
    raw: bytes | None = None
    lingers: bool = False
    """The response stays open after its last event."""


@dataclass
class Stub:
    url: str = ""
    scripts: list[Script] = field(default_factory=list)
    usual: Callable[[dict[str, Any]], Script] = lambda _: Script()
    """The script for a body, where ``scripts`` are used up."""
    good_keys: set[str] = field(default_factory=lambda: {KEY})
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    tokens: Any = None
    """What ``count_tokens`` answers; None: what it counts."""
    ports: set[int] = field(default_factory=set)
    """Of the connections that requests came over."""
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)
    """A client left in the middle of an answer."""

    async def messages(self, request: web.Request) -> web.StreamResponse:
        if (refused := self._headers(request)) is not None:
            return refused
        body = await request.json()
        self.bodies.append(body)
        if (found := problem(body, request.headers["anthropic-version"])) is not None:
            return failure(400, found)
        if body["model"] != MODEL:
            return failure(404, f"model: {body['model']}")
        script = self.scripts.pop(0) if self.scripts else self.usual(body)
        if script.status != 200:
            return failure(script.status, script.message, script.headers)
        return await self._stream(request, script)

    async def count_tokens(self, request: web.Request) -> web.StreamResponse:
        """A token for each character of every text, and what ``tokens`` says in its place."""
        if (refused := self._headers(request)) is not None:
            return refused
        body = await request.json()
        self.bodies.append(body)
        for name in body.keys() - COUNTED:
            return failure(400, f"{name}: Extra inputs are not permitted")
        # Otherwise as a message, which needs a bound.
        if (found := problem(body | {"max_tokens": 1}, request.headers["anthropic-version"])) is not None:
            return failure(400, found)
        if self.tokens is not None:
            return web.json_response({"input_tokens": self.tokens})
        texts = [block["text"] for turn in body["messages"] for block in turn["content"] if block["type"] == "text"]
        return web.json_response({"input_tokens": sum(map(len, [*texts, body.get("system", "")]))})

    async def model(self, request: web.Request) -> web.StreamResponse:
        if (refused := self._headers(request)) is not None:
            return refused
        if request.match_info["name"] != MODEL:
            return failure(404, f"model: {request.match_info['name']}")
        created = "2026-02-19T00:00:00Z"
        return web.json_response({"type": "model", "id": MODEL, "display_name": "Stub", "created_at": created})

    def _headers(self, request: web.Request) -> web.Response | None:
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        key = request.headers.get("x-api-key", bearer)
        self.keys.append(key)
        if request.transport is not None:
            self.ports.add(request.transport.get_extra_info("peername")[1])
        if "anthropic-version" not in request.headers:
            return failure(400, "anthropic-version: header is required")
        if request.headers["anthropic-version"] not in VERSIONS:
            return failure(400, "anthropic-version: is not a valid version")
        return None if key in self.good_keys else failure(401, f"invalid x-api-key {key}")

    async def _stream(self, request: web.Request, script: Script) -> web.StreamResponse:
        headers = {"content-type": "text/event-stream; charset=utf-8", "request-id": REQUEST_ID, **script.headers}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        try:
            if script.raw is not None:
                await response.write(script.raw)
            else:
                for event in _events(script):
                    await response.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
            if script.lingers:
                await asyncio.Event().wait()
        except ConnectionError:
            self.hung_up.set()
        except asyncio.CancelledError:
            self.hung_up.set()
            raise
        if script.cut and request.transport is not None:
            request.transport.abort()
        return response


def _events(script: Script) -> list[dict[str, Any]]:
    begun = {"input_tokens": 25, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 1}
    message = {"id": "msg_1nZdL29xx5MUA1yADyHTEsnR8uuvGzszyy", "type": "message", "role": "assistant", "content": []}
    message |= {"model": MODEL, "stop_reason": None, "stop_sequence": None, "usage": begun | script.usage}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": message}]
    for index, block in enumerate(script.blocks):
        events.append({"type": "content_block_start", "index": index, "content_block": block["start"]})
        events.append({"type": "ping"})
        events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in block["deltas"]]
        events.append({"type": "content_block_stop", "index": index})
    if script.error is not None:
        return [*events, {"type": "error", "error": {"type": script.error, "message": "Overloaded"}}]
    if script.cut or script.silent_end:
        return events
    delta = {"stop_reason": script.stop_reason, "stop_sequence": None}
    events.append({"type": "a_kind_of_tomorrow", "value": 1})
    events.append({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 15} | script.usage})
    return [*events, {"type": "message_stop"}]


def failure(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    error = {"type": ERROR_TYPES[status], "message": message}
    body = {"type": "error", "error": error, "request_id": REQUEST_ID}
    return web.json_response(body, status=status, headers={"request-id": REQUEST_ID, **(headers or {})})


@asynccontextmanager
async def anthropic_stub() -> AsyncIterator[Stub]:
    stub = Stub()
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_post("/v1/messages", stub.messages)
    app.router.add_post("/v1/messages/count_tokens", stub.count_tokens)
    app.router.add_get("/v1/models/{name}", stub.model)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    stub.url = f"http://127.0.0.1:{port}/v1"
    try:
        yield stub
    finally:
        await runner.cleanup()
