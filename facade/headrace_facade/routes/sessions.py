"""`/api/v1/sessions`: chats that go on, of whoever made them."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request, Response

from headrace_facade.context import Context
from headrace_facade.identity.dependency import SCHEMES
from headrace_facade.routes.tasks import InContext, known_query
from headrace_facade.schema import Namespace, Problem
from headrace_facade.sessions.schema import NewSession, SessionHistory, SessionView, SessionViews

_WORDS: Final = {
    401: "No token or API key, or one that is not accepted",
    403: "The caller may not create tasks in that namespace",
    404: "The caller has no such session",
    409: "The caller has a session of that id",
    422: "`details.fields` says which field and what to do",
    429: "The caller has as many sessions as it may",
    503: "Redis is away or full, or the identity cannot be verified; see Retry-After",
}


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Problem, "description": _WORDS[status]} for status in statuses}


router = APIRouter(prefix="/api/v1/sessions", tags=["sessions"], dependencies=[*SCHEMES, Depends(known_query)])
Tenant = Annotated[Namespace | None, Query(description="Absent: the caller's own.")]


async def _made(
    request: Request, response: Response, context: Context, session: str | None, body: NewSession | None
) -> SessionView:
    asked = body or NewSession()
    caller = await context.callers.authenticate(request.headers, namespace=asked.namespace)
    made = await context.sessions.create(caller, session, asked.system)
    response.headers["Location"] = f"/api/v1/sessions/{made.session_id}"
    return made


@router.post("", status_code=201, summary="Begin a session", responses=_problems(401, 403, 422, 429, 503))
async def create_session(
    request: Request, response: Response, context: InContext, body: NewSession | None = None
) -> SessionView:
    """Its id is for `session_id` of generate, by the same identity and in the same namespace. It ends a day after its
    last answer, or as the facade is set up."""
    return await _made(request, response, context, None, body)


@router.post(
    "/{session_id}",
    status_code=201,
    summary="Begin a session of that id",
    responses=_problems(401, 403, 404, 409, 422, 429, 503),
)
async def create_named_session(
    session_id: str, request: Request, response: Response, context: InContext, body: NewSession | None = None
) -> SessionView:
    """Letters, digits and `._-`, 64 at most; others may have a session of the same id."""
    return await _made(request, response, context, session_id, body)


@router.get("", summary="List your sessions", responses=_problems(401, 403, 422, 503))
async def list_sessions(request: Request, context: InContext, namespace: Tenant = None) -> SessionViews:
    """Without what was said in them."""
    return await context.sessions.owned(await context.callers.authenticate(request.headers, namespace=namespace))


@router.get("/{session_id}", summary="Read a session", responses=_problems(401, 403, 404, 422, 503))
async def get_session(
    session_id: str, request: Request, context: InContext, namespace: Tenant = None
) -> SessionHistory:
    """With what was said in it."""
    caller = await context.callers.authenticate(request.headers, namespace=namespace)
    return await context.sessions.history(caller, session_id)


@router.delete(
    "/{session_id}", status_code=204, summary="Delete a session", responses=_problems(401, 403, 404, 422, 503)
)
async def delete_session(session_id: str, request: Request, context: InContext, namespace: Tenant = None) -> None:
    """With all that was said in it. An answer that is under way is not appended any more."""
    caller = await context.callers.authenticate(request.headers, namespace=namespace)
    await context.sessions.delete(caller, session_id)
