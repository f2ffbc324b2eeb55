"""`/healthz` and `/readyz`, for probes: no token, no detail beyond the reason."""

from fastapi import APIRouter, Request

from headrace_facade.context import Context
from headrace_facade.schema import Health, Problem, Readiness

router = APIRouter(tags=["health"])


@router.get("/healthz", summary="The process answers")
async def healthz() -> Health:
    """Says nothing of the API server: a restart of the facade would not bring that back."""
    return Health()


@router.get("/readyz", summary="Requests can be served", responses={503: {"model": Problem, "description": "Why not"}})
async def readyz(request: Request) -> Readiness:
    """503 with the reason while the API server does not answer. Without Redis, or without its own view of
    models, tasks are served: it is told."""
    context: Context = request.app.state.context
    await context.kube.check_ready()
    context.directory.check_started()
    return Readiness(redis=await context.queues.condition(), models=context.directory.condition())
