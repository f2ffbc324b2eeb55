"""One chunk of a namespace's tasks, read page by page: each page becomes summaries before the next one is asked for.

A task can be larger than 1 MiB and its summary is small, so a chunk is bounded in the bytes that were read for it;
beyond them it ends early, as Kubernetes' own lists may, and `continue` leads on.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from headrace_facade.errors import Unavailable
from headrace_facade.kube import AnswerTooLarge, KubeClient, KubeObject, Token

PAGE: Final = 20
CHUNK_BYTES: Final = 32 * 1024 * 1024
LISTS_AT_ONCE: Final = 2
_WAIT_S: Final = 5.0


class Lists:
    """Few at once, as each holds a page of whole tasks."""

    def __init__(
        self,
        wait_s: float = _WAIT_S,
        told: str = "too many lists are being read: try again",
        at_once: int = LISTS_AT_ONCE,
    ) -> None:
        self._slots = asyncio.Semaphore(at_once)
        self._wait_s = wait_s
        self._told = told

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Raises Unavailable when none is free in time."""
        try:
            async with asyncio.timeout(self._wait_s):
                await self._slots.acquire()
        except TimeoutError as error:
            raise Unavailable(self._told) from error
        try:
            yield
        finally:
            self._slots.release()


@dataclass
class Cursor:
    """Where a chunk stands."""

    limit: int
    continue_: str | None
    remaining: int | None = None
    read_bytes: int = 0
    page: int = field(default=PAGE)

    @property
    def open(self) -> bool:
        return self.limit > 0 and self.read_bytes < CHUNK_BYTES


async def pages(kube: KubeClient, namespace: str, cursor: Cursor, token: Token) -> AsyncIterator[list[KubeObject]]:
    """Moves `cursor` on. Raises AnswerTooLarge when a single task is."""
    while cursor.open:
        try:
            answer, size_bytes = await kube.list_tasks(
                namespace, min(cursor.page, cursor.limit), cursor.continue_, token
            )
        except AnswerTooLarge:
            if (smaller := min(cursor.page, cursor.limit) // 2) == 0:
                raise
            cursor.page = smaller
            continue
        metadata = answer.get("metadata") or {}
        items: list[KubeObject] = answer.get("items") or []
        cursor.continue_ = metadata.get("continue") or None
        cursor.remaining = metadata.get("remainingItemCount")
        cursor.limit -= len(items)
        cursor.read_bytes += size_bytes
        del answer
        yield items
        if cursor.continue_ is None:
            return
