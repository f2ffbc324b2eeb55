"""`POST /v1/chat/completions`: the body, and the call that it asks for."""

from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field

from headrace_crds.dialogue import MAX_TOOLS, Tool
from headrace_crds.work import CallOptions
from headrace_facade.calls.contract import CallRequest
from headrace_facade.openai_dialect.dialogue import (
    MESSAGES_LIMIT,
    ChatMessage,
    Format,
    Function,
    Json,
    ToolChoice,
    chosen,
    distinct,
    functions_alone,
    output,
)
from headrace_facade.openai_dialect.errors import Refused
from headrace_facade.openai_dialect.sampling import (
    PASSED_OVER,
    Labels,
    MaxTokens,
    Penalties,
    StreamOptions,
    parameters,
)
from headrace_facade.openai_dialect.wire import Refusals, Wire, wrong

REFUSED: Final[Refusals] = {
    **PASSED_OVER,
    "audio": ("models speak in text alone", ()),
    "function_call": ("is the old name: use tool_choice", ()),
    "functions": ("is the old name: use tools", ()),
    "modalities": ("models speak in text alone", (["text"],)),
    "moderation": ("nothing is moderated here", ()),
    "prediction": ("cannot be made use of", ()),
    "prompt_cache_options": ("prefixes are shared by themselves", ()),
    "reasoning_effort": ("is not passed on: the model thinks as it does", ()),
    "verbosity": ("is not passed on: ask for it in a message", ()),
    "web_search_options": ("nothing is searched: give the model a tool", ()),
}


class ChatTool(Wire):
    type: Literal["function"]
    function: Function


class NamedSchema(Wire):
    name: Annotated[str, Field(max_length=64)]
    description: Annotated[str, Field(max_length=4096)] | None = None
    schema_: Annotated[Json | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(Wire):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None


def _answerable(value: object) -> object:
    if value == []:
        raise wrong("needs a message")
    return value


class ChatBody(Penalties, Labels):
    model: Annotated[str, Field(min_length=1, max_length=128)]
    messages: Annotated[
        list[ChatMessage], Field(max_length=MESSAGES_LIMIT, fail_fast=True), BeforeValidator(_answerable)
    ]
    max_tokens: MaxTokens | None = None
    max_completion_tokens: MaxTokens | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: (
        Annotated[
            list[Annotated[ChatTool, BeforeValidator(functions_alone)]], Field(max_length=MAX_TOOLS, fail_fast=True)
        ]
        | None
    ) = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool = True
    stream: bool = False
    stream_options: StreamOptions | None = None

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


def call_request(body: ChatBody) -> CallRequest:
    """Raises Refused."""
    if body.stream_options is not None and not body.stream:
        raise Refused("stream_options", "is for streams: set stream to true or leave it out")
    if body.top_logprobs is not None and not body.logprobs:
        raise Refused("top_logprobs", "needs logprobs: true")
    limits = {limit for limit in (body.max_tokens, body.max_completion_tokens) if limit is not None}
    if len(limits) > 1:
        raise Refused("max_tokens", "is another than max_completion_tokens: leave one of them out")
    tools = _tools(body)
    return CallRequest(
        model=body.model,
        messages=[message.work() for message in body.messages],
        parameters=parameters(body, limits.pop() if limits else None),
        output=output(_format(body.response_format), "response_format.json_schema.schema", stream=body.stream),
        tools=tools,
        tool_choice=chosen(body.tool_choice, tools),
        options=CallOptions(
            stream=body.stream,
            n=body.n,
            logprobs=(body.top_logprobs or 0) if body.logprobs else None,
            logit_bias=body.logit_bias or [],
        ),
    )


def _tools(body: ChatBody) -> list[Tool]:
    return distinct([each.function.tool(f"tools[{at}].function") for at, each in enumerate(body.tools or ())])


def _format(given: ResponseFormat | None) -> Format | None:
    if given is None or given.type == "text":
        return None
    if given.type == "json_schema" and given.json_schema is None:
        raise Refused("response_format.json_schema", "is required", "missing_required_parameter")
    members: dict[str, Any] = {"type": given.type}
    if given.json_schema is not None and given.type == "json_schema":
        members["schema"] = given.json_schema.schema_
    return Format.model_validate(members)
