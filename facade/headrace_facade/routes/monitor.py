"""`/api/v1/monitor`: what a tenant may see of the whole."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request

from headrace_facade.errors import FieldProblem, Forbidden, Invalid
from headrace_facade.identity.dependency import SCHEMES
from headrace_facade.native.logs import RECORDS_MOST
from headrace_facade.native.logs_schema import LogRecords
from headrace_facade.native.monitor_schema import MonitorStatus, QueueViews
from headrace_facade.routes.tasks import InContext, known_query
from headrace_facade.schema import Namespace, Problem
from headrace_facade.service import parts

_WORDS: Final = {
    401: "No token or API key, or one that is not accepted",
    403: "The caller may not create tasks in that namespace",
    422: "`details.fields` says which field and what to do",
    503: "The API server is away, or the models were not read yet; see Retry-After",
}
_PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": Problem, "description": words} for status, words in _WORDS.items()
}
router = APIRouter(prefix="/api/v1/monitor", tags=["monitor"], dependencies=[*SCHEMES, Depends(known_query)])


Tenant = Annotated[Namespace | None, Query(description="Absent: the caller's own.")]


@router.get("/status", summary="Models, queues, GPUs, and what is away", responses=_PROBLEMS)
async def status(request: Request, context: InContext, namespace: Tenant = None) -> MonitorStatus:
    """Of the models that serve your namespace; GPUs and sums over namespaces of its own models alone. Two seconds old
    at most, GPUs seven."""
    return await context.monitor.status(await context.callers.authenticate(request.headers, namespace=namespace))


@router.get("/queue", summary="Queues of the models that serve you", responses=_PROBLEMS)
async def queue(request: Request, context: InContext, namespace: Tenant = None) -> QueueViews:
    """How much of your namespace waits at each of them; sums over namespaces of its own models alone."""
    return await context.monitor.queue(await context.callers.authenticate(request.headers, namespace=namespace))


@router.get(
    "/logs",
    summary="What has happened",
    responses={**_PROBLEMS, 404: {"model": Problem, "description": "No such task"}},
)
async def logs(
    request: Request,
    context: InContext,
    namespace: Tenant = None,
    task: Annotated[str | None, Query(max_length=320, description="Of this task alone: its task_id.")] = None,
    limit: Annotated[int, Query(ge=1, le=RECORDS_MOST, description="Records; the newest.")] = RECORDS_MOST,
) -> LogRecords:
    """Events of your namespace's tasks and models of about the last hour, and of one task its attempts as well; read
    with your own token, which needs get on llmtasks, or list on events. No prompt and no result is in them."""
    place = None if task is None else parts(task)
    if place is not None and namespace not in (None, place[0]):
        raise Invalid.of([FieldProblem("namespace", "is another one than the task's: leave it out")])
    caller = await context.callers.authenticate(request.headers, namespace=namespace if place is None else place[0])
    if caller.token is None:
        raise Forbidden("records are read with a token of the cluster's API server: an API key reads none")
    if place is not None:
        return await context.logs.of_task(*place, caller.token, limit)
    return await context.logs.recent(caller.namespace, caller.token, limit)
