"""Streams of JSON documents: server-sent events and JSON lines, from bytes as they come.

Bounded and strict where httpx2's own reader is not: bytes that are no UTF-8 end the stream, and so does a line that
does not end.
"""

import codecs
from collections.abc import AsyncIterable, AsyncIterator
from typing import Final

MAX_EVENT_CHARS: Final = 1024 * 1024
SERVER_SENT_EVENTS: Final = "text/event-stream"
JSON_LINES: Final = frozenset(
    {"application/x-ndjson", "application/ndjson", "application/jsonl", "application/json-seq"}
)
DONE: Final = "[DONE]"
"""What APIs after OpenAI's end a stream with; no JSON."""


async def lines(chunks: AsyncIterable[bytes]) -> AsyncIterator[str]:
    """Lines without their ends (LF, CR LF or CR). Raises ValueError for bytes or a length that cannot be."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    pending: list[str] = []
    size, ended_by_cr = 0, False
    async for chunk in chunks:
        text = decoder.decode(chunk)
        if ended_by_cr and text:
            text, ended_by_cr = text.removeprefix("\n"), False
        if not text:
            continue
        ended_by_cr = text.endswith("\r")
        *whole, rest = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        for line in whole:
            size += len(line)
            _bound(size)
            yield "".join((*pending, line))
            pending.clear()
            size = 0
        if rest:
            size += len(rest)
            _bound(size)
            pending.append(rest)
    decoder.decode(b"", final=True)
    if pending:
        yield "".join(pending)


async def server_sent_data(chunks: AsyncIterable[bytes]) -> AsyncIterator[str]:
    """The data of each event (WHATWG HTML, 9.2). The last one counts without the empty line that should end it."""
    data: list[str] = []
    size = 0
    async for line in lines(chunks):
        if line:
            field, _, value = line.partition(":")
            if field == "data":
                value = value.removeprefix(" ")
                size += len(value)
                _bound(size)
                data.append(value)
            continue
        if data:
            yield "\n".join(data)
        data, size = [], 0
    if data:
        yield "\n".join(data)


async def json_lines(chunks: AsyncIterable[bytes]) -> AsyncIterator[str]:
    """Each line that is not empty; the record separators of application/json-seq (RFC 7464) are taken off."""
    async for line in lines(chunks):
        if text := line.strip(" \t\x1e"):
            yield text


def _bound(size: int) -> None:
    if size > MAX_EVENT_CHARS:
        raise ValueError(f"an event of more than {MAX_EVENT_CHARS} characters")
