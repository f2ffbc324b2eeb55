"""What a provider answers, as bytes: decompressed, bounded, and closed when it fails.

It knows no meaning of what it bounds, but for the lines of server-sent events: an SDK may copy an event for each of its
lines, so an event that never ends would cost the runner minutes.
"""

import contextlib
import re
import zlib
from collections.abc import AsyncIterator, Iterator
from typing import Final

import anyio
import httpcore2
import httpx2

from headrace_runner.providers.transport_errors import AnswerRefused

BODY_LIMIT_BYTES: Final = 16 * 1024 * 1024
"""Of a whole response, streamed or not, after decompression."""
EVENT_LIMIT_BYTES: Final = 1024 * 1024
EVENT_LIMIT_LINES: Final = 2048
"""Lines of one server-sent event, and pieces that it comes in."""
_INFLATED_PIECE_BYTES: Final = 256 * 1024
_GZIP: Final = zlib.MAX_WBITS | 16
_DROPPED_HEADERS: Final = frozenset({b"content-encoding", b"set-cookie"})
"""The body is decoded here; a cookie would tie one task's requests to another's."""
_BLANK_LINE: Final = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_LINE_ENDS: Final = b"\r\n"


class Body(httpx2.AsyncByteStream):
    """A response's body, decompressed and bounded; closed when it fails, too."""

    def __init__(self, answer: httpcore2.Response, origin: str) -> None:
        """Raises AnswerRefused where the headers already say that it is too large or cannot be decoded."""
        self._answer, self._origin = answer, origin
        encodings = [_lower(value) for name, value in answer.headers if name.lower() == b"content-encoding"]
        self._compressed = encodings in (["gzip"], ["x-gzip"])
        if not self._compressed and any(each not in ("", "identity") for each in encodings):
            raise AnswerRefused(f"{origin} compresses its answer in a way that was not asked for: it may use gzip")
        self.dropped = _DROPPED_HEADERS | ({b"content-length"} if self._compressed else set())
        types = [_lower(value) for name, value in answer.headers if name.lower() == b"content-type"]
        self._is_events = any(each.startswith("text/event-stream") for each in types)
        for name, value in answer.headers:
            if name.lower() == b"content-length" and value.isdigit() and int(value) > BODY_LIMIT_BYTES:
                raise self._too_large()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = BODY_LIMIT_BYTES
        inflate = _Inflate(self._origin) if self._compressed else None
        events = _Events(self._origin) if self._is_events else None
        try:
            with told():
                async with contextlib.aclosing(self._answer.aiter_stream()) as received:
                    async for chunk in received:
                        for piece in (chunk,) if inflate is None else inflate.pieces(chunk):
                            left -= len(piece)
                            if left < 0:
                                raise self._too_large()
                            if events is not None:
                                events.see(piece)
                            yield piece
                if inflate is not None:
                    inflate.end()
        except BaseException:
            await close(self._answer)
            raise

    async def aclose(self) -> None:
        await close(self._answer)

    def _too_large(self) -> AnswerRefused:
        return AnswerRefused(
            f"{self._origin} answered with more than {BODY_LIMIT_BYTES // 2**20} MiB: bound the result, as with "
            "maxTokens, and look whether spec.remote.baseURL leads to the API"
        )


class _Inflate:
    """gzip, in pieces: how large it becomes is seen before it is there."""

    def __init__(self, origin: str) -> None:
        self._gzip = zlib.decompressobj(_GZIP)
        self._origin = origin
        self._begun = False

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Raises AnswerRefused."""
        self._begun = self._begun or bool(data)
        try:
            while piece := self._gzip.decompress(data, _INFLATED_PIECE_BYTES):
                yield piece
                data = self._gzip.unconsumed_tail
        except zlib.error:
            raise self._broken() from None
        if self._gzip.unused_data:
            raise self._broken()

    def end(self) -> None:
        """Raises AnswerRefused when the end is missing."""
        if self._begun and not self._gzip.eof:
            raise self._broken()

    def _broken(self) -> AnswerRefused:
        return AnswerRefused(f"what {self._origin} answered is no gzip: look whether a proxy changes it")


class _Events:
    """Where one server-sent event ends and how long it is, whatever it says."""

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._size_bytes = self._lines = 0
        self._tail = b""

    def see(self, piece: bytes) -> None:
        """Raises AnswerRefused."""
        parts = _BLANK_LINE.split(self._tail + piece)
        for place, part in enumerate(parts):
            if place:
                self._size_bytes = self._lines = 0
            self._size_bytes += len(part)
            self._lines += 1 + part.count(b"\n") + part.count(b"\r")
            if self._size_bytes > EVENT_LIMIT_BYTES or self._lines > EVENT_LIMIT_LINES:
                raise AnswerRefused(
                    f"{self._origin} streams an event of more than {EVENT_LIMIT_BYTES // 2**20} MiB or "
                    f"{EVENT_LIMIT_LINES} lines: look whether spec.remote.baseURL leads to the API"
                )
        self._tail = parts[-1][len(parts[-1].rstrip(_LINE_ENDS)) :][-3:]


def _lower(value: bytes) -> str:
    return value.decode("latin-1").strip().lower()


async def close(answer: httpcore2.Response) -> None:
    with anyio.CancelScope(shield=True):
        await answer.aclose()


_TOLD: Final[tuple[tuple[type[Exception], type[httpx2.TransportError]], ...]] = (
    (httpcore2.ConnectTimeout, httpx2.ConnectTimeout),
    (httpcore2.ReadTimeout, httpx2.ReadTimeout),
    (httpcore2.WriteTimeout, httpx2.WriteTimeout),
    (httpcore2.PoolTimeout, httpx2.PoolTimeout),
    (httpcore2.ConnectError, httpx2.ConnectError),
    (httpcore2.ReadError, httpx2.ReadError),
    (httpcore2.WriteError, httpx2.WriteError),
    (httpcore2.RemoteProtocolError, httpx2.RemoteProtocolError),
    (httpcore2.LocalProtocolError, httpx2.LocalProtocolError),
    (httpcore2.UnsupportedProtocol, httpx2.UnsupportedProtocol),
)


@contextlib.contextmanager
def told() -> Iterator[None]:
    """httpcore2's errors as httpx2's, without their text and their causes, which quote headers."""
    try:
        yield
    except Exception as error:
        for ours, theirs in _TOLD:
            if isinstance(error, ours):
                raise theirs(theirs.__name__) from None
        raise
