"""WebSockets, and the tickets that browsers open them with."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

from fastapi import APIRouter, Request, WebSocket
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict

from headrace_facade.context import Context
from headrace_facade.errors import FacadeError
from headrace_facade.identity.dependency import SCHEMES
from headrace_facade.routes.generate import service
from headrace_facade.routes.tasks import InContext
from headrace_facade.schema import Namespace, Problem
from headrace_facade.shapes import native
from headrace_facade.sockets.door import Guest
from headrace_facade.sockets.generation import Conversation
from headrace_facade.sockets.monitoring import Feed
from headrace_facade.sockets.talk import DEFECT, Over, Talk
from headrace_facade.sockets.tickets import TICKET_S

_WORDS: Final = {
    401: "No token or API key, or one that is not accepted",
    403: "The caller may not create tasks in that namespace",
    422: "`details.fields` says which field and what to do",
    429: "The caller has as many tickets as it may",
    503: "Redis is away or full, or the identity cannot be verified; see Retry-After",
}
_PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": Problem, "description": words} for status, words in _WORDS.items()
}


class NewTicket(BaseModel):
    """For whom a ticket is."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    namespace: Namespace | None = None
    """The tenant; absent: that of the ServiceAccount or API key, else the facade's default."""


class Ticket(BaseModel):
    """Opens one WebSocket."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    ticket: str
    """As `?ticket=` or as the subprotocol `headrace.ticket.<ticket>`, beside `headrace.v1`."""
    expires_in_seconds: int
    """From now on."""


router = APIRouter(tags=["sockets"])


@router.post(
    "/api/v1/tickets",
    status_code=201,
    summary="A ticket for a WebSocket",
    dependencies=list(SCHEMES),
    responses=_PROBLEMS,
)
async def create_ticket(request: Request, context: InContext, body: NewTicket | None = None) -> Ticket:
    """For browsers, which can send no header with a WebSocket: it stands for your identity once."""
    caller = await context.callers.authenticate(request.headers, namespace=(body or NewTicket()).namespace)
    return Ticket(ticket=await context.tickets.give(caller), expires_in_seconds=TICKET_S)


@router.websocket("/api/v1/generate/ws")
async def generate(socket: WebSocket) -> None:
    context: Context = socket.app.state.context

    async def converse(talk: Talk, guest: Guest) -> None:
        await Conversation(
            talk,
            guest,
            lambda session: service(context, session),
            context.bodies,
            clock=context.door.clock,
            idle_s=context.settings.socket_idle_s,
        ).run()

    await _opened(socket, context, converse)


@router.websocket("/ws/monitor")
async def monitor(socket: WebSocket) -> None:
    context: Context = socket.app.state.context

    async def feed(talk: Talk, guest: Guest) -> None:
        await Feed(talk, guest, context.monitor, clock=context.door.clock).run()

    await _opened(socket, context, feed)


async def _opened(socket: WebSocket, context: Context, work: Callable[[Talk, Guest], Awaitable[None]]) -> None:
    """A refusal is an HTTP answer with its status: nothing was opened."""
    trace_id: str = socket.state.trace_id
    try:
        guest = await context.door.guest(socket)
        with context.door.seat(guest.caller):
            await socket.accept(guest.subprotocol)
            talk = Talk(socket, trace_id, send_s=context.settings.socket_send_s)
            try:
                await work(talk, guest)
            except Over as over:
                await talk.close(over)
            except Exception:
                await talk.close(Over(DEFECT, "an unexpected error"))
                raise
    except FacadeError as error:
        status, body = native(error, trace_id)
        await socket.send_denial_response(JSONResponse(body, status, error.headers))
