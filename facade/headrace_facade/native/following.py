"""Who waits for a task: for its end, or for all that happens to it until then."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Final

from headrace_crds.why import TaskFacts
from headrace_facade.errors import NotFound
from headrace_facade.kube import KubeClient, KubeObject, Token
from headrace_facade.native.task_schema import TaskRunning, TaskWaiting
from headrace_facade.objects import task_status, to_task
from headrace_facade.schema import Task, TaskStatus
from headrace_facade.service import parts
from headrace_facade.texts import with_text
from headrace_facade.watches import Watches, version_of
from headrace_facade.why import WhyService

WAIT_MOST_S: Final = 60
FOLLOW_MOST_S: Final = 600.0
PLACE_EVERY_S: Final = 5.0
"""A place in the queue changes without its object; Redis is asked, and not the API server."""
_DIGITS_MOST: Final = 19
Happening = tuple[str, Task | TaskWaiting | TaskRunning, str] | None
"""An event's name, its data, and its id: the object's version. None: nothing has changed."""


class Following:
    """Raises FacadeError. What one follower costs is one watch, and one question to Redis every five seconds."""

    def __init__(
        self, kube: KubeClient, watches: Watches, why: WhyService, place_every_s: float = PLACE_EVERY_S
    ) -> None:
        self._kube = kube
        self._watches = watches
        self._why = why
        self._place_every_s = place_every_s

    @property
    def followers(self) -> int:
        return self._watches.seats.held

    async def ended(self, task_id: str, token: Token, seconds: float) -> Task:
        """The task once it has ended, or as it is after `seconds`."""
        place = parts(task_id)
        found = await self._kube.get_task(*place, token)
        if not _over(found):
            uid = found["metadata"]["uid"]
            async with self._watches.watching(
                *place, token, seconds, lambda: self._kube.get_task(*place, token)
            ) as states:
                async for found in states:
                    _check_same(found, uid)
                    if _over(found):
                        break
        return await with_text(to_task(found), self._kube, token)

    async def happenings(
        self, task_id: str, token: Token, seconds: float = FOLLOW_MOST_S, *, since: str | None = None
    ) -> AsyncGenerator[Happening, None]:
        """At once where it stands, then what changes, until it has ended; the end of time tells nothing. With `since`,
        the id of an event, what has happened after that: nothing at all where that was the end.
        """
        place = parts(task_id)
        found = await self._kube.get_task(*place, token)
        uid = found["metadata"]["uid"]
        seen = _seen(since, found)
        if _over(found) and seen in (0, version_of(found)):
            if not seen:
                yield await self._happening(found, token)
            return
        # Else the present state says it all.
        after = str(seen) if 0 < seen < version_of(found) else ""
        async with self._watches.watching(
            *place, token, seconds, lambda: self._kube.get_task(*place, token), since=after
        ) as states:
            told: Happening = None
            if not after:
                told = await self._happening(found, token)
                yield None if seen else told
            coming: asyncio.Future[KubeObject] = asyncio.ensure_future(anext(states))
            try:
                while True:
                    await asyncio.wait({coming}, timeout=self._place_every_s)
                    if coming.done():
                        try:
                            found = coming.result()
                        except StopAsyncIteration:
                            return
                        _check_same(found, uid)
                        if not _over(found):
                            coming = asyncio.ensure_future(anext(states))
                    happening = await self._happening(found, token)
                    yield None if told is not None and happening[:2] == told[:2] else happening
                    told = happening
                    if _over(found):
                        return
            finally:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)

    async def _happening(self, found: KubeObject, token: Token) -> tuple[str, Task | TaskWaiting | TaskRunning, str]:
        return *await self._state(found, token), str(version_of(found))

    async def _state(self, found: KubeObject, token: Token) -> tuple[str, Task | TaskWaiting | TaskRunning]:
        if _over(found):
            task = await with_text(to_task(found), self._kube, token)
            return task.status.value, task
        facts, task = TaskFacts.of(found), to_task(found)
        if task.status is TaskStatus.PROCESSING:
            return "running", TaskRunning(
                task_id=task.task_id, status=task.status, attempt=task.attempt, model=facts.model
            )
        ahead, start_s, _ = await self._why.place(facts)
        return "waiting", TaskWaiting(
            task_id=task.task_id,
            status=task.status,
            reason=task.reason,
            message=task.message,
            position=None if ahead is None else ahead + 1,
            ahead=ahead,
            eta_seconds=start_s,
        )


def _seen(since: str | None, found: KubeObject) -> int:
    """The version that an event's id names; 0 where there is none, or none that can have been told."""
    version = (
        int(since) if since is not None and since.isascii() and since.isdecimal() and len(since) <= _DIGITS_MOST else 0
    )
    return version if version <= version_of(found) else 0


def _over(found: KubeObject) -> bool:
    return task_status(TaskFacts.of(found).status) in (TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED)


def _check_same(found: KubeObject, uid: str) -> None:
    if found["metadata"]["uid"] != uid:
        raise NotFound("the task was deleted, and another one has its name")
