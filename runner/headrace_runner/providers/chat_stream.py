"""Reads a response as the chunks of a chat completion, by one reader for all providers of this family.

OpenAI's SDK has one of its own, without bounds; after the last event it reads the body anew, which not every transport
allows.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from typing import Final

import httpx2

from headrace_runner.providers.answer_errors import not_a_stream
from headrace_runner.providers.api_errors import Rule, error_of, read_complaint
from headrace_runner.providers.chat_answer import ChatAnswer
from headrace_runner.providers.sse import EventReader, ServerEvent, StreamInvalid

_EVENT_STREAM: Final = "text/event-stream"
_DONE: Final = "[DONE]"
_DRAIN_SECONDS: Final = 0.1


async def read_answer(
    response: httpx2.Response, answer: ChatAnswer, rules: Iterable[Rule], said: Iterable[str]
) -> bool:
    """Push all chunks; whether the server said that nothing follows.

    ``rules`` judge an error within the stream, whose message repeats nothing that was ``said``. Raises ProviderError,
    StreamInvalid, JSONDecodeError, RecursionError, and what the client raises.
    """
    if "json" in response.headers.get("content-type", ""):
        # Not streamed, whatever was asked for.
        _push(json.loads(await response.aread()), answer, rules, said)
        return True
    reader, pieces, ended = EventReader(), response.aiter_bytes(), False
    async for piece in pieces:
        for event in reader.push(piece):
            ended = _push_event(event, answer, rules, said) or ended
        if ended:
            await _drain(pieces)
            return True
    # An event that was cut off with the connection is none; that the answer has no end is said then.
    with suppress(StreamInvalid, json.JSONDecodeError):
        for event in reader.end():
            ended = _push_event(event, answer, rules, said) or ended
    if not answer.chunks and _EVENT_STREAM not in response.headers.get("content-type", ""):
        raise not_a_stream()
    return ended


def _push_event(event: ServerEvent, answer: ChatAnswer, rules: Iterable[Rule], said: Iterable[str]) -> bool:
    if event.data.strip() == _DONE:
        return True
    data = json.loads(event.data)
    if event.name == "error":
        raise error_of(rules, None, read_complaint(data), said=said)
    _push(data, answer, rules, said)
    return False


def _push(data: object, answer: ChatAnswer, rules: Iterable[Rule], said: Iterable[str]) -> None:
    if isinstance(data, dict) and (data.get("error") or data.get("object") == "error"):
        raise error_of(rules, None, read_complaint(data), said=said)
    answer.push(data)


async def _drain(pieces: AsyncIterator[bytes]) -> None:
    """Read the end of the body, which follows at once: a connection whose body was read is used again."""
    with suppress(TimeoutError, httpx2.HTTPError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            async for _ in pieces:
                pass
