"""`POST /v1/responses`, its stateless part: the body, and the call that it asks for."""

from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field

from headrace_crds.dialogue import MAX_TOOLS, Role, Tool, ToolCall
from headrace_crds.work import CallOptions, WorkMessage
from headrace_facade.calls.contract import CallRequest
from headrace_facade.openai_dialect.dialogue import (
    MESSAGES_LIMIT,
    Arguments,
    CallId,
    Content,
    Format,
    Function,
    Name,
    ToolChoice,
    chosen,
    distinct,
    functions_alone,
    joined,
    message,
    output,
)
from headrace_facade.openai_dialect.errors import Refused
from headrace_facade.openai_dialect.sampling import PASSED_OVER, Labels, MaxTokens, Sampling, parameters
from headrace_facade.openai_dialect.wire import Refusals, Wire, unsupported

LOGPROBS: Final = "message.output_text.logprobs"
_KEPT: Final = "nothing is kept of a call: send the whole conversation as input"
_NO_TOOLS: Final = "there are no built-in tools: give the model functions"
REFUSED: Final[Refusals] = {
    **PASSED_OVER,
    "access_programs": ("there are none", ()),
    "background": ("a call ends with the waiting: submit a task at /api/v1/tasks instead", (False,)),
    "background_options": ("a call ends with the waiting: submit a task at /api/v1/tasks instead", ()),
    "context_management": ("input is taken as it is: cut it yourself", ()),
    "conversation": (_KEPT, ()),
    "image": ("models take text alone", ()),
    "max_tool_calls": (_NO_TOOLS, ()),
    "moderation": ("nothing is moderated here", ()),
    "previous_response_id": (_KEPT, ()),
    "prompt": ("no prompts are kept here: send instructions and input", ()),
    "prompt_cache_options": ("prefixes are shared by themselves", ()),
    "reasoning": ("is not passed on: the model thinks as it does", ({}, {"effort": None}, {"summary": None})),
    "truncation": ("input is never cut: shorten it yourself", ("disabled",)),
}
_ITEMS: Final = ("message", "function_call", "function_call_output", "reasoning")


class Item(Wire):
    """An item of the conversation: what was said, a call, its answer. What was thought is passed over."""

    type: Literal["message", "function_call", "function_call_output", "reasoning"] = "message"
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: Content | None = None
    call_id: CallId | None = None
    name: Name | None = None
    arguments: Arguments | None = None
    output: Content | None = None
    # What an answer's items hold beside them, so that they can be sent back as they came.
    id: Annotated[str, Field(max_length=256)] | None = None
    status: Annotated[str, Field(max_length=32)] | None = None
    phase: Annotated[str, Field(max_length=32)] | None = None


def _known(value: object) -> object:
    if not isinstance(value, dict):
        return value
    kind = value.get("type")
    if isinstance(kind, str) and kind not in _ITEMS:
        raise unsupported(f"items of type {kind[:32]!r} are not there: {', '.join(_ITEMS)}")
    # Thoughts hold what is their provider's alone.
    return {"type": kind} if kind == "reasoning" else value


def _items(value: object) -> object:
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


class TextConfig(Wire):
    format: Format | None = None
    verbosity: Literal["medium"] | None = None


class StreamOptions(Wire):
    include_obfuscation: Literal[False] = False


class FunctionTool(Function):
    type: Literal["function"]


class ResponseBody(Sampling, Labels):
    model: Annotated[str, Field(min_length=1, max_length=128)]
    input: Annotated[
        list[Annotated[Item, BeforeValidator(_known)]],
        Field(min_length=1, max_length=MESSAGES_LIMIT, fail_fast=True),
        BeforeValidator(_items),
    ]
    instructions: str | None = None
    max_output_tokens: MaxTokens | None = None
    text: TextConfig | None = None
    tools: (
        Annotated[
            list[Annotated[FunctionTool, BeforeValidator(functions_alone)]], Field(max_length=MAX_TOOLS, fail_fast=True)
        ]
        | None
    ) = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool = True
    include: (
        Annotated[
            list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]],
            Field(max_length=8, fail_fast=True),
        ]
        | None
    ) = None
    """Thoughts are told openly and are passed over as input, so that there is nothing to encrypt."""
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None

    @property
    def with_logprobs(self) -> bool:
        return LOGPROBS in (self.include or ())


def call_request(body: ResponseBody) -> CallRequest:
    """Raises Refused."""
    if body.stream_options is not None and not body.stream:
        raise Refused("stream_options", "is for streams: set stream to true or leave it out")
    if body.top_logprobs and not body.with_logprobs:
        raise Refused("top_logprobs", f'needs include: ["{LOGPROBS}"]')
    tools = _tools(body)
    form = body.text.format if body.text is not None else None
    return CallRequest(
        model=body.model,
        messages=_messages(body),
        parameters=parameters(body, body.max_output_tokens),
        output=output(form, "text.format.schema", stream=body.stream),
        tools=tools,
        tool_choice=chosen(body.tool_choice, tools),
        options=CallOptions(stream=body.stream, logprobs=(body.top_logprobs or 0) if body.with_logprobs else None),
    )


def _tools(body: ResponseBody) -> list[Tool]:
    return distinct([each.tool(f"tools[{at}]") for at, each in enumerate(body.tools or ())])


def _messages(body: ResponseBody) -> list[WorkMessage]:
    turns = [] if body.instructions is None else [message(Role.SYSTEM, body.instructions)]
    for at, item in enumerate(body.input):
        place = f"input[{at}]"
        match item.type:
            case "message":
                turns.append(_said(item, place))
            case "function_call":
                _add_call(turns, item, place)
            case "function_call_output":
                turns.append(_answered(item, place))
    if not turns:
        raise Refused("input", "needs a message")
    return turns


def _said(item: Item, place: str) -> WorkMessage:
    if item.role is None or item.content is None:
        raise _missing(place, "role" if item.role is None else "content")
    return message(Role.SYSTEM if item.role == "developer" else Role(item.role), joined(item.content))


def _add_call(turns: list[WorkMessage], item: Item, place: str) -> None:
    """To the assistant's turn before it, if there is one: a turn is a text and its calls."""
    if item.call_id is None or item.name is None:
        raise _missing(place, "call_id" if item.call_id is None else "name")
    call = ToolCall(id=item.call_id, name=item.name, arguments=item.arguments or "{}")
    if turns and turns[-1].role == Role.ASSISTANT:
        calls = [*(turns[-1].tool_calls or ()), call]
        turns[-1] = turns[-1].model_copy(update={"tool_calls": calls})
    else:
        turns.append(message(Role.ASSISTANT, None, [call]))


def _answered(item: Item, place: str) -> WorkMessage:
    if item.call_id is None or item.output is None:
        raise _missing(place, "call_id" if item.call_id is None else "output")
    return message(Role.TOOL, joined(item.output), answers=item.call_id)


def _missing(place: str, member: str) -> Refused:
    return Refused(f"{place}.{member}", "is required", "missing_required_parameter")


def echoed_tools(body: ResponseBody) -> list[dict[str, Any]]:
    """As the answer repeats them."""
    return [
        {
            "type": "function",
            "name": each.name,
            "description": each.description,
            "parameters": each.parameters,
            "strict": bool(each.strict),
        }
        for each in body.tools or ()
    ]
