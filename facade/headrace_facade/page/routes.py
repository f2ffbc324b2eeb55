"""`/ui`: each route reads its request and calls one service."""

from typing import Annotated, Final
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Depends, Query, Request
from starlette.datastructures import Headers
from starlette.responses import RedirectResponse, Response

from headrace_facade.caller import Caller
from headrace_facade.context import Context
from headrace_facade.errors import FacadeError, Unauthenticated
from headrace_facade.native import asked, told
from headrace_facade.native.models import view
from headrace_facade.native.schema import Generate, ModelCapability
from headrace_facade.page import session
from headrace_facade.page.live import LiveOverview, LiveTask
from headrace_facade.page.rendering import Shown, asset, html, problem_page
from headrace_facade.page.session import PATH
from headrace_facade.service import parts

router = APIRouter(include_in_schema=False)
Tenant = Annotated[str, Query()]
"""Empty, as a form's empty field: the caller's own."""
_TALKS: Final = {ModelCapability.CHAT, ModelCapability.TEXT_GENERATION}
_SEE_OTHER: Final = 303


async def _context(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


InContext = Annotated[Context, Depends(_context)]


async def _caller(request: Request, context: InContext, namespace: Tenant = "") -> Caller:
    return await context.callers.authenticate(session.identity(request.headers), namespace=namespace or None)


Visitor = Annotated[Caller, Depends(_caller)]


async def _own_page(request: Request) -> None:
    session.check_same_origin(request.headers)


OWN_PAGE: Final = [Depends(_own_page)]


@router.get(PATH)
@router.get(f"{PATH}/")
async def show_overview(caller: Visitor, context: InContext, namespace: Tenant = "") -> Response:
    shown = Shown(caller.name, caller.namespace, "overview", namespace)
    return html("overview.html", shown, state=await context.pages.overview(caller))


@router.get(f"{PATH}/events")
async def follow_overview(request: Request, caller: Visitor, context: InContext, namespace: Tenant = "") -> Response:
    async def again() -> Caller:
        return await _caller(request, context, namespace)

    return LiveOverview(context.pages, caller, again)


@router.get(PATH + "/tasks/{task_id}")
async def show_task(request: Request, task_id: str, context: InContext) -> Response:
    caller = await _caller(request, context, parts(task_id)[0])
    shown = Shown(caller.name, caller.namespace, "task", caller.namespace)
    return html("task.html", shown, state=await context.pages.task(caller, task_id), task_id=task_id)


@router.get(PATH + "/tasks/{task_id}/events")
async def follow_task(request: Request, task_id: str, context: InContext) -> Response:
    return LiveTask(context.pages, await _caller(request, context, parts(task_id)[0]), task_id)


@router.get(f"{PATH}/playground")
async def show_playground(caller: Visitor, context: InContext, namespace: Tenant = "") -> Response:
    models = [view(each, caller) for each in context.directory.models(caller)]
    talking = [each for each in models if _TALKS.intersection(each.capabilities)]
    shown = Shown(caller.name, caller.namespace, "playground", namespace)
    return html("playground.html", shown, models=talking)


@router.post(f"{PATH}/playground/stream", dependencies=OWN_PAGE)
async def play(request: Request, body: Generate, context: InContext) -> Response:
    """The same way as /api/v1/generate/stream."""
    caller = await _caller(request, context, body.namespace or "")
    trace_id: str = request.state.trace_id
    question = asked.generation(body, stream=True)
    return told.Stream(context.calls, caller, question, lambda call: told.Events(call, trace_id))


@router.get(f"{PATH}/sign-in")
async def show_sign_in(request: Request, ended: bool = False, next: str | None = None) -> Response:  # noqa: A002 # the query's word
    message = "You were signed out: the token or key has run out or is not accepted any more." if ended else ""
    # Who comes here by themselves want to be somebody else.
    answer = _sign_in_page(200, message, session.next_path(next), resumes=next is not None and not ended)
    if ended:
        session.sign_out(answer, request.headers)
    return answer


@router.post(f"{PATH}/sign-in", dependencies=OWN_PAGE)
async def sign_in(request: Request, context: InContext) -> Response:
    """Sets the cookie where the API server knows who it is and lets them make tasks in the namespace."""
    fields = session.form_fields(await request.body())
    target, namespace = session.next_path(fields.get("next")), fields.get("namespace", "")
    try:
        credential = session.credential_in(fields)
        as_header = Headers({"Authorization": f"Bearer {credential}"})
        await context.callers.authenticate(as_header, namespace=namespace or None)
    except FacadeError as error:
        return _sign_in_page(error.status, error.message, target, namespace)
    if namespace and target == PATH:
        target += f"?{urlencode({'namespace': namespace})}"
    answer = RedirectResponse(f"{PATH}/signed-in?{urlencode({'next': target})}", _SEE_OTHER)
    session.sign_in(answer, request.headers, credential)
    return answer


@router.get(f"{PATH}/signed-in")
async def signed_in(request: Request, next: str | None = None) -> Response:  # noqa: A002 # the query's word
    """A browser drops the cookie without a word where it would be secure and the connection is not."""
    if session.has_cookie(request.headers):
        return RedirectResponse(session.next_path(next), _SEE_OTHER)
    told = "Your browser did not keep the sign-in: open this page by https, or by http on localhost, with cookies on."
    return _sign_in_page(400, told, session.next_path(next))


@router.get(f"{PATH}/cookie")
async def cookie(request: Request) -> dict[str, bool]:
    """Whether there is one; whether it is good is told by the page that is loaded then."""
    return {"kept": session.has_cookie(request.headers)}


@router.post(f"{PATH}/sign-out", dependencies=OWN_PAGE)
async def sign_out(request: Request) -> Response:
    answer = RedirectResponse(f"{PATH}/sign-in", _SEE_OTHER)
    session.sign_out(answer, request.headers)
    return answer


@router.get(PATH + "/static/{name}")
async def static(request: Request, name: str) -> Response:
    return asset(name, request.url.query)


def problem(request: Request, error: FacadeError) -> Response | None:
    """How a page tells an error; None where its script asked, which reads JSON."""
    path = request.url.path
    if not (path == PATH or path.startswith(f"{PATH}/")) or path.endswith(("/stream", "/events")):
        return None
    if isinstance(error, Unauthenticated):
        query = {"ended": "true"} if session.has_cookie(request.headers) else {}
        here = path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"{PATH}/sign-in?{urlencode({**query, 'next': quote(here, safe='/?=&%')})}", _SEE_OTHER)
    return problem_page(request, error)


def _sign_in_page(status: int, message: str, target: str, namespace: str = "", *, resumes: bool = False) -> Response:
    """`resumes`: goes on by itself where there is a cookie after all."""
    words = {"message": message, "target": target, "namespace": namespace, "resumes": resumes}
    return html("sign_in.html", Shown(current="sign-in"), status, **words)
