"""Messages and their blocks in the objects' words."""

from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, model_validator

from headrace_crds.dialogue import ARGUMENTS_LIMIT_BYTES, MAX_TOOL_CALLS, Role, ToolCall
from headrace_crds.work import WorkMessage
from headrace_facade.openai_dialect.dialogue import CallId, Name, message
from headrace_facade.openai_dialect.errors import Refused
from headrace_facade.openai_dialect.wire import Wire, json_text, unsupported, wrong

BLOCKS_LIMIT: Final = 1024
_THOUGHTS: Final = ("thinking", "redacted_thinking")
_KINDS: Final = ("text", "tool_use", "tool_result", *_THOUGHTS)
_NEEDED: Final = {"text": ("text",), "tool_use": ("id", "name", "input"), "tool_result": ("tool_use_id",)}

Json = dict[str, Any]


def blocks(value: object) -> object:
    """A text stands for one block of it."""
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


class TextBlock(Wire):
    """Caches and citations belong to who sent them: an answer may come back as it was given."""

    type: Literal["text"]
    text: str
    cache_control: Json | None = None
    citations: list[Any] | None = None

    @model_validator(mode="before")
    @classmethod
    def _text_alone(cls, value: object) -> object:
        _known(value, ("text",))
        return value


Texts = Annotated[list[TextBlock], Field(max_length=BLOCKS_LIMIT, fail_fast=True), BeforeValidator(blocks)]


class Block(Wire):
    """A piece of a message; which members it needs follows from its type."""

    type: Literal["text", "tool_use", "tool_result", "thinking", "redacted_thinking"]
    text: str | None = None
    id: CallId | None = None
    name: Name | None = None
    input: Json | None = None
    tool_use_id: CallId | None = None
    content: Texts | None = None
    is_error: bool | None = None
    caller: Json | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    cache_control: Json | None = None
    citations: list[Any] | None = None

    @model_validator(mode="before")
    @classmethod
    def _known_kinds(cls, value: object) -> object:
        _known(value, _KINDS)
        return value

    @model_validator(mode="after")
    def _whole(self) -> "Block":
        for name in _NEEDED.get(self.type, ()):
            if getattr(self, name) is None:
                raise wrong(f"a block of type {self.type} needs {name}")
        return self


def _known(value: object, kinds: tuple[str, ...]) -> None:
    kind = value.get("type") if isinstance(value, dict) else None
    if isinstance(kind, str) and kind not in kinds:
        told = f"blocks of type {kind[:32]!r} are not supported: models take text alone, leave it out or describe it"
        raise unsupported(told)


Content = Annotated[list[Block], Field(max_length=BLOCKS_LIMIT, fail_fast=True), BeforeValidator(blocks)]


class Turn(Wire):
    role: Literal["user", "assistant"]
    content: Content

    @model_validator(mode="after")
    def _of_its_role(self) -> "Turn":
        others = {"tool_use": "assistant", "tool_result": "user", "thinking": "assistant"}
        for block in self.content:
            if others.get(block.type, self.role) != self.role:
                raise wrong(f"a block of type {block.type} is the {others[block.type]}'s")
        return self


def conversation(system: list[TextBlock] | None, turns: list[Turn]) -> list[WorkMessage]:
    """All turns, the system's first. Raises Refused."""
    found = [message(Role.SYSTEM, joined([block.text for block in system]))] if system else []
    asked: set[str] = set()
    for at, turn in enumerate(turns):
        if turn.role == "assistant":
            said = _assistant(turn, f"messages[{at}].content")
            asked = {call.id for call in said.tool_calls or ()}
            found.append(said)
        else:
            found += _user(turn, asked, f"messages[{at}].content")
            asked = set()
    if turns[-1].role == "assistant":
        raise Refused("messages", "end with the assistant's: an answer cannot be begun for the model (prefill)")
    return found


def _assistant(turn: Turn, place: str) -> WorkMessage:
    """Earlier thoughts are not told to models."""
    calls = [_called(block, f"{place}[{at}]") for at, block in enumerate(turn.content) if block.type == "tool_use"]
    if len(calls) > MAX_TOOL_CALLS:
        raise Refused(place, f"has more than {MAX_TOOL_CALLS} blocks of type tool_use")
    texts = [block.text or "" for block in turn.content if block.type == "text"]
    return message(Role.ASSISTANT, joined(texts) if texts or not calls else None, calls)


def _called(block: Block, place: str) -> ToolCall:
    arguments = json_text(block.input)
    if len(arguments.encode(errors="replace")) > ARGUMENTS_LIMIT_BYTES:
        raise Refused(f"{place}.input", f"has more than {ARGUMENTS_LIMIT_BYTES} bytes as JSON")
    return ToolCall(id=block.id or "", name=block.name or "", arguments=arguments)


def _user(turn: Turn, asked: set[str], place: str) -> list[WorkMessage]:
    """One message per tool's result, in their order, and one of what is said beside them."""
    found: list[WorkMessage] = []
    texts: list[str] = []
    for at, block in enumerate(turn.content):
        if block.type != "tool_result":
            texts.append(block.text or "")
            continue
        if texts:
            raise Refused(f"{place}[{at}]", "results of tools come before the text of their message")
        if block.tool_use_id not in asked:
            raise Refused(f"{place}[{at}].tool_use_id", "names no tool_use of the message before")
        said = joined([each.text for each in block.content or ()])
        found.append(message(Role.TOOL, said, answers=block.tool_use_id))
    if texts or not found:
        found.append(message(Role.USER, joined(texts)))
    return found


def joined(texts: list[str]) -> str:
    """By line breaks, as the objects' contentParts are."""
    return "\n".join(texts)
