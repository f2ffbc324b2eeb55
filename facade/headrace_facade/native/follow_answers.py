"""How those who wait for a task are answered. Whoever goes away gives their watch back."""

from contextlib import aclosing
from typing import Final

from starlette.types import Send

from headrace_facade.attended import UNBUFFERED, Attended, end, start, whole, write
from headrace_facade.errors import FacadeError, FieldProblem, Internal, Invalid
from headrace_facade.kube import Token
from headrace_facade.native.following import WAIT_MOST_S, Following
from headrace_facade.native.told import event
from headrace_facade.shapes import native

_OPENING: Final = "retry: 2000\n\n"
"""Milliseconds after which a browser connects again."""
_ALIVE: Final = ": nothing has changed\n\n"


def wait_seconds(wait: str | None) -> int:
    """30s or 30; 0 where nobody waits. Raises Invalid."""
    seconds = int((wait or "0").removesuffix("s"))
    if seconds > WAIT_MOST_S:
        raise Invalid.of([FieldProblem("wait", f"at most {WAIT_MOST_S}s: ask again after that")])
    return seconds


def prefers_text(accept: str) -> bool:
    """Whether text/plain comes before JSON, and before anything."""
    for each in accept.split(","):
        kind = each.partition(";")[0].strip().lower()
        if kind in ("text/plain", "text/*"):
            return True
        if kind in ("application/json", "application/*", "*/*"):
            return False
    return False


class EndedTask(Attended):
    """The task, once it has ended or the time has."""

    def __init__(self, following: Following, task_id: str, token: Token, seconds: float) -> None:
        super().__init__()
        self._following = following
        self._task_id = task_id
        self._token = token
        self._seconds = seconds

    async def _work(self, send: Send) -> None:
        task = await self._following.ended(self._task_id, self._token, self._seconds)
        await whole(send, task.model_dump_json().encode())


class TaskEvents(Attended):
    """Server-sent events until the task has ended."""

    def __init__(
        self, following: Following, task_id: str, token: Token, trace_id: str, since: str | None = None
    ) -> None:
        super().__init__()
        self._since = since
        self._following = following
        self._task_id = task_id
        self._token = token
        self._trace_id = trace_id

    async def _work(self, send: Send) -> None:
        begun = False
        async with aclosing(self._following.happenings(self._task_id, self._token, since=self._since)) as happenings:
            try:
                async for happening in happenings:
                    if not begun:
                        begun = True
                        await start(send, 200, "text/event-stream", UNBUFFERED)
                        await write(send, [_OPENING])
                    if happening is None:
                        await write(send, [_ALIVE])
                    else:
                        name, data, identifier = happening
                        await write(send, [event(name, data.model_dump(mode="json"), identifier)])
            except FacadeError as error:
                if not begun:
                    raise
                await write(send, [self._failed(error)])
            except Exception:
                if begun:
                    await write(send, [self._failed(Internal("an unexpected error: report it with the trace id"))])
                    await end(send)
                raise
        if not begun:
            # Its end was told before: a browser's EventSource asks no more.
            await start(send, 204, "text/event-stream")
        await end(send)

    def _failed(self, error: FacadeError) -> str:
        return event("error", native(error, self._trace_id)[1])
