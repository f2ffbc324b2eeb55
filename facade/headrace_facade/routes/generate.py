"""Calls: `/api/v1/generate`, `/api/v1/embeddings`, `/api/v1/similarity`. Their answers live as long as the call."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response

from headrace_facade.caller import Caller
from headrace_facade.calls.contract import Call, CallRequest, CallResult, CallService
from headrace_facade.context import Context
from headrace_facade.errors import FieldProblem, Invalid
from headrace_facade.identity.dependency import SCHEMES
from headrace_facade.native import asked, told
from headrace_facade.native.resuming import RecordedStream, last_event
from headrace_facade.native.schema import Compare, Compared, Embed, Embedded, Generate, Generated
from headrace_facade.openai_dialect.answers import WholeAnswer
from headrace_facade.routes.tasks import InContext
from headrace_facade.schema import Namespace, Problem
from headrace_facade.sessions.remembering import Remembering

_WORDS: Final = {
    400: "The model refused the request; the message says what to change",
    401: "No token or API key, or one that is not accepted",
    403: "The caller may not create tasks in that namespace, or its LLMQuota does not admit the call",
    404: "No such model, or it does not serve the namespace; no such session of the caller's",
    413: "The body is larger than 1 MiB",
    422: "`details.fields` says which field and what to do",
    429: "The identity, the namespace or the provider is over a limit; see Retry-After",
    502: "The model's answer did not have the shape, or its provider failed",
    503: "No runner took the call in time, or it was lost; see Retry-After",
    504: "The model took longer than timeout_seconds",
}
_PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": Problem, "description": words} for status, words in _WORDS.items()
}
LastEventId = Annotated[
    str | None, Header(alias="Last-Event-ID", max_length=128, description="Id of the last event that was read.")
]
router = APIRouter(tags=["calls"], dependencies=list(SCHEMES))


async def _caller(request: Request, context: Context, namespace: str | None) -> Caller:
    return await context.callers.authenticate(request.headers, namespace=namespace)


def service(context: Context, session: str | None) -> CallService:
    """Of a session, or without one."""
    if session is None:
        return context.calls
    return Remembering(context.calls, context.sessions, context.directory, session)


@router.post(
    "/api/v1/generate",
    summary="Generate, and wait for it",
    response_model=Generated,
    responses=_PROBLEMS,
)
async def generate(request: Request, body: Generate, context: InContext) -> Response:
    """A call goes through the model's queue ahead of tasks and leaves no object. Whoever goes away ends it. What must
    not be lost is a task: POST /api/v1/tasks."""
    caller = await _caller(request, context, body.namespace)
    calls = service(context, body.session_id)
    return WholeAnswer(calls, caller, asked.generation(body, stream=False), told.generated)


@router.post(
    "/api/v1/generate/stream",
    summary="Generate, and see it grow",
    responses={
        200: {
            "description": "Server-sent events: `waiting` {reason, message, ahead} every few seconds until text comes, "
            "`delta` {text, tokens, reasoning}, then `end` with what `/api/v1/generate` answers, or `error` "
            "{error_code, message, trace_id, details}",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        **_PROBLEMS,
    },
)
async def generate_stream(
    request: Request, body: Generate, context: InContext, last_event_id: LastEventId = None
) -> Response:
    """An error before the first event has its status; after that it is an event."""
    caller = await _caller(request, context, body.namespace)
    trace_id: str = request.state.trace_id
    if body.resumable and (seen := last_event(last_event_id)) is not None:
        return _resumed(context, caller, seen, trace_id)
    calls, question = service(context, body.session_id), asked.generation(body, stream=True)
    if not body.resumable:
        return told.Stream(calls, caller, question, lambda call: told.Events(call, trace_id))
    recording = context.resumables.begin(calls, caller, question, lambda call: told.Events(call, trace_id))
    return RecordedStream(context.resumables, recording, 0, lambda error: told.failed(error, trace_id))


@router.get(
    "/api/v1/generate/stream/{stream}",
    summary="Take a stream up again",
    responses={
        200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}},
        204: {"description": "All of it was read before"},
        410: {"model": Problem, "description": "What comes next is not kept any more"},
        **_PROBLEMS,
    },
)
async def resume_stream(
    stream: str,
    request: Request,
    context: InContext,
    namespace: Annotated[Namespace | None, Query(description="As the request's that began it.")] = None,
    last_event_id: LastEventId = None,
) -> Response:
    """Of a request with `resumable`: what follows the event of that id, or all that is kept. `stream` is what stands
    before the colon of its events' ids."""
    caller = await _caller(request, context, namespace)
    seen = last_event(last_event_id) or (stream, 0)
    if seen[0] != stream:
        raise Invalid.of([FieldProblem("Last-Event-ID", "is of another stream")])
    return _resumed(context, caller, seen, request.state.trace_id)


def _resumed(context: Context, caller: Caller, seen: tuple[str, int], trace_id: str) -> Response:
    recording = context.resumables.find(caller, seen[0])
    return RecordedStream(context.resumables, recording, seen[1], lambda error: told.failed(error, trace_id))


@router.post("/api/v1/embeddings", summary="Turn texts into vectors", response_model=Embedded, responses=_PROBLEMS)
async def embeddings(request: Request, body: Embed, context: InContext) -> Response:
    """One vector of float32 for each text, in order."""
    caller = await _caller(request, context, body.namespace)
    return WholeAnswer(context.calls, caller, CallRequest(model=body.model, embed=body.input), told.embedded)


@router.post(
    "/api/v1/similarity", summary="Compare texts by their vectors", response_model=Compared, responses=_PROBLEMS
)
async def similarity(request: Request, body: Compare, context: InContext) -> Response:
    """Cosines of a query with each text, or of all pairs of texts."""
    caller = await _caller(request, context, body.namespace)

    def document(call: Call, result: CallResult) -> dict[str, Any]:
        return told.compared(call, result, body)

    return WholeAnswer(context.calls, caller, asked.comparison(body), document)
