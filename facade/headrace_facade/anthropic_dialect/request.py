"""`POST /v1/messages`: the body, and the call that it asks for."""

from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field

from headrace_crds.dialogue import MAX_TOOLS, TOOL_CHOICES, Tool
from headrace_crds.inputs import Output, Parameters
from headrace_crds.work import CallOptions
from headrace_facade.anthropic_dialect.content import Json, Texts, Turn, conversation
from headrace_facade.calls.contract import CallRequest
from headrace_facade.openai_dialect.dialogue import (
    MESSAGES_LIMIT,
    SCHEMA_LIMIT_BYTES,
    TOOL_SCHEMA_LIMIT_BYTES,
    Name,
    distinct,
    schema_text,
)
from headrace_facade.openai_dialect.errors import Refused
from headrace_facade.openai_dialect.sampling import MaxTokens, Stop
from headrace_facade.openai_dialect.wire import Number, Refusals, Wire, unsupported, wrong
from headrace_facade.submission import decimal_text

REFUSED: Final[Refusals] = {
    "container": ("nothing is executed here: leave it out", ()),
    "context_management": ("a conversation is taken as it is sent: leave it out", ()),
    "diagnostics": ("is not offered: leave it out", ()),
    "inference_geo": ("where a model runs is its LLMModel's: leave it out", ()),
    "mcp_servers": ("no servers are called: give the model tools", ()),
    "output_format": ("is the old name: use output_config.format", ()),
    "service_tier": ("there is one tier: leave it out", ("auto", "standard_only")),
    "speed": ("there is one speed: leave it out", ("standard",)),
    "user_profile_id": ("who asks is known by the key: leave it out", ()),
    "workspace_id": ("the namespace is known by the key: leave it out", ()),
}
"""By a parameter's name: why it cannot be honoured, and the values that ask for nothing."""


def _custom(value: object) -> object:
    if isinstance(value, dict) and isinstance(kind := value.get("type"), str) and kind != "custom":
        raise unsupported(f"tools of type {kind[:32]!r} are not there: only custom ones, with input_schema")
    return value


def _own_callers(value: object) -> object:
    if value != ["direct"]:
        raise unsupported("tools are called by the model alone: leave it out")
    return value


class CustomTool(Wire):
    """Its calls are held to the schema, `strict` or not; how they are streamed is always the same."""

    type: Literal["custom"] = "custom"
    name: Name
    description: Annotated[str, Field(max_length=4096)] | None = None
    input_schema: Json
    strict: bool | None = None
    eager_input_streaming: bool | None = None
    cache_control: Json | None = None
    allowed_callers: Annotated[list[str], BeforeValidator(_own_callers)] | None = None
    defer_loading: Literal[False] | None = None
    input_examples: Annotated[list[Any], Field(max_length=0)] | None = None

    def tool(self, place: str) -> Tool:
        """Raises Refused."""
        if self.name in TOOL_CHOICES:
            raise Refused(f"{place}.name", f"cannot be one of {', '.join(TOOL_CHOICES)}: name it otherwise")
        schema = schema_text(self.input_schema, f"{place}.input_schema", TOOL_SCHEMA_LIMIT_BYTES)
        return Tool(name=self.name, description=self.description, parameters=schema)


class ToolChoice(Wire):
    type: Literal["auto", "any", "tool", "none"]
    name: Name | None = None
    disable_parallel_tool_use: bool = False


class Format(Wire):
    type: Literal["json_schema"]
    schema_: Annotated[Json, Field(alias="schema")]


def _effort(value: object) -> object:
    if value != "high":
        raise unsupported("is not passed on, the model thinks as it does: leave it out")
    return value


class OutputConfig(Wire):
    format: Format | None = None
    effort: Annotated[Literal["high"], BeforeValidator(_effort)] | None = None


def as_the_model_does(value: object) -> object:
    if isinstance(value, dict) and value.get("type") in ("enabled", "between_tools"):
        raise unsupported("models think as they do: there is no budget for it, leave it out or use adaptive")
    return value


class Thinking(Wire):
    """Whether thoughts are told. Whether there are any is the model's own."""

    type: Literal["adaptive", "disabled"]
    display: Literal["summarized", "omitted"] | None = None


class Metadata(Wire):
    """Taken and not looked at."""

    user_id: Annotated[str, Field(max_length=512)] | None = None


def answerable(value: object) -> object:
    if value == []:
        raise wrong("needs a message")
    return value


ToolList = Annotated[list[Annotated[CustomTool, BeforeValidator(_custom)]], Field(max_length=MAX_TOOLS, fail_fast=True)]


class MessagesBody(Wire):
    model: Annotated[str, Field(min_length=1, max_length=128)]
    messages: Annotated[list[Turn], Field(max_length=MESSAGES_LIMIT, fail_fast=True), BeforeValidator(answerable)]
    max_tokens: MaxTokens
    system: Texts | None = None
    stop_sequences: Annotated[list[Stop], Field(max_length=8, fail_fast=True)] | None = None
    temperature: Annotated[Number, Field(ge=0, le=1)] | None = None
    top_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=1000)] | None = None
    tools: ToolList | None = None
    tool_choice: ToolChoice | None = None
    output_config: OutputConfig | None = None
    thinking: Annotated[Thinking, BeforeValidator(as_the_model_does)] | None = None
    metadata: Metadata | None = None
    cache_control: Json | None = None
    stream: bool = False

    @property
    def tells_thoughts(self) -> bool:
        return self.thinking is None or (self.thinking.type == "adaptive" and self.thinking.display != "omitted")

    @property
    def parallel(self) -> bool:
        return self.tool_choice is None or not self.tool_choice.disable_parallel_tool_use


def call_request(body: MessagesBody) -> CallRequest:
    """Raises Refused."""
    tools = distinct([each.tool(f"tools[{at}]") for at, each in enumerate(body.tools or ())])
    return CallRequest(
        model=body.model,
        messages=conversation(body.system, body.messages),
        parameters=_parameters(body),
        output=_output(body),
        tools=tools,
        tool_choice=chosen(body.tool_choice, tools),
        options=CallOptions(stream=body.stream),
    )


def _parameters(body: MessagesBody) -> Parameters:
    return Parameters(
        max_tokens=body.max_tokens,
        temperature=None if body.temperature is None else decimal_text(body.temperature),
        top_p=None if body.top_p is None else decimal_text(body.top_p),
        top_k=body.top_k,
        # An empty list would take away the model's own.
        stop=body.stop_sequences or None,
    )


def _output(body: MessagesBody) -> Output | None:
    """Of a stream nothing is repaired: what was shown cannot be taken back."""
    if body.output_config is None or body.output_config.format is None:
        return None
    schema = schema_text(body.output_config.format.schema_, "output_config.format.schema", SCHEMA_LIMIT_BYTES)
    return Output(json_schema=schema, max_repairs=0) if body.stream else Output(json_schema=schema)


def chosen(choice: ToolChoice | None, tools: list[Tool]) -> str:
    if choice is None or choice.type in ("auto", "none"):
        return "auto" if choice is None else choice.type
    if not tools:
        raise Refused("tool_choice", "chooses among tools: add tools or leave it out")
    if choice.type == "any":
        return "required"
    if choice.name is None or all(tool.name != choice.name for tool in tools):
        raise Refused("tool_choice.name", "names none of the tools")
    return choice.name
