"""`/v1/responses`, as far as nothing is kept of a call."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from headrace_facade.identity.dependency import Authenticated
from headrace_facade.openai_dialect.answers import EventStream, WholeAnswer
from headrace_facade.openai_dialect.port import InServices
from headrace_facade.openai_dialect.responses_answer import response
from headrace_facade.openai_dialect.responses_events import ResponseEvents
from headrace_facade.openai_dialect.responses_request import REFUSED, ResponseBody, call_request
from headrace_facade.openai_dialect.wire import read

router = APIRouter(prefix="/v1", include_in_schema=False)


@router.post("/responses")
async def create_response(request: Request, caller: Authenticated, services: InServices) -> Response:
    body = await read(request, ResponseBody, REFUSED)
    asked = call_request(body)
    if body.stream:
        return EventStream(services.calls, caller, asked, lambda call: ResponseEvents(call, body, caller))
    return WholeAnswer(services.calls, caller, asked, lambda call, result: response(call, result, body, caller))
