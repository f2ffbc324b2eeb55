"""`/v1/messages`. No part of /openapi.json: its reference is Anthropic's."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from headrace_facade.anthropic_dialect import counting
from headrace_facade.anthropic_dialect.answer import MessageEvents, MessageStream, message
from headrace_facade.anthropic_dialect.counting import CountBody
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
async def count_tokens(request: Request, caller: Authenticated, services: InServices) -> Response:
    body = await read(request, CountBody, REFUSED)
    asked = counting.call_request(body)
    return WholeAnswer(services.calls, caller, asked, lambda _, result: counting.counted(result))
