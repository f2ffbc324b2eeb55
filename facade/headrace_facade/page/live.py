"""The page's states as they change: server-sent events for its script, for as long as somebody looks."""

import asyncio
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Final

from starlette.types import Send

from headrace_facade.attended import UNBUFFERED, Attended, end, start, write
from headrace_facade.caller import Caller
from headrace_facade.errors import FacadeError, Later
from headrace_facade.native.told import event
from headrace_facade.page.cells import State
from headrace_facade.page.service import Pages, token_of

EVERY_S: Final = 2.0
FOR_S: Final = 600.0
"""After that the browser asks again."""
_ALIVE: Final = ": nothing has changed\n\n"
Again = Callable[[], Awaitable[Caller]]
"""Judges the identity anew: who has lost it sees nothing more."""


class _Live(Attended, ABC):
    def __init__(self, pages: Pages, caller: Caller) -> None:
        super().__init__()
        self._pages = pages
        self._caller = caller

    async def _work(self, send: Send) -> None:
        who = hashlib.sha256(self._caller.name.encode()).digest()
        with self._pages.seats.taken(who):
            await start(send, 200, "text/event-stream", UNBUFFERED)
            try:
                await self._tell(send)
            except FacadeError as error:
                # The script asks no more; what a later try may mend the browser tries by itself.
                if not isinstance(error, Later):
                    await write(send, [event("refused", {"message": error.message, "status": error.status})])
            await end(send)

    @abstractmethod
    async def _tell(self, send: Send) -> None:
        """Its events, until it ends or the client goes away."""


class LiveOverview(_Live):
    """Asked anew every two seconds: what is behind it is kept as long."""

    def __init__(self, pages: Pages, caller: Caller, again: Again, every_s: float = EVERY_S) -> None:
        super().__init__(pages, caller)
        self._again = again
        self._every_s = every_s

    async def _tell(self, send: Send) -> None:
        told: State | None = None
        loop = asyncio.get_running_loop()
        until = loop.time() + FOR_S
        while loop.time() < until:
            state = await self._pages.overview(await self._again())
            await write(send, [_ALIVE if state == told else event("state", state.document())])
            told = state
            await asyncio.sleep(self._every_s)


class LiveTask(_Live):
    """With each change of the task or of its place in the queue, until it has ended."""

    def __init__(self, pages: Pages, caller: Caller, task_id: str) -> None:
        super().__init__(pages, caller)
        self._task_id = task_id

    async def _tell(self, send: Send) -> None:
        token = token_of(self._caller)
        async with aclosing(self._pages.following.happenings(self._task_id, token)) as happenings:
            async for happening in happenings:
                if happening is None:
                    await write(send, [_ALIVE])
                    continue
                state = await self._pages.task(self._caller, self._task_id)
                await write(send, [event("state", state.document())])
                if happening[0] not in ("waiting", "running"):
                    await write(send, [event("over", {})])
