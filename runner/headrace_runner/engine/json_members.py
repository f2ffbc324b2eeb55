"""JSON text taken apart without rewriting it: a call's arguments stay as the model wrote them."""

import json
from typing import Final

_DECODER: Final = json.JSONDecoder()
_SPACE: Final = " \t\n\r"


def skip_space(text: str, at: int) -> int:
    """Where the next character that is no white space stands."""
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at


def value_end(text: str, at: int) -> int:
    """Where the JSON value that begins at ``at`` ends. Raises ValueError."""
    try:
        return _DECODER.raw_decode(text, at)[1]
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def members(text: str, at: int = 0) -> tuple[dict[str, str], int]:
    """The raw texts of an object's members by name, and where the object ends. Raises ValueError."""
    at = skip_space(text, at)
    end = value_end(text, at)
    if text[at] != "{":
        raise ValueError("not an object")
    found: dict[str, str] = {}
    at = skip_space(text, at + 1)
    while text[at] != "}":
        name, at = _DECODER.raw_decode(text, at)
        start = skip_space(text, skip_space(text, at) + 1)  # over the colon
        at = value_end(text, start)
        found[name] = text[start:at]
        at = skip_space(text, at)
        if text[at] == ",":
            at = skip_space(text, at + 1)
    return found, end


def elements(text: str, at: int = 0) -> tuple[list[str], int]:
    """The raw texts of an array's elements, and where the array ends. Raises ValueError."""
    at = skip_space(text, at)
    end = value_end(text, at)
    if text[at] != "[":
        raise ValueError("not an array")
    found: list[str] = []
    at = skip_space(text, at + 1)
    while text[at] != "]":
        stop = value_end(text, at)
        found.append(text[at:stop])
        at = skip_space(text, stop)
        if text[at] == ",":
            at = skip_space(text, at + 1)
    return found, end
