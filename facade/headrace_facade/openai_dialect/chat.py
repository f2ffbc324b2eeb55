"""`/v1/chat/completions`."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from headrace_facade.identity.dependency import Authenticated
from headrace_facade.openai_dialect.answers import EventStream, WholeAnswer
from headrace_facade.openai_dialect.chat_answer import ChatChunks, completion
from headrace_facade.openai_dialect.chat_request import REFUSED, ChatBody, call_request
from headrace_facade.openai_dialect.port import InServices
from headrace_facade.openai_dialect.wire import read

router = APIRouter(prefix="/v1", include_in_schema=False)


@router.post("/chat/completions")
async def create_chat_completion(request: Request, caller: Authenticated, services: InServices) -> Response:
    body = await read(request, ChatBody, REFUSED)
    asked = call_request(body)
    if body.stream:
        return EventStream(services.calls, caller, asked, lambda call: ChatChunks(call, body, caller))
    return WholeAnswer(services.calls, caller, asked, lambda call, result: completion(call, result, body, caller))
