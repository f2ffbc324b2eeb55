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
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Any, Final

import aiohttp

from headrace_facade.budget import ByteBudget
from headrace_facade.errors import Expired, NotFound, Throttled, Unavailable
from headrace_facade.kube import ANSWER_LIMIT_BYTES, AnswerTooLarge, KubeObject, Token, convert, tasks_path

WATCHES_MOST: Final = 128
"""Under way at once in this process: half of the requests that it answers."""
EACH_MOST: Final = 64
"""Of one token."""
OPEN_WITHIN_S: Final = 10.0
Get = Callable[[], Awaitable[KubeObject]]
REOPEN_AFTER_S: Final = 1.0
"""An API server that ends a watch at once must not be asked at once."""


class Seats:
    """Pure accounting. Raises Unavailable and Throttled."""

    def __init__(self, most: int = WATCHES_MOST, each: int = EACH_MOST, doing: str = "wait for tasks") -> None:
        self._most = most
        self._each = each
        self._doing = doing
        self._held: Counter[bytes] = Counter()

    @contextmanager
    def taken(self, who: bytes) -> Iterator[None]:
        if self._held.total() >= self._most:
            raise Unavailable(f"too many requests {self._doing}: try again")
        if self._held[who] >= self._each:
            raise Throttled(f"{self._each} requests of this identity {self._doing}: wait for one of them")
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
        self, namespace: str, name: str, token: Token, seconds: float, get: Get, *, since: str = ""
    ) -> AsyncIterator[AsyncIterator[KubeObject]]:
        """The object as it is, and then with each change; ends after `seconds`, and raises NotFound where it is
        deleted. A right that is missing is told on entering. `get` is asked once for each watch that was opened: of
        what went before, a watch tells nothing. With `since`, a version, what has changed after that comes first, as
        far as the API server remembers it.
        """
        until = self._clock() + seconds
        with self.seats.taken(hashlib.sha256(token.encode()).digest()):
            try:
                response = await self._open(namespace, name, token, seconds, since)
            except Expired:
                since, response = "", await self._open(namespace, name, token, seconds)
            states = self._states(response, namespace, name, token, until, get, since)
            try:
                yield states
            finally:
                await states.aclose()
                # Never begun, a generator closes nothing.
                _drop(response)

    async def _open(
        self, namespace: str, name: str, token: Token, seconds: float, since: str = ""
    ) -> aiohttp.ClientResponse:
        query = {
            "watch": "true",
            "fieldSelector": f"metadata.name={name}",
            # From the API server's memory, the present state first: an object that rests has a version that is too old.
            "resourceVersion": since or "0",
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
        self,
        response: aiohttp.ClientResponse,
        namespace: str,
        name: str,
        token: Token,
        until: float,
        get: Get,
        since: str,
    ) -> AsyncGenerator[KubeObject, None]:
        current: aiohttp.ClientResponse | None = response
        # What was seen by then is told by nobody.
        seen = bool(since)
        found: KubeObject | None = {"metadata": {"resourceVersion": since}} if seen else await get()
        while True:
            if current is not None and found is not None:
                try:
                    if not seen:
                        yield found
                    seen = False
                    async with aclosing(self._changes(current, found, until)) as changes:
                        async for body in changes:
                            yield body
                finally:
                    _drop(current)
            current = found = None
            left_s = until - self._clock() - REOPEN_AFTER_S
            if left_s <= 0:
                return
            await asyncio.sleep(REOPEN_AFTER_S)
            # It comes back, or the time ends.
            with contextlib.suppress(Unavailable):
                current = await self._open(namespace, name, token, left_s)
                try:
                    found = await get()
                finally:
                    if found is None:
                        _drop(current)

    async def _changes(
        self, response: aiohttp.ClientResponse, found: KubeObject, until: float
    ) -> AsyncGenerator[KubeObject, None]:
        """After `found`, until the answer ends or has to begin anew. Raises NotFound where it was deleted."""
        rest, since = bytearray(), version_of(found)
        while (line := await self._line(response, rest, until)) is not None:
            event = _document(line)
            kind, body = event.get("type"), event.get("object")
            if kind not in ("ADDED", "MODIFIED", "DELETED") or not isinstance(body, dict):
                return
            # What the API server has in memory may be older than what it answers.
            if version_of(body) < since:
                continue
            if kind == "DELETED":
                raise NotFound("the task was deleted")
            yield body

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


def version_of(body: KubeObject) -> int:
    """Versions of one kind are numbers that grow; 0 where this one is none."""
    version = str((body.get("metadata") or {}).get("resourceVersion") or "")
    return int(version) if version.isdecimal() else 0


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
