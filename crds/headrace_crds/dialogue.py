"""What is said to a model and what it may call: messages, tools, tool calls."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, ClassVar, Final

from pydantic import Field

from headrace_crds.base import ApiModel, Rule
from headrace_crds.inputs import INPUT_LIMIT_BYTES

TOOL_NAME: Final = r"^[A-Za-z0-9_-]+$"
TOOL_CHOICES: Final = ("auto", "none", "required")
ARGUMENTS_LIMIT_BYTES: Final = 32 * 1024
MAX_TOOLS: Final = 64
MAX_TOOL_CALLS: Final = 32

ToolName = Annotated[str, Field(min_length=1, max_length=64, pattern=TOOL_NAME)]


class Role(StrEnum):
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class ContentPart(ApiModel):
    """One piece of a message's content, in the shape that OpenAI's clients write."""

    rules: ClassVar = (
        Rule(
            "!has(self.type) || self.type == 'text'",
            "UnsupportedContent: models take text alone; leave images, audio and files out, or describe them in a "
            "part of type text",
            ".type",
        ),
    )

    type: Annotated[str, Field(max_length=32)] | None = None
    """text, the only kind there is."""
    text: Annotated[str, Field(max_length=INPUT_LIMIT_BYTES)] = ""
    """What is said."""


class ToolCall(ApiModel):
    """A call of one of the task's tools that a model asks for."""

    id: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.:-]+$")]
    """Names the call, so that a message of role tool can answer it."""
    name: ToolName
    """Name of the tool."""
    arguments: Annotated[str, Field(max_length=ARGUMENTS_LIMIT_BYTES)] = "{}"
    """A JSON object as JSON *text*, as the model wrote it."""


class Message(ApiModel):
    """One turn of a conversation."""

    rules: ClassVar = (
        Rule(
            "!(has(self.content) && has(self.contentParts))",
            "give content or contentParts, not both",
            ".contentParts",
        ),
        Rule(
            "has(self.content) || has(self.contentParts) || has(self.toolCalls)",
            "a message needs content, contentParts or, of role assistant, toolCalls",
        ),
        Rule(
            "!has(self.toolCalls) || self.role == 'assistant'",
            "toolCalls are the assistant's: set role to assistant or remove them",
            ".toolCalls",
        ),
        Rule(
            "has(self.toolCallId) == (self.role == 'tool')",
            "a message of role tool, and no other, needs toolCallId: the id of the call that it answers",
            ".toolCallId",
        ),
    )

    role: Role
    """Who speaks: system, user, assistant or tool (the answer to a tool call)."""
    content: Annotated[str, Field(max_length=INPUT_LIMIT_BYTES)] | None = None
    """What is said, as text."""
    content_parts: Annotated[list[ContentPart], Field(min_length=1, max_length=32)] | None = None
    """What is said, in pieces; they are joined by line breaks."""
    tool_calls: Annotated[list[ToolCall], Field(min_length=1, max_length=MAX_TOOL_CALLS)] | None = None
    """Calls that the assistant asked for in this turn: result.toolCalls of an earlier task."""
    tool_call_id: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """With role tool: the id of the call that this message answers."""

    @property
    def text(self) -> str:
        """What is said as one text."""
        if self.content_parts is not None:
            return "\n".join(part.text for part in self.content_parts)
        return self.content or ""


class Tool(ApiModel):
    """A function that the model may ask to be called. Headrace calls nothing: it hands the calls back."""

    rules: ClassVar = (
        Rule(
            "!(self.name in ['auto', 'none', 'required'])",
            "auto, none and required are words of toolChoice: give the tool another name",
            ".name",
        ),
        Rule(
            "!has(self.parameters) || size(bytes(self.parameters)) <= 16384",
            "parameters hold more than 16384 bytes in UTF-8: shorten them",
            ".parameters",
        ),
    )

    name: ToolName
    """Name of the function."""
    description: Annotated[str, Field(max_length=4096)] | None = None
    """What it does and when to call it, for the model."""
    parameters: Annotated[str, Field(min_length=2, max_length=16384)] | None = None
    """JSON Schema of the arguments as JSON *text*, of type object. Absent: it takes none. The arguments of a call are
    validated against it."""


def dialogue_texts(messages: Sequence[Message], tools: Sequence[Tool]) -> list[str]:
    """What the author of a task wrote: it counts as input."""
    texts = [message.text for message in messages]
    texts += [call.arguments for message in messages for call in message.tool_calls or ()]
    return [*texts, *(text for tool in tools for text in (tool.description, tool.parameters) if text)]


Tools = Annotated[
    list[Tool],
    Field(
        min_length=1,
        max_length=MAX_TOOLS,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    ),
]
