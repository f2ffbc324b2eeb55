"""`/v1/messages`. No part of /openapi.json: its reference is Anthropic's."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from headrace_facade.anthropic_dialect.answer import MessageEvents, MessageStream, message
from headrace_facade.anthropic_dialect.errors import NotOffered
from headrace_facade.anthropic_dialect.request import REFUSED, MessagesBody, call_request
from headrace_facade.identity.dependency import Authenticated
from headrace_facade.openai_dialect.answers import WholeAnswer
from headrace_facade.openai_dialect.port import InServices
from headrace_facade.openai_dialect.wire import read

router = APIRouter(prefix="/v1/messages", include_in_schema=False)


@router.post("")
async def create_message(request: Request, caller: Authenticated, services: InServices) -> Response:
    body = await read(request, MessagesBody, REFUSED)
    asked = call_request(body)
    trace_id: str = request.state.trace_id
    if body.stream:
        return MessageStream(services.calls, caller, asked, lambda call: MessageEvents(call, body, caller, trace_id))
    return WholeAnswer(services.calls, caller, asked, lambda call, result: message(call, result, body, caller))


@router.post("/count_tokens")
async def count_tokens(caller: Authenticated) -> Response:
    """Vocabularies are the runners': what a call weighs is in its usage."""
    del caller
    raise NotOffered("tokens are not counted beforehand: the usage of an answer tells them")
