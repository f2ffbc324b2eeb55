"""The application: routes, and the one mapper from errors to answers."""

from collections.abc import Sequence
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from headrace_facade import shapes
from headrace_facade.anthropic_dialect import routes as anthropic_routes
from headrace_facade.context import Context
from headrace_facade.errors import (
    BadRequest,
    FacadeError,
    FieldProblem,
    Internal,
    Invalid,
    MethodNotAllowed,
    NotFound,
    WrongContentType,
)
from headrace_facade.middleware import App, Guard
from headrace_facade.openai_batches import routes as batch_routes
from headrace_facade.openai_dialect import routes as openai_routes
from headrace_facade.page import routes as page_routes
from headrace_facade.routes import generate, health, models, monitor, sessions, sockets, tasks

_REASONS: Final = {"extra_forbidden": "no such field: see /openapi.json"}
_UNIONS: Final = {"json_schema", "parameters.stop"}
_DESCRIPTION: Final = """
Runs LLM work on Kubernetes. A task is an `LLMTask` object: what is created here is seen by `kubectl get llmtasks`, and
the other way round. Requests act with the caller's own rights; every answer carries `X-Trace-Id`.
"""


def create_app(context: Context) -> App:
    """Ready for an ASGI server; `context` outlives it."""
    api = FastAPI(
        title="Headrace",
        summary="Tasks for language models, each ending in exactly one outcome.",
        description=_DESCRIPTION,
        version="v1",
        # Both pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    api.state.context = context
    api.include_router(tasks.router)
    api.include_router(generate.router)
    api.include_router(sessions.router)
    api.include_router(sockets.router)
    api.include_router(models.router)
    api.include_router(monitor.router)
    api.include_router(health.router)
    api.include_router(openai_routes.router)
    api.include_router(batch_routes.router)
    api.include_router(anthropic_routes.router)
    api.include_router(page_routes.router)
    api.add_exception_handler(FacadeError, _answer)
    api.add_exception_handler(RequestValidationError, _answer)
    api.add_exception_handler(HTTPException, _answer)
    api.add_exception_handler(Exception, _answer)
    return Guard(api, context)


async def _answer(request: Request, error: Exception) -> Response:
    problem = as_facade_error(error, request.headers.get("Content-Type"))
    if (page := page_routes.problem(request, problem)) is not None:
        return page
    status, body = shapes.answer(request.url.path, problem, request.state.trace_id)
    return JSONResponse(body, status, problem.headers)


def as_facade_error(error: Exception, content_type: str | None = None) -> FacadeError:
    """Errors of the framework in our tree; anything else is a defect."""
    match error:
        case FacadeError():
            return error
        case RequestValidationError():
            return unreadable_request(error.errors(), content_type)
        case HTTPException(status_code=404):
            return NotFound("no such path: see /openapi.json")
        case HTTPException(status_code=405):
            return MethodNotAllowed("this path does not know that method: see /openapi.json")
        case HTTPException(status_code=400):
            # The framework's one case: a body that is no UTF-8, or nested deeper than can be read.
            return BadRequest("the body cannot be read as JSON in UTF-8: check its encoding and its nesting")
        case HTTPException(status_code=status) if status < 500:
            return BadRequest(str(error.detail))
    return Internal("an unexpected error: report it with the trace id")


def unreadable_request(errors: Sequence[Any], content_type: str | None = None) -> FacadeError:
    """pydantic's errors without the values: those are the caller's own, and may be prompts."""
    reasons: dict[str, list[str]] = {}
    for error in errors:
        if tuple(error["loc"]) == ("body",):
            # The framework reads only what is declared as JSON, and judges the rest as a text.
            if not _is_json(content_type) and error["type"] != "missing":
                return WrongContentType("the body is not declared as JSON: send Content-Type: application/json")
            return Invalid.of([FieldProblem("", 'the body needs to be a JSON object, such as {"model": …}')])
        if error["type"] == "json_invalid":
            return BadRequest(f"the body is no JSON: {error['ctx']['error']} at character {error['loc'][-1]}")
        reason = _REASONS.get(error["type"]) or str(error["msg"]).removeprefix("Value error, ")
        reasons.setdefault(_field(error["loc"]), []).append(reason)
    # A union's branches each say why not.
    return Invalid.of([FieldProblem(field, ", or: ".join(dict.fromkeys(told))) for field, told in reasons.items()])


def _is_json(content_type: str | None) -> bool:
    kind = (content_type or "").partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def _field(location: Sequence[str | int]) -> str:
    """("body", "messages", 0, "role") → messages[0].role; a union's branch is not part of a name."""
    name = ""
    for part in location[1:]:
        if isinstance(part, int):
            name += f"[{part}]"
        elif name not in _UNIONS:
            name += f".{part}" if name else part
    return name
