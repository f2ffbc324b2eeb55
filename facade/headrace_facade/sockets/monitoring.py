"""`WS /ws/monitor`: every two seconds what the caller may see of the whole, and what has changed since."""

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol

from headrace_facade.caller import Caller
from headrace_facade.errors import FacadeError, Forbidden, Unauthenticated
from headrace_facade.native.monitor_schema import MonitorStatus
from headrace_facade.sockets.door import Guest
from headrace_facade.sockets.talk import FORBIDDEN, IDENTITY_ENDED, LIFE_OVER, Over, Talk

EVERY_S: Final = 2.0
_WATCHED: Final = ("phase", "available", "ready", "reason", "replicas", "ready_replicas", "load_stage")


class Looking(Protocol):
    async def status(self, caller: Caller) -> MonitorStatus: ...


class Feed:
    """Of one socket, until it ends: raises Over."""

    def __init__(
        self, talk: Talk, guest: Guest, monitor: Looking, *, clock: Callable[[], float], every_s: float = EVERY_S
    ) -> None:
        self._talk = talk
        self._guest = guest
        self._monitor = monitor
        self._clock = clock
        self._every_s = every_s

    async def run(self) -> None:
        tasks = [asyncio.create_task(each) for each in (self._listen(), self._show())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for each in tasks:
                if each.done():
                    await each
        finally:
            for each in tasks:
                each.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self) -> None:
        """Nothing is to be said here; who goes away is noticed."""
        while True:
            await self._talk.heard()

    async def _show(self) -> None:
        before: MonitorStatus | None = None
        while self._clock() < self._guest.until:
            try:
                status = await self._monitor.status(await self._guest.again())
            except (Unauthenticated, Forbidden) as error:
                await self._talk.fail(error)
                raise Over(IDENTITY_ENDED if isinstance(error, Unauthenticated) else FORBIDDEN, error.code) from None
            except FacadeError as error:
                await self._talk.fail(error)
            else:
                for change in changes(before, status):
                    await self._talk.tell("changed", change)
                await self._talk.tell("status", status.model_dump(mode="json"))
                before = status
            await asyncio.sleep(self._every_s)
        raise Over(LIFE_OVER, "this socket has lived as long as one may: open another")


def changes(before: MonitorStatus | None, now: MonitorStatus) -> list[dict[str, Any]]:
    """Of models and of what is away: what came, went, or is otherwise than before."""
    if before is None:
        return []
    was = {each.model: each.model_dump(mode="json", include=set(_WATCHED)) for each in before.models}
    found: list[dict[str, Any]] = []
    for each in now.models:
        facts = each.model_dump(mode="json", include=set(_WATCHED))
        old = was.pop(each.model, None)
        if old != facts:
            found.append({"model": each.model, "before": old, "now": facts})
    found += [{"model": model, "before": old, "now": None} for model, old in was.items()]
    away = {each.what: each.message for each in before.away}, {each.what: each.message for each in now.away}
    for what in sorted(away[0].keys() ^ away[1].keys()):
        found.append({"part": what, "before": away[0].get(what, "ok"), "now": away[1].get(what, "ok")})
    return found
