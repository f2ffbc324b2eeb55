"""Answers to script a stub with: chunks as the API streams them, refusals, and all that goes wrong on the way.

Chunks are those of the SDK's ``types/chat/chat_completion_chunk.py``: the last one has ``usage`` and no choices.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from aiohttp import web

from tests.stub_openai.judging import Refusal

Reply = Callable[[web.Request], Awaitable[web.StreamResponse]]
USAGE = {
    "prompt_tokens": 11,
    "completion_tokens": 7,
    "total_tokens": 18,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
BUDGET_HEADERS = {
    "x-ratelimit-limit-requests": "60",
    "x-ratelimit-remaining-requests": "59",
    "x-ratelimit-reset-requests": "1s",
    "x-ratelimit-limit-tokens": "150000",
    "x-ratelimit-remaining-tokens": "149984",
    "x-ratelimit-reset-tokens": "6m0s",
}


def chunk(
    delta: dict[str, Any] | None = None, finish: str | None = None, index: int = 0, **more: Any
) -> dict[str, Any]:
    """One chunk with one choice; ``more`` are members of the choice."""
    choice = {"index": index, "delta": delta or {}, "finish_reason": finish, **more}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "m", "choices": [choice], "usage": None}


def usage_chunk(usage: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [], "usage": usage or USAGE}


def text_chunks(*pieces: str, finish: str = "stop", index: int = 0) -> list[dict[str, Any]]:
    """A role, the pieces, the end."""
    opening = chunk({"role": "assistant", "content": "", "refusal": None}, index=index)
    return [opening, *(chunk({"content": piece}, index=index) for piece in pieces), chunk(finish=finish, index=index)]


def sse(chunks: Iterable[Any], *, done: bool = True, end: str = "\n") -> bytes:
    """Chunks as a stream's bytes, lines ended by ``end``."""
    written = "".join(f"data: {json.dumps(each, ensure_ascii=False)}{end}{end}" for each in chunks)
    return (written + (f"data: [DONE]{end}{end}" if done else "")).encode()


def streaming(*chunks: Any, usage: bool = True) -> Reply:
    """As the API does it."""
    return raw(sse([*chunks, *([usage_chunk()] if usage else [])]))


def raw(
    *pieces: bytes, content_type: str = "text/event-stream", cut: bool = False, hang: asyncio.Event | None = None
) -> Reply:
    """These bytes, written one after the other.

    ``cut``: then the connection breaks without the end that HTTP asks for; ``hang``: the end comes when it is set.
    """

    async def reply(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": content_type, **BUDGET_HEADERS})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
        if hang is not None:
            await hang.wait()
        if cut:
            assert request.transport is not None
            request.transport.close()
            return response
        await response.write_eof()
        return response

    return reply


def refusing(
    status: int,
    message: str,
    *,
    type: str = "invalid_request_error",  # noqa: A002  # the API's name
    code: str | None = None,
    param: str | None = None,
    headers: dict[str, str] | None = None,
) -> Reply:
    """An error of the API."""
    refusal = Refusal(message, param, code, status, type, headers or {})
    return answering(refusal.body(), status, refusal.headers)


def answering(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Reply:
    """This JSON."""

    async def reply(_: web.Request) -> web.StreamResponse:
        return web.json_response(body, status=status, headers=headers)

    return reply
