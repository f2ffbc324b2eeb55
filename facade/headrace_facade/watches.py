"""Watches of single tasks, each with the token of whoever waits: bounded in number and time, and never a poll.

They have connections of their own, so that those who wait keep nobody from asking.
"""

import asyncio
import contextlib
import hashlib
import json
import math
import ssl
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import aiohttp

from headrace_facade.budget import ByteBudget
from headrace_facade.errors import NotFound, Throttled, Unavailable
from headrace_facade.kube import ANSWER_LIMIT_BYTES, AnswerTooLarge, KubeObject, Token, convert, tasks_path

WATCHES_MOST: Final = 128
"""Under way at once in this process: half of the requests that it answers."""
EACH_MOST: Final = 64
"""Of one token."""
OPEN_WITHIN_S: Final = 10.0
REOPEN_AFTER_S: Final = 1.0
"""An API server that ends a watch at once must not be asked at once."""


class Seats:
    """Pure accounting. Raises Unavailable and Throttled."""

    def __init__(self, most: int = WATCHES_MOST, each: int = EACH_MOST) -> None:
        self._most = most
        self._each = each
        self._held: Counter[bytes] = Counter()

    @contextmanager
    def taken(self, who: bytes) -> Iterator[None]:
        if self._held.total() >= self._most:
            raise Unavailable("too many requests wait for tasks: try again")
        if self._held[who] >= self._each:
            raise Throttled(f"{self._each} requests with this token wait for tasks: wait for one of them")
        self._held[who] += 1
        try:
            yield
        finally:
            self._held[who] -= 1
            if not self._held[who]:
                del self._held[who]

    @property
    def held(self) -> int:
        return self._held.total()


class Watches:
    """Raises FacadeError."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        answers: ByteBudget,
        seats: Seats | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session = session
        self._url = url
        self._answers = answers
        self.seats = seats or Seats()
        self._clock = clock

    @classmethod
    @asynccontextmanager
    async def connect(cls, url: str, ca_file: str | None, answers: ByteBudget) -> AsyncIterator["Watches"]:
        context = ssl.create_default_context(cafile=ca_file) if url.startswith("https:") else True
        session = aiohttp.ClientSession(
            # Seats bound them.
            connector=aiohttp.TCPConnector(ssl=context, limit=0),
            timeout=aiohttp.ClientTimeout(total=None, connect=3.0),
            headers={"Accept": "application/json", "User-Agent": "headrace-facade"},
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        async with session:
            yield cls(session, url, answers)

    @asynccontextmanager
    async def watching(
        self, namespace: str, name: str, token: Token, seconds: float
    ) -> AsyncIterator[AsyncIterator[KubeObject]]:
        """The object as it is, a moment old at most, and then with each change; ends after `seconds`, and raises
        NotFound where it is deleted. A right that is missing is told on entering.
        """
        until = self._clock() + seconds
        with self.seats.taken(hashlib.sha256(token.encode()).digest()):
            response = await self._open(namespace, name, token, seconds)
            states = self._states(response, namespace, name, token, until)
            try:
                yield states
            finally:
                await states.aclose()
                # Never begun, a generator closes nothing.
                _drop(response)

    async def _open(self, namespace: str, name: str, token: Token, seconds: float) -> aiohttp.ClientResponse:
        query = {
            "watch": "true",
            "fieldSelector": f"metadata.name={name}",
            # From the API server's memory, the present state first: an object that rests has a version that is too old.
            "resourceVersion": "0",
            "timeoutSeconds": str(max(math.ceil(seconds), 1)),
        }
        try:
            async with asyncio.timeout(OPEN_WITHIN_S):
                response = await self._session.get(
                    self._url + tasks_path(namespace),
                    params=query,
                    headers={"Authorization": f"Bearer {token}"},
                    allow_redirects=False,
                )
                if response.status == 200:
                    return response
                async with response:
                    raw = await response.content.read(64 * 1024)
        except TimeoutError as error:
            raise Unavailable("the API server did not answer in time: try again") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Unavailable(f"the API server cannot be reached ({type(error).__name__}): try again") from error
        raise convert(response.status, _document(raw), response.headers.get("Retry-After"))

    async def _states(
        self, response: aiohttp.ClientResponse, namespace: str, name: str, token: Token, until: float
    ) -> AsyncGenerator[KubeObject, None]:
        current: aiohttp.ClientResponse | None = response
        try:
            while True:
                if current is not None:
                    rest = bytearray()
                    while (line := await self._line(current, rest, until)) is not None:
                        if (found := _object(line)) is None:
                            break
                        yield found
                    _drop(current)
                    current = None
                left_s = until - self._clock() - REOPEN_AFTER_S
                if left_s <= 0:
                    return
                await asyncio.sleep(REOPEN_AFTER_S)
                # It comes back, or the time ends.
                with contextlib.suppress(Unavailable):
                    current = await self._open(namespace, name, token, left_s)
        finally:
            if current is not None:
                _drop(current)

    async def _line(self, response: aiohttp.ClientResponse, rest: bytearray, until: float) -> bytes | None:
        """The next one; None at the end of the answer or of the time."""
        searched = 0
        with self._answers.share() as share:
            share.take(len(rest))
            while (end := rest.find(b"\n", searched)) < 0:
                searched = len(rest)
                try:
                    async with asyncio.timeout(max(until - self._clock(), 0)):
                        piece = await response.content.readany()
                except (TimeoutError, aiohttp.ClientError, OSError):
                    # What was read only in part is told anew by the next watch.
                    return None
                if not piece:
                    return None
                if len(rest) + len(piece) > ANSWER_LIMIT_BYTES:
                    raise AnswerTooLarge(f"the API server's answer is larger than {ANSWER_LIMIT_BYTES >> 20} MiB")
                share.take(len(piece))
                rest += piece
            line = bytes(rest[:end])
            del rest[: end + 1]
            return line


def _object(line: bytes) -> KubeObject | None:
    """None: the watch has to begin anew. Raises NotFound where it was deleted."""
    event = _document(line)
    body = event.get("object")
    if event.get("type") == "DELETED":
        raise NotFound("the task was deleted")
    return body if event.get("type") in ("ADDED", "MODIFIED") and isinstance(body, dict) else None


def _document(raw: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(raw)
        if isinstance(found, dict):
            return found
    return {"message": raw[:200].decode(errors="replace")}


def _drop(response: aiohttp.ClientResponse) -> None:
    # In the middle of an answer nobody waits for the goodbye of TLS.
    if response.connection is not None and response.connection.transport is not None:
        response.connection.transport.abort()
    response.close()
