"""What stands between the marks of a tool call, read family by family.

A reader takes a whole section and gives the calls in it, or raises ValueError where it is none: the text then stays
text. Arguments keep the characters that the model wrote. A section is a tenant's text and is read on the thread that
decodes for all: no reader goes over a character again and again, which is why none uses a regular expression.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from headrace_runner.engine.json_members import elements, members, skip_space

_NAMES: Final = ("name", "tool_name", "function")
_ARGUMENTS: Final = ("arguments", "parameters")
_FENCE: Final = "```"


@dataclass(frozen=True, slots=True)
class RawCall:
    """A call as it was written: ``arguments`` is the text of a JSON object."""

    name: str
    arguments: str
    id: str | None = None


Reader = Callable[[str], list[RawCall]]


def json_calls(body: str) -> list[RawCall]:
    """One object with name and arguments, several one after the other, or an array of them; the common form."""
    at = skip_space(body, 0)
    texts: list[str] = []
    while at < len(body):
        if body[at] == "[":
            found, at = elements(body, at)
            texts += found
        else:
            start = at
            _, at = members(body, at)
            texts.append(body[start:at])
        at = skip_space(body, at)
        if at < len(body) and body[at] in ";,":
            at = skip_space(body, at + 1)
    if not texts:
        raise ValueError("no call")
    return [_json_call(text) for text in texts]


def tool_call_tag(body: str) -> list[RawCall]:
    """Between ``<tool_call>`` and its end: JSON (Hermes, Qwen 2.5 and 3), or tags (Qwen 3 Coder)."""
    text = body.strip()
    if not text.startswith("<function="):
        return json_calls(text)
    head, _, rest = text.removeprefix("<function=").partition(">")
    if not rest.rstrip().endswith("</function>"):
        raise ValueError("an unfinished function")
    given = {name.strip(): _loose(value) for name, value in _parameters(rest)}
    return [RawCall(head.strip(), json.dumps(given, ensure_ascii=False))]


def mistral(body: str) -> list[RawCall]:
    """After ``[TOOL_CALLS]``: an array of calls, or ``name[CALL_ID]…[ARGS]{…}``, several of them."""
    calls: list[RawCall] = []
    for part in body.split("[TOOL_CALLS]"):
        text = part.strip()
        if text[:1] in ("[", "{") and not text.startswith("[ARGS]"):
            calls += json_calls(text)
            continue
        at = text.index("{")
        head = text[:at].replace("[ARGS]", "").strip()
        name, _, call_id = head.partition("[CALL_ID]")
        calls.append(RawCall(name.strip(), _object(text[at:]), call_id.strip() or None))
    return calls


def deepseek(body: str) -> list[RawCall]:
    """Between the marks of DeepSeek R1 and V3: ``function<sep>name`` and fenced JSON, or ``name<sep>{…}``."""
    calls = []
    for inner in _between(body, "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"):
        first, separator, rest = inner.partition("<｜tool▁sep｜>")
        if not separator:
            raise ValueError("no separator")
        name, _, fenced = rest.partition(_FENCE)
        code, closed, _ = fenced.partition(_FENCE)
        if closed:
            calls.append(RawCall(name.strip(), _object(code.removeprefix("json"))))
        else:
            calls.append(RawCall(first.strip(), _object(rest)))
    if not calls:
        raise ValueError("no call")
    return calls


def function_tag(body: str) -> list[RawCall]:
    """After ``<function=``: ``name>{…}`` (Functionary, Llama 3.1's user-defined form)."""
    name, _, rest = body.partition(">")
    return [RawCall(name.strip(), _object(rest))]


def _between(text: str, opens: str, closes: str) -> Iterator[str]:
    """What stands between two marks, each time; what is not closed is not given."""
    at = 0
    while (start := text.find(opens, at)) >= 0 and (end := text.find(closes, start + len(opens))) >= 0:
        yield text[start + len(opens) : end]
        at = end + len(closes)


def _parameters(text: str) -> Iterator[tuple[str, str]]:
    """Name and value of every ``<parameter=name>value</parameter>``."""
    for inner in _between(text, "<parameter=", "</parameter>"):
        name, closed, value = inner.partition(">")
        if name and closed:
            yield name, value.removeprefix("\n").removesuffix("\n")


def _json_call(text: str) -> RawCall:
    found, _ = members(text)
    nested = found.get("function", "")
    if nested.startswith("{"):  # OpenAI's own form
        inner, _ = members(nested)
        found |= inner
    name = next((json.loads(found[key]) for key in _NAMES if found.get(key, "").startswith('"')), None)
    if not isinstance(name, str):
        raise ValueError("a call without a name")
    arguments = next((found[key] for key in _ARGUMENTS if key in found), "{}")
    if arguments.startswith('"'):
        arguments = json.loads(arguments)
    call_id = found.get("id", "")
    return RawCall(name, _object(arguments), json.loads(call_id) if call_id.startswith('"') else None)


def _object(text: str) -> str:
    text = text.strip()
    if text == "null":
        return "{}"
    _, end = members(text)
    if text[end:].strip():
        raise ValueError("more than an object")
    return text


def _loose(text: str) -> object:
    """Tags say nothing of types: what reads as JSON is that, all else a string."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
