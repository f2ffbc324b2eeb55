"""What is heard from Redis of each model: ended leases, returned deliveries, changed reports."""

import asyncio
from typing import Final

from headrace_bus import Returned
from headrace_operator.context import Context, bus_key
from headrace_operator.heard import Heard
from headrace_operator.loops import contained, every
from headrace_operator.observe_task import named_by_entry
from headrace_operator.refs import ModelRef

RETURNED_LIMIT: Final = 100
RETURNED_PAGES: Final = 50
"""Per look; what is beyond is found by the sweep."""
LISTEN_AGAIN_SECONDS: Final = 2.0
FORGET_SECONDS: Final = 30.0
"""After this long a delivery that still lies there is told to the queue again."""


class Reaper:
    """Looks at every model now and then, and at once at those that Redis names."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._told: set[tuple[ModelRef, str, int]] = set()
        self._heard = Heard(ctx.monotonic)

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._reap(), name="reap")
            group.create_task(self._listen(), name="listen")
            group.create_task(self._follow(), name="follow")
            group.create_task(self._forget(), name="forget")

    async def look(self, ref: ModelRef) -> None:
        """Ends leases that ran out, and has every returned delivery's task reconciled, once."""
        async with contained(ref, "reap", self._ctx):
            await self._ctx.bus.reap(bus_key(ref))
        async with contained(ref, "returned", self._ctx):
            # Those that cannot be decided yet, because the API server refuses them, must not hide those behind them.
            last: Returned | None = None
            for _ in range(RETURNED_PAGES):
                page = await self._ctx.bus.returned(bus_key(ref), limit=RETURNED_LIMIT, after=last)
                for returned in page:
                    self._tell(ref, returned)
                if len(page) < RETURNED_LIMIT:
                    break
                last = page[-1]

    def _tell(self, ref: ModelRef, returned: Returned) -> None:
        if (ref, returned.uid, returned.attempt) not in self._told:
            self._told.add((ref, returned.uid, returned.attempt))
            self._ctx.tasks.add(named_by_entry(ref, returned.uid, returned.namespace, returned.name, self._ctx))

    async def _reap(self) -> None:
        async def once() -> None:
            for ref in sorted(self._ctx.memory.registered):
                await self.look(ref)

        await every(self._ctx.settings.reap_seconds, "reap", once)

    async def _listen(self) -> None:
        async def once() -> None:
            async for key in self._ctx.bus.operator_wakeups():
                ref = ModelRef(key.namespace, key.name)
                if self._ctx.settings.serves(ref.namespace):
                    self._heard.add(ref)
                # Messages that have arrived already come without a pause.
                await asyncio.sleep(0)

        await every(LISTEN_AGAIN_SECONDS, "listen", once)

    async def _follow(self) -> None:
        async def once() -> None:
            while True:
                ref = await self._heard.next()
                self._ctx.models.add(ref)
                await self.look(ref)

        # What was named when a look was held up is looked at by `_reap`.
        await every(LISTEN_AGAIN_SECONDS, "follow", once)

    async def _forget(self) -> None:
        while True:
            await asyncio.sleep(FORGET_SECONDS)
            self._told.clear()
