"""`/api/v1/monitor`: what a tenant may see of the whole."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request

from headrace_facade.identity.dependency import SCHEMES
from headrace_facade.native.monitor_schema import MonitorStatus, QueueViews
from headrace_facade.routes.tasks import InContext, known_query
from headrace_facade.schema import Namespace, Problem

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
