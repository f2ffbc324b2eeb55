"""Tasks that can never run: found at accept, before anything is queued.

CEL counts characters and knows no JSON; these gates count bytes and read the schema.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

from headrace_crds.dialogue import dialogue_texts
from headrace_crds.reasons import Reason
from headrace_crds.task import INPUT_LIMIT_BYTES, LLMTask

ESCAPED_INPUT_LIMIT_BYTES: Final = 960 * 1024
"""Of the input as JSON: control characters take six bytes there, and an envelope has room for 1 MiB."""

MESSAGE_OVERHEAD_BYTES: Final = 48
"""What a message's role, names and punctuation take in an envelope."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the task fails without an attempt."""

    reason: Reason
    message: str


def _texts(task: LLMTask) -> list[str]:
    spec = task.spec
    if spec.embed is not None:
        return spec.embed.input
    texts = dialogue_texts(spec.messages or [], spec.tools or [])
    if spec.messages is None:
        texts.append(spec.prompt or "")
    return texts if spec.output is None else [*texts, *spec.output.texts()]


def input_too_large(task: LLMTask) -> Refusal | None:
    size_bytes = sum(len(text.encode()) for text in _texts(task))
    if size_bytes <= INPUT_LIMIT_BYTES:
        return None
    return Refusal(
        Reason.INPUT_TOO_LARGE,
        f"input and output have {size_bytes} bytes in UTF-8, {INPUT_LIMIT_BYTES} are allowed: shorten them",
    )


def escaped_bytes(texts: Sequence[str]) -> int:
    """What the texts, one a message, take in an envelope."""
    return sum(len(json.dumps(text, ensure_ascii=False).encode()) + MESSAGE_OVERHEAD_BYTES for text in texts)


def input_too_large_as_json(task: LLMTask) -> Refusal | None:
    size_bytes = escaped_bytes(_texts(task))
    if size_bytes <= ESCAPED_INPUT_LIMIT_BYTES:
        return None
    return Refusal(
        Reason.INPUT_TOO_LARGE,
        f"input and output have {size_bytes} bytes as JSON, {ESCAPED_INPUT_LIMIT_BYTES} are allowed: "
        "remove control characters, or join messages",
    )


def schema_unreadable(task: LLMTask) -> Refusal | None:
    schema = task.spec.output.json_schema if task.spec.output is not None else None
    if schema is None:
        return None
    try:
        document = json.loads(schema, parse_constant=_no_constant)
    except RecursionError:
        return Refusal(Reason.INVALID_SCHEMA, "output.jsonSchema is nested too deeply")
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        return Refusal(Reason.INVALID_SCHEMA, f"output.jsonSchema is not JSON: {error.msg} at {where}")
    except ValueError:
        return Refusal(Reason.INVALID_SCHEMA, "output.jsonSchema is not JSON: NaN, Infinity or an endless number")
    if not isinstance(document, dict | bool):
        return Refusal(Reason.INVALID_SCHEMA, "output.jsonSchema must be a JSON object, true or false")
    return None


def tools_unreadable(task: LLMTask) -> Refusal | None:
    """Parameters of tools and arguments of earlier calls are JSON objects, or the engine refuses them."""
    written = {f"tools: parameters of {tool.name}": tool.parameters for tool in task.spec.tools or []}
    for message in task.spec.messages or []:
        written |= {f"messages: arguments of call {call.id}": call.arguments for call in message.tool_calls or []}
    for what, text in written.items():
        try:
            document = {} if text is None else json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            return Refusal(Reason.INVALID_SCHEMA, f"{what} are not JSON: check quotes, commas and braces")
        if not isinstance(document, dict):
            return Refusal(Reason.INVALID_SCHEMA, f"{what} must be a JSON object")
    return None


def _no_constant(_name: str) -> NoReturn:
    raise ValueError("not a JSON number")


ACCEPTANCE_GATES: Final[tuple[Callable[[LLMTask], Refusal | None], ...]] = (
    input_too_large,
    input_too_large_as_json,
    schema_unreadable,
    tools_unreadable,
)


def refusal(task: LLMTask) -> Refusal | None:
    """The first gate that the task does not pass."""
    return next((found for gate in ACCEPTANCE_GATES if (found := gate(task)) is not None), None)
