"""`POST /v1/messages/count_tokens`: what the prompt of a message weighs, without its answer."""

from typing import Annotated

from pydantic import BeforeValidator, Field

from headrace_crds.work import CallOptions, Count
from headrace_facade.anthropic_dialect.content import Json, Texts, Turn, conversation
from headrace_facade.anthropic_dialect.request import (
    OutputConfig,
    Thinking,
    ToolChoice,
    ToolList,
    answerable,
    as_the_model_does,
    chosen,
)
from headrace_facade.calls.contract import CallRequest, CallResult
from headrace_facade.calls.failures import CallBroken
from headrace_facade.openai_dialect.dialogue import MESSAGES_LIMIT, distinct
from headrace_facade.openai_dialect.wire import Wire


class CountBody(Wire):
    """The members of a message that weigh something; what is asked of the answer does not."""

    model: Annotated[str, Field(min_length=1, max_length=128)]
    messages: Annotated[list[Turn], Field(max_length=MESSAGES_LIMIT, fail_fast=True), BeforeValidator(answerable)]
    system: Texts | None = None
    tools: ToolList | None = None
    tool_choice: ToolChoice | None = None
    output_config: OutputConfig | None = None
    thinking: Annotated[Thinking, BeforeValidator(as_the_model_does)] | None = None
    cache_control: Json | None = None


def call_request(body: CountBody) -> CallRequest:
    """Raises Refused."""
    tools = distinct([each.tool(f"tools[{at}]") for at, each in enumerate(body.tools or ())])
    return CallRequest(
        model=body.model,
        messages=conversation(body.system, body.messages),
        tools=tools,
        tool_choice=chosen(body.tool_choice, tools),
        options=CallOptions(count=Count.CONVERSATION),
    )


def counted(result: CallResult) -> Json:
    """The whole answer."""
    if result.counted is None:
        raise CallBroken("the model's runner answered instead of counting: it is of an older version")
    return {"input_tokens": result.counted.count}
