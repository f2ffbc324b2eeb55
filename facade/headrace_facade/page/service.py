"""What the page asks of the services behind the JSON routes, with the caller's own rights."""

import hashlib
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from headrace_facade.caller import Caller
from headrace_facade.errors import FacadeError, Forbidden
from headrace_facade.identity.kept import Kept
from headrace_facade.kube import KubeClient
from headrace_facade.native.following import Following
from headrace_facade.native.monitor import Monitor
from headrace_facade.native.report import report
from headrace_facade.objects import to_task
from headrace_facade.page.cells import State
from headrace_facade.page.one_task import task_state
from headrace_facade.page.overview import overview
from headrace_facade.schema import TaskList, TaskStatus
from headrace_facade.service import TaskService, parts
from headrace_facade.texts import with_text
from headrace_facade.watches import Seats
from headrace_facade.why import WhyService

TASKS_MOST: Final = 100
"""Of a namespace, by name: the API server lists them in no other order."""
TASKS_KEPT_S: Final = 5.0
VIEWERS_MOST: Final = 128
VIEWERS_EACH: Final = 16
NEEDS_A_TOKEN: Final = "An API key makes calls and lists models. Sign in with a token of the cluster to see tasks."  # noqa: S105 # words
_OPEN: Final = (TaskStatus.CREATED, TaskStatus.QUEUED, TaskStatus.PROCESSING)


class Pages:
    """Raises FacadeError."""

    def __init__(
        self,
        kube: KubeClient,
        tasks: TaskService,
        why: WhyService,
        monitor: Monitor,
        following: Following,
        *,
        clock: Callable[[], float] = time.monotonic,
        today: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._kube = kube
        self._tasks = tasks
        self._why = why
        self._monitor = monitor
        self._today = today
        self._lists: Kept[TaskList] = Kept(TASKS_KEPT_S, 0.0, entries=VIEWERS_MOST, clock=clock)
        self.following = following
        self.seats = Seats(VIEWERS_MOST, VIEWERS_EACH, "look at this page")

    async def overview(self, caller: Caller) -> State:
        return overview(await self._monitor.status(caller), await self._listed(caller), self._today())

    async def task(self, caller: Caller, task_id: str) -> State:
        token = token_of(caller)
        found = await self._kube.get_task(*parts(task_id), token)
        task = await with_text(to_task(found), self._kube, token)
        why = await self._why.why(task_id, token) if task.status in _OPEN else None
        return task_state(report(found), task, why, self._today())

    async def _listed(self, caller: Caller) -> TaskList | str:
        """Or why not: the rest of the page is shown all the same. All who look with one token share a list."""
        if (token := caller.token) is None:
            return NEEDS_A_TOKEN
        key = hashlib.sha256(f"{caller.namespace} {token}".encode()).digest()
        try:
            found = await self._lists.get(key, lambda: self._tasks.list(caller.namespace, TASKS_MOST, None, token))
        except FacadeError as error:
            return f"Tasks cannot be listed: {error.message}"
        return found if found is not None else "Tasks cannot be listed."


def token_of(caller: Caller) -> str:
    """Raises Forbidden."""
    if caller.token is None:
        raise Forbidden("an API key makes calls and lists models: sign in with a token of the cluster to see tasks")
    return caller.token
