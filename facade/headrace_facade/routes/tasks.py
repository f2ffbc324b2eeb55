"""`/api/v1/tasks`."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import PlainTextResponse
from fastapi.security import HTTPBearer

from headrace_facade.bearer import bearer_token
from headrace_facade.context import Context
from headrace_facade.errors import FieldProblem, Forbidden, Invalid
from headrace_facade.idempotency import HEADER, HEADER_REPLAYED, key_of, one_header
from headrace_facade.identity.credential import credential_of
from headrace_facade.native.follow_answers import EndedTask, TaskEvents, prefers_text, wait_seconds
from headrace_facade.native.report import as_text, report
from headrace_facade.native.task_schema import TaskReport
from headrace_facade.schema import CreateTask, Namespace, Problem, Task, TaskList, TaskStatus, Why
from headrace_facade.service import parts

LIST_LIMIT: Final = 100
"""Tasks per chunk at most; a chunk of large tasks is shorter."""

ENDED: Final = frozenset({TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED})

_bearer = HTTPBearer(
    auto_error=False,
    description="A token of this Kubernetes cluster, such as `kubectl create token NAME`. It is passed on to the API "
    "server, which decides with the RBAC of its owner.",
)


async def _token(request: Request) -> str:
    """As it came: the API server judges it. Raises Unauthenticated, and Forbidden for an API key that is good."""
    if credential_of(request.headers).is_key:
        context: Context = request.app.state.context
        await context.callers.authenticate(request.headers)
        raise Forbidden("an API key makes calls and lists models: tasks need a token of the cluster")
    return bearer_token(request.headers.get("Authorization"))


async def _context(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


async def known_query(request: Request) -> None:
    """Raises Invalid: a misspelt filter that is passed over answers another question than was asked."""
    known = {parameter.alias for parameter in request.scope["route"].dependant.query_params}
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        raise Invalid.of([FieldProblem(name[:64], "no such query parameter: see /openapi.json") for name in unknown])


async def _one_key(request: Request) -> None:
    one_header(request.headers.getlist(HEADER))


InContext = Annotated[Context, Depends(_context)]
Bearer = Annotated[str, Depends(_token)]


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For /openapi.json."""
    words = {
        401: "No token, or one that the API server does not accept",
        403: "The token's owner may not do this in that namespace",
        404: "No such task or namespace",
        409: "A task of that name exists, or the idempotency key was used with another body",
        410: "The list went on too late: start again without `continue`",
        413: "The body is larger than 1 MiB",
        415: "The body is not declared as application/json",
        422: "`details.fields` says which field and what to do",
        429: "The namespace is over its quota or its share of the queue, or the API server asks to slow down; see "
        "Retry-After",
        503: "The API server is away, the facade has too much to do, or the model's queue is full; see Retry-After",
    }
    return {status: {"model": Problem, "description": words[status]} for status in statuses}


# The first dependency is for /openapi.json: it refuses nothing.
router = APIRouter(prefix="/api/v1/tasks", tags=["tasks"], dependencies=[Depends(_bearer), Depends(known_query)])


@router.post(
    "",
    status_code=202,
    dependencies=[Depends(_one_key)],
    summary="Submit a task",
    response_description="Accepted: it will end in exactly one outcome. `Location` is where to look for it.",
    responses={
        200: {"model": Task, "description": "The task that this idempotency key has made before; it has ended"},
        **problems(401, 403, 404, 409, 413, 415, 422, 429, 503),
    },
)
async def create_task(
    body: CreateTask,
    response: Response,
    token: Bearer,
    context: InContext,
    key: Annotated[
        str | None,
        Header(alias=HEADER, description="Requests with the same key and body make one task, as long as it exists."),
    ] = None,
) -> Task:
    """Creates an LLMTask with your own rights and answers at once; execution follows. With an idempotency key the
    answer to a repeated request is the first one's task, with the header `Idempotent-Replayed: true`."""
    submitted = await context.tasks.create(body, key_of(key, body.idempotency_key), token)
    task = submitted.task
    response.headers["Location"] = f"/api/v1/tasks/{task.task_id}"
    if submitted.replayed:
        response.headers[HEADER_REPLAYED] = "true"
        response.status_code = 200 if task.status in ENDED else 202
    return task


@router.get("", summary="List the tasks of a namespace", responses=problems(401, 403, 410, 422, 429, 503))
async def list_tasks(
    token: Bearer,
    context: InContext,
    namespace: Annotated[Namespace | None, Query(description="Absent: the facade's default namespace.")] = None,
    limit: Annotated[int, Query(ge=1, le=LIST_LIMIT, description="Tasks per chunk.")] = 50,
    continue_: Annotated[
        str | None, Query(alias="continue", max_length=8192, description="`continue` of the chunk before.")
    ] = None,
) -> TaskList:
    """Chunk by chunk: go on with `continue` until it is null. All chunks show the same moment; of large tasks
    a chunk holds fewer than `limit`."""
    return await context.tasks.list(namespace, limit, continue_, token)


@router.get(
    "/{task_id}", summary="Look at a task", response_model=Task, responses=problems(401, 403, 404, 422, 429, 503)
)
async def get_task(
    task_id: str,
    token: Bearer,
    context: InContext,
    wait: Annotated[
        str | None,
        Query(
            pattern=r"^[0-9]{1,2}s?$",
            examples=["30s"],
            description="Answer when the task has ended, or after so many seconds, 60 at most, as it is then. Takes "
            "the right to watch llmtasks.",
        ),
    ] = None,
) -> Task | Response:
    """Where the task stands; with the result once it is completed."""
    seconds = wait_seconds(wait)
    if not seconds:
        return await context.tasks.get(task_id, token)
    return EndedTask(context.following, task_id, token, seconds)


@router.get(
    "/{task_id}/report",
    summary="What became of a task, and what it took",
    response_model=TaskReport,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
        **problems(401, 403, 404, 422, 429, 503),
    },
)
async def report_task(task_id: str, request: Request, token: Bearer, context: InContext) -> TaskReport | Response:
    """Attempts, model, times, tokens and cost; no prompt and no result. With `Accept: text/plain` for people."""
    told = report(await context.kube.get_task(*parts(task_id), token))
    return PlainTextResponse(as_text(told)) if prefers_text(request.headers.get("Accept", "")) else told


@router.get(
    "/{task_id}/events",
    summary="Follow a task",
    responses={
        200: {
            "description": "Server-sent events: `waiting` {status, reason, message, position, ahead, eta_seconds} and "
            "`running` {status, attempt, model} with each change, then `completed`, `failed` or `cancelled` with the "
            "task; `error` where it cannot be followed any more. Ends after ten minutes: ask again",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        204: {"description": "The event of that id was the last one"},
        **problems(401, 403, 404, 422, 429, 503),
    },
)
async def follow_task(
    task_id: str,
    request: Request,
    token: Bearer,
    context: InContext,
    last_event_id: Annotated[
        str | None,
        Header(alias="Last-Event-ID", max_length=128, description="Id of the last event that was read."),
    ] = None,
) -> Response:
    """At once where it stands, then what happens until it has ended; with Last-Event-ID what has happened since. Takes
    the rights to get and to watch llmtasks."""
    return TaskEvents(context.following, task_id, token, request.state.trace_id, last_event_id)


@router.get("/{task_id}/why", summary="Why is it waiting?", responses=problems(401, 403, 404, 422, 429, 503))
async def why_task(task_id: str, token: Bearer, context: InContext) -> Why:
    """What keeps the task from running, from its object to its model's pods, its place in the queue and when it may
    start. What your token may not read is said in the chain."""
    return await context.why.why(task_id, token)


_CHANGED: Final[dict[int | str, dict[str, Any]]] = {
    200: {"model": Task, "description": "The task had ended before: nothing changes"},
    202: {"description": "Asked for; what comes of it is seen in the task"},
    **problems(401, 403, 404, 422, 429, 503),
}


@router.post("/{task_id}/cancel", summary="Cancel a task", status_code=202, responses=_CHANGED)
async def cancel_task(task_id: str, response: Response, token: Bearer, context: InContext) -> Task:
    """Ends an open task as cancelled, with the text generated so far; it cannot be taken back. A result that is
    committed before stays."""
    return _changed(await context.tasks.change(task_id, {"cancel": True}, token), response)


@router.post("/{task_id}/suspend", summary="Suspend a task", status_code=202, responses=_CHANGED)
async def suspend_task(task_id: str, response: Response, token: Bearer, context: InContext) -> Task:
    """Takes an open task out of the queue, or off its runner, until it is resumed. No retry is charged, and its
    deadlines stand still."""
    return _changed(await context.tasks.change(task_id, {"suspend": True}, token), response)


@router.post("/{task_id}/resume", summary="Resume a suspended task", status_code=202, responses=_CHANGED)
async def resume_task(task_id: str, response: Response, token: Bearer, context: InContext) -> Task:
    """Puts a suspended task back."""
    return _changed(await context.tasks.change(task_id, {"suspend": False}, token), response)


def _changed(task: Task, response: Response) -> Task:
    if task.status in ENDED:
        response.status_code = 200
    return task


@router.delete("/{task_id}", status_code=204, summary="Delete a task", responses=problems(401, 403, 404, 422, 429, 503))
async def delete_task(task_id: str, token: Bearer, context: InContext) -> None:
    """Withdraws the task: a running attempt is aborted, nothing is kept, no webhook is sent. To stop it and keep what
    became of it, cancel it."""
    await context.tasks.delete(task_id, token)
