"""Messages, tools and formats of `/v1/chat/completions` and `/v1/responses` in the objects' words."""

from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, model_validator

from headrace_crds.dialogue import ARGUMENTS_LIMIT_BYTES, MAX_TOOL_CALLS, MAX_TOOLS, TOOL_CHOICES, Role, Tool, ToolCall
from headrace_crds.inputs import LARGE_INPUT_LIMIT_BYTES, Output
from headrace_crds.work import WorkMessage
from headrace_facade.openai_dialect.errors import Refused
from headrace_facade.openai_dialect.wire import Wire, json_text, unsupported, wrong

MESSAGES_LIMIT: Final = 4096
SCHEMA_LIMIT_BYTES: Final = 65536
TOOL_SCHEMA_LIMIT_BYTES: Final = 16384
_TEXT_PARTS: Final = ("text", "refusal", "input_text", "output_text")
_ANY_OBJECT: Final = '{"type":"object"}'

Json = dict[str, Any]


class Part(Wire):
    """A piece of a message's content. Only text can be said to a model."""

    type: str
    text: str = ""

    @model_validator(mode="before")
    @classmethod
    def _text_alone(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        kind = value.get("type")
        if isinstance(kind, str) and kind not in _TEXT_PARTS:
            raise unsupported("models take text alone: leave images, audio and files out, or describe them")
        said = value.get("refusal") if kind == "refusal" else value.get("text")
        if kind is not None and not isinstance(said, str):
            raise wrong("a part needs its text")
        # Caches, annotations and probabilities belong to who sent them: an answer may come back as it was given.
        return {"type": kind, "text": said}


def _parts(value: object) -> object:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


Content = Annotated[list[Part], Field(max_length=1024, fail_fast=True), BeforeValidator(_parts)]


def joined(content: list[Part] | None) -> str | None:
    """Parts are joined by line breaks, as the objects' contentParts are."""
    return None if content is None else "\n".join(part.text for part in content)


CallId = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.:-]+$")]
Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]
Arguments = Annotated[str, Field(max_length=ARGUMENTS_LIMIT_BYTES)]


class CalledFunction(Wire):
    name: Name
    arguments: Arguments = "{}"


class Called(Wire):
    id: CallId
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(Wire):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    name: Annotated[str, Field(max_length=256)] | None = None
    tool_calls: Annotated[list[Called], Field(max_length=MAX_TOOL_CALLS, fail_fast=True)] | None = None
    tool_call_id: CallId | None = None
    # What an answer's message holds beside them, so that it can be sent back as it came.
    refusal: str | None = None
    reasoning_content: str | None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None

    @model_validator(mode="after")
    def _whole(self) -> "ChatMessage":
        if (self.tool_call_id is not None) != (self.role == "tool"):
            raise wrong("a message of role tool, and no other, needs tool_call_id")
        if self.tool_calls and self.role != "assistant":
            raise wrong("tool_calls are the assistant's")
        if self.content is None and not self.tool_calls and self.refusal is None:
            raise wrong("content is needed: only an assistant's message with tool_calls can do without")
        # Of a tool's answer the call says whose it is.
        if self.name is not None and self.role != "tool":
            raise unsupported("name is not told to models: put it into content")
        return self

    def work(self) -> WorkMessage:
        calls = [ToolCall(id=c.id, name=c.function.name, arguments=c.function.arguments) for c in self.tool_calls or ()]
        text = joined(self.content)
        return message(_role(self.role), text if text is not None else self.refusal, calls, self.tool_call_id)


def _role(role: str) -> Role:
    return Role.SYSTEM if role == "developer" else Role(role)


def message(
    role: Role, content: str | None, calls: list[ToolCall] | None = None, answers: str | None = None
) -> WorkMessage:
    """Raises Refused where the text is longer than any input may be."""
    if content is not None and len(content) > LARGE_INPUT_LIMIT_BYTES:
        raise Refused("messages", f"a message holds more than {LARGE_INPUT_LIMIT_BYTES} characters")
    return WorkMessage(role=role, content=content, tool_calls=calls or None, tool_call_id=answers)


class Function(Wire):
    """A function that a model may ask to be called. Its arguments are held to the schema, `strict` or not."""

    name: Name
    description: Annotated[str, Field(max_length=4096)] | None = None
    parameters: Json | None = None
    strict: bool | None = None

    def tool(self, place: str) -> Tool:
        """Raises Refused."""
        if self.name in TOOL_CHOICES:
            raise Refused(f"{place}.name", f"{', '.join(TOOL_CHOICES)} are words of tool_choice: name it otherwise")
        schema = None
        if self.parameters is not None:
            schema = schema_text(self.parameters, f"{place}.parameters", TOOL_SCHEMA_LIMIT_BYTES)
        return Tool(name=self.name, description=self.description, parameters=schema)


def functions_alone(value: object) -> object:
    if isinstance(value, dict) and isinstance(kind := value.get("type"), str) and kind != "function":
        raise unsupported(f"tools of type {kind[:32]!r} are not there: only those of type function")
    return value


ToolList = Annotated[list[Any], Field(max_length=MAX_TOOLS)]


class Choice(Wire):
    """How tools are chosen: a word, or a function by its name."""

    type: Literal["auto", "none", "required", "function"]
    name: Name | None = None
    function: "NamedFunction | None" = None


class NamedFunction(Wire):
    name: Name


def _choice(value: object) -> object:
    if isinstance(value, str):
        return {"type": value}
    if isinstance(value, dict) and isinstance(kind := value.get("type"), str) and kind != "function":
        raise unsupported("auto, none, required, or a function by its name")
    return value


ToolChoice = Annotated[Choice, BeforeValidator(_choice)]


def chosen(choice: Choice | None, tools: list[Tool]) -> str:
    """The word, or the function's name. Raises Refused."""
    if choice is None:
        return "auto"
    if choice.type != "function":
        if choice.type == "required" and not tools:
            raise Refused("tool_choice", "chooses among tools: add tools or leave it out")
        return choice.type
    name = choice.function.name if choice.function is not None else choice.name
    if name is None or all(tool.name != name for tool in tools):
        raise Refused("tool_choice", "names none of the tools")
    return name


def distinct(tools: list[Tool]) -> list[Tool]:
    """Raises Refused where two have the same name."""
    if len({tool.name for tool in tools}) != len(tools):
        raise Refused("tools", "two tools have the same name")
    return tools


class Format(Wire):
    """Of the text. `name` and `description` are not told to the model; a schema is kept to, `strict` or not."""

    type: Literal["text", "json_object", "json_schema"]
    name: Annotated[str, Field(max_length=64)] | None = None
    description: Annotated[str, Field(max_length=4096)] | None = None
    strict: bool | None = None
    schema_: Annotated[Json | None, Field(alias="schema")] = None


def output(form: Format | None, place: str, *, stream: bool) -> Output | None:
    """Raises Refused. Of a stream nothing is repaired: what was shown cannot be taken back."""
    if form is None or form.type == "text":
        return None
    schema = _ANY_OBJECT
    if form.type == "json_schema" and form.schema_ is not None:
        schema = schema_text(form.schema_, place, SCHEMA_LIMIT_BYTES)
    return Output(json_schema=schema, max_repairs=0) if stream else Output(json_schema=schema)


def schema_text(schema: Json, place: str, limit_bytes: int) -> str:
    """Raises Refused."""
    text = json_text(schema)
    if (size_bytes := len(text.encode())) > limit_bytes:
        raise Refused(place, f"has {size_bytes} bytes as JSON, {limit_bytes} are allowed: shorten it")
    return text
