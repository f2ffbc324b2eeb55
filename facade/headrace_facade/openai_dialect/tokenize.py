"""`/tokenize` and `/v1/tokenize`, in vLLM's shape: the tokens of a text, or of the prompt that messages become.

The model's own runner counts, with its engine's vocabulary; nothing is generated.
"""

from typing import Annotated, Final, Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BeforeValidator, Field

from headrace_crds.dialogue import MAX_TOOLS, Role
from headrace_crds.work import CallOptions, Count
from headrace_facade.calls.contract import CallRequest, CallResult
from headrace_facade.calls.failures import CallBroken
from headrace_facade.identity.dependency import Authenticated
from headrace_facade.openai_dialect.answers import WholeAnswer
from headrace_facade.openai_dialect.chat_request import ChatTool
from headrace_facade.openai_dialect.dialogue import MESSAGES_LIMIT, ChatMessage, distinct, functions_alone, message
from headrace_facade.openai_dialect.errors import Refused
from headrace_facade.openai_dialect.objects import Json
from headrace_facade.openai_dialect.port import InServices
from headrace_facade.openai_dialect.wire import Refusals, Wire, read

REFUSED: Final[Refusals] = {
    "add_generation_prompt": ("what is counted is what a call would send: leave it out", (True,)),
    "add_special_tokens": ("the tokens that the model expects around a text are told: leave it out", (True,)),
    "chat_template": ("the model's own template is taken: leave it out", ()),
    "chat_template_kwargs": ("the model's own template is taken as it is: leave it out", ({},)),
    "continue_final_message": ("an answer begins anew: leave it out", (False,)),
    "mm_processor_kwargs": ("models take text alone: leave it out", ({},)),
    "return_token_strs": ("tokens are told by their numbers: leave it out", (False,)),
}
router = APIRouter(include_in_schema=False)


class TokenizeBody(Wire):
    """Exactly one of `prompt` and `messages`."""

    model: Annotated[str, Field(min_length=1, max_length=128)]
    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MESSAGES_LIMIT, fail_fast=True)] | None = None
    tools: (
        Annotated[
            list[Annotated[ChatTool, BeforeValidator(functions_alone)]], Field(max_length=MAX_TOOLS, fail_fast=True)
        ]
        | None
    ) = None
    tool_choice: Literal["auto", "none"] = "auto"


def call_request(body: TokenizeBody) -> CallRequest:
    """Raises Refused."""
    if (body.prompt is None) == (body.messages is None):
        raise Refused("prompt", "exactly one of prompt and messages is needed")
    if body.messages is None:
        if body.tools:
            raise Refused("tools", "are part of a conversation: send messages")
        return CallRequest(
            model=body.model,
            messages=[message(Role.USER, body.prompt)],
            options=CallOptions(count=Count.TEXT),
        )
    return CallRequest(
        model=body.model,
        messages=[each.work() for each in body.messages],
        tools=distinct([each.function.tool(f"tools[{at}].function") for at, each in enumerate(body.tools or ())]),
        tool_choice=body.tool_choice,
        options=CallOptions(count=Count.CONVERSATION),
    )


@router.post("/tokenize")
@router.post("/v1/tokenize")
async def create_tokens(request: Request, caller: Authenticated, services: InServices) -> Response:
    body = await read(request, TokenizeBody, REFUSED)
    return WholeAnswer(services.calls, caller, call_request(body), lambda _, result: tokens(result))


def tokens(result: CallResult) -> Json:
    """The whole answer; of a provider that tells the number alone `tokens` is empty and `max_model_len` null."""
    found = result.counted
    if found is None:
        raise CallBroken("the model's runner answered instead of counting: it is of an older version")
    return {"count": found.count, "max_model_len": found.context_tokens, "tokens": found.tokens or []}
