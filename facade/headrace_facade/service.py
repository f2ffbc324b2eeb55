"""Tasks between HTTP and objects: what each request asks of the API server, with the caller's own token."""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from headrace_bus import ModelKey
from headrace_facade.chunks import Cursor, Lists, pages
from headrace_facade.errors import Conflict, Forbidden, Invalid, KeyReused, NotFound, Unavailable
from headrace_facade.idempotency import ANNOTATION_BODY
from headrace_facade.kube import KubeClient, KubeObject, Token
from headrace_facade.objects import to_summary, to_task
from headrace_facade.room import Room
from headrace_facade.schema import CreateTask, Task, TaskList
from headrace_facade.submission import in_request_words, manifest
from headrace_facade.texts import with_text

_ID: Final = re.compile(r"([a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?)\.([a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?)")
_TRIES: Final = 3


@dataclass(frozen=True)
class Submitted:
    """`replayed`: an earlier request with the same key made the task."""

    task: Task
    replayed: bool = False


class TaskService:
    """Raises FacadeError."""

    def __init__(self, kube: KubeClient, room: Room, default_namespace: str, default_ttl_seconds: int | None) -> None:
        self._kube = kube
        self._room = room
        self._default_namespace = default_namespace
        self._default_ttl_seconds = default_ttl_seconds
        self._lists = Lists()

    async def create(self, request: CreateTask, key: str | None, token: Token) -> Submitted:
        """Raises KeyReused when the key has made another task."""
        namespace = request.namespace or self._default_namespace
        made = manifest(request, namespace=namespace, key=key, default_ttl_seconds=self._default_ttl_seconds)
        try:
            with self._said_which(request.namespace):
                if key is not None:
                    return await self._create_once(namespace, made, token)
                return Submitted(to_task(await self._submit(namespace, made, token)))
        except Invalid as error:
            raise in_request_words(error) from error

    async def _create_once(self, namespace: str, made: KubeObject, token: Token) -> Submitted:
        """The API server lets one object of a name in: whoever comes second looks at the first one's."""
        for _ in range(_TRIES):
            try:
                return Submitted(to_task(await self._submit(namespace, made, token)))
            except Conflict:
                try:
                    found = await self._kube.get_task(namespace, made["metadata"]["name"], token)
                except NotFound:
                    continue  # deleted in between: the key is free again
                except Forbidden as error:
                    told = f"a task with this idempotency key exists, and you may not read it: {error.message}"
                    raise Forbidden(told) from error
            return Submitted(await with_text(_same(found, made), self._kube, token), replayed=True)
        raise Unavailable("the task of this idempotency key comes and goes: try again")

    async def _submit(self, namespace: str, made: KubeObject, token: Token) -> KubeObject:
        """Raises what `Room.refusal` gives before anything is created."""
        ref = made["spec"]["modelRef"]
        model = ModelKey(ref.get("namespace", namespace), ref["name"])
        full = None if made["spec"].get("suspend") else await self._room.refusal(namespace, model, token, made)
        if full is None:
            return await self._kube.create_task(namespace, made, token)
        # Who could not create it hears that and not how full a queue is; a key's first task is found.
        await self._kube.create_task(namespace, made, token, dry_run=True)
        raise full

    async def get(self, task_id: str, token: Token) -> Task:
        return await with_text(to_task(await self._kube.get_task(*parts(task_id), token)), self._kube, token)

    async def change(self, task_id: str, spec: dict[str, Any], token: Token) -> Task:
        """Sets members of an open task's spec; a finished one is left as it is."""
        namespace, name = parts(task_id)
        found = await self._kube.get_task(namespace, name, token)
        # A change that comes after the outcome changes nothing, but the object would have to be looked at again.
        if (found.get("status") or {}).get("outcome") is None:
            found = await self._kube.change_task(namespace, name, spec, token)
        return await with_text(to_task(found), self._kube, token)

    async def delete(self, task_id: str, token: Token) -> None:
        await self._kube.delete_task(*parts(task_id), token)

    async def list(self, namespace: str | None, limit: int, continue_: str | None, token: Token) -> TaskList:
        cursor, summaries = Cursor(limit, continue_), []
        async with self._lists.slot():
            with self._said_which(namespace):
                async for page in pages(self._kube, namespace or self._default_namespace, cursor, token):
                    summaries += [to_summary(item) for item in page]
        return TaskList.model_validate(
            {"items": summaries, "continue": cursor.continue_, "remaining": cursor.remaining}
        )

    @contextlib.contextmanager
    def _said_which(self, named: str | None) -> Iterator[None]:
        """A refusal for a namespace that the request did not name says where it comes from."""
        try:
            yield
        except Forbidden as error:
            if named is not None:
                raise
            told = f"the request names no namespace, so the facade's default {self._default_namespace!r} was taken"
            raise Forbidden(f"{error.message}; {told}: name yours") from error


def parts(task_id: str) -> tuple[str, str]:
    """Namespace and name. Raises NotFound for what cannot be an id, too: it names no task."""
    match = _ID.fullmatch(task_id)
    if match is None:
        raise NotFound("no such task: an id looks like namespace.name, as POST /api/v1/tasks returns it")
    return match[1], match[2]


def _same(found: KubeObject, made: KubeObject) -> Task:
    """The task that the key has made. Raises KeyReused."""
    before = (found["metadata"].get("annotations") or {}).get(ANNOTATION_BODY)
    task = to_task(found)
    if before != made["metadata"]["annotations"][ANNOTATION_BODY]:
        raise KeyReused(
            f"this idempotency key has made task {task.task_id} with another body: send that body again, or another key"
        )
    return task
