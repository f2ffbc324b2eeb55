"""What a chat template can do, found out by rendering probes: templates differ, and none says so.

What a template lacks is written for it in plain text (``conversation``).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

from headrace_runner.engine.protocol import Refusal

Render = Callable[[list[dict[str, Any]], list[dict[str, Any]] | None], str]

_NAME: Final = "probe_gauge"
_KEY: Final = "probe_key"
_VALUE: Final = "probe-value"
_RESULT: Final = "probe-result"
_RULE: Final = "probe-rule"
_LONG_ID: Final = "call_0123456789"
_SHORT_ID: Final = "abcdef012"
_USER: Final = {"role": "user", "content": "probe-question"}


@dataclass(frozen=True, slots=True)
class Traits:
    """``system``: it shows a system message. ``tools``: it shows tools. ``calls``: how it takes the arguments of an
    assistant's calls, None where it does not show them. ``empty_content``: what such a message has for content.
    ``short_ids``: it takes ids of nine letters and digits alone (Mistral)."""

    system: bool = False
    tools: bool = False
    calls: Literal["Object", "Text"] | None = None
    empty_content: str | None = ""
    short_ids: bool = False


def probe(render: Render) -> Traits:
    """Find out by at most eleven renderings."""
    system = _RULE in _try(render, [{"role": "system", "content": _RULE}, _USER])
    tools = _NAME in _try(render, [_USER], [_tool()])
    for short_ids in (False, True):
        for form in ("Object", "Text"):
            for empty in (None, ""):
                rendered = _try(render, _with_call(form, empty, _SHORT_ID if short_ids else _LONG_ID), [_tool()])
                if _shows_call(rendered) and (empty is not None or "None" not in rendered):
                    return Traits(system, tools, "Object" if form == "Object" else "Text", empty, short_ids)
    return Traits(system, tools)


def _try(render: Render, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> str:
    try:
        return render(messages, tools)
    except Refusal:
        return ""


def _shows_call(rendered: str) -> bool:
    # The tool's own definition names it as well, but not the key and what it was called with.
    return all(word in rendered for word in (_NAME, _KEY, _VALUE, _RESULT)) and f"'{_KEY}'" not in rendered


def _tool() -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"gauge": {"type": "string", "description": "a gauge"}}}
    return {"type": "function", "function": {"name": _NAME, "description": "a probe", "parameters": parameters}}


def _with_call(form: str, empty: str | None, call_id: str) -> list[dict[str, Any]]:
    arguments: Any = {_KEY: _VALUE} if form == "Object" else f'{{"{_KEY}": "{_VALUE}"}}'
    call = {"id": call_id, "type": "function", "function": {"name": _NAME, "arguments": arguments}}
    return [
        _USER,
        {"role": "assistant", "content": empty, "tool_calls": [call]},
        {"role": "tool", "content": _RESULT, "tool_call_id": call_id, "name": _NAME},
    ]
