"""Templates of a plain HTTP API: body, path and headers with placeholders such as ``{{prompt}}``. Pure.

A template is read once into a tree; values are put into the tree, never into JSON text, and what was put in is never
read again. So no text of a user's can change the shape of a request, or reach another placeholder's value.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

MAX_DEPTH: Final = 32
_PLACEHOLDER: Final = re.compile(r"\{\{([A-Za-z.]+)\}\}")
_DOTS: Final = re.compile(r"(\.|%2e){1,2}", re.IGNORECASE)


class _Absent:
    """A member whose placeholder has no value."""


_ABSENT: Final = _Absent()


class NoPlace(ValueError):
    """A value that cannot stand where the template wants it."""


@dataclass(frozen=True, slots=True)
class Text:
    """A string with placeholders: literals at even places, names of placeholders at odd ones."""

    parts: tuple[str, ...]

    @property
    def names(self) -> frozenset[str]:
        """The placeholders in it."""
        return frozenset(self.parts[1::2])

    @property
    def alone(self) -> str | None:
        """The placeholder that is the whole string, if one is."""
        return self.parts[1] if len(self.parts) == 3 and not self.parts[0] and not self.parts[2] else None

    def render(self, values: Mapping[str, Any], *, encoded: bool = False) -> str | None:
        """The text with the values in it; None where one has none. ``encoded``: percent-encoded, for a URL."""
        out = list(self.parts)
        for index in range(1, len(out), 2):
            value = values.get(out[index])
            if value is None:
                return None
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
            out[index] = quote(text, safe="", errors="replace") if encoded else text
        return "".join(out)


def read_text(text: str, known: frozenset[str], name: str) -> Text:
    """Read a string; ``name`` is the field that it comes from. Raises ValueError for a placeholder not in ``known``."""
    parts = _PLACEHOLDER.split(text)
    if any("{{" in literal for literal in parts[::2]):
        raise ValueError(f"{name}: a placeholder is written {{{{name}}}}, without spaces; known are {_listed(known)}")
    for unknown in (part for part in parts[1::2] if part not in known):
        if unknown == "credential":
            raise ValueError(f"{name}: {{{{credential}}}} is for headers only: bodies and paths end up in logs")
        raise ValueError(f"{name}: unknown placeholder {{{{{unknown[:64]}}}}}; known are {_listed(known)}")
    return Text(tuple(parts))


class Body:
    """A JSON document with placeholders in its strings."""

    def __init__(self, source: str, known: frozenset[str], name: str) -> None:
        """Read it. Raises ValueError that names the field, for anything but a JSON object or array."""
        try:
            parsed = json.loads(source, object_pairs_hook=_object, parse_constant=_constant)
        except RecursionError:
            raise ValueError(f"{name}: nested deeper than {MAX_DEPTH} levels") from None
        except ValueError as error:
            raise ValueError(f"{name}: not JSON: {error}") from None
        if not isinstance(parsed, dict | list):
            raise ValueError(f"{name}: must be a JSON object or array")
        self._tree = _read(parsed, known, name, MAX_DEPTH)
        self.names = frozenset(_names(self._tree))

    def render(self, values: Mapping[str, Any]) -> bytes:
        """The request's body as JSON. Members and elements whose placeholder has no value (None) are left out."""
        document = _rendered(self._tree, values)
        return json.dumps(document, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")


class Path:
    """What is appended to the base URL, with an optional query."""

    def __init__(self, source: str, known: frozenset[str], name: str) -> None:
        """Read it. Raises ValueError that names the field."""
        path, mark, query = source.partition("?")
        self._name = name
        self._path = read_text(path, known, name)
        self._query = tuple(read_text(member, known, name) for member in query.split("&")) if mark else ()
        self.names = self._path.names.union(*(member.names for member in self._query))
        if any(_DOTS.fullmatch(segment) for segment in path.split("/")):
            raise ValueError(f"{name}: . and .. are no parts of a path: write the path that is meant")

    def render(self, values: Mapping[str, Any]) -> str:
        """The path; members of the query without a value are left out. Raises NoPlace."""
        path = self._path.render(values, encoded=True)
        if path is None:
            absent = sorted(name for name in self._path.names if values.get(name) is None)
            raise NoPlace(f"{self._name} needs a value for {', '.join(absent)}")
        # A segment of dots would be another path of the same host, however it is encoded.
        if any(_DOTS.fullmatch(segment) for segment in path.split("/")):
            raise NoPlace(f"{self._name}: the value would be . or .. in the path")
        members = [text for text in (member.render(values, encoded=True) for member in self._query) if text is not None]
        return f"{path}?{'&'.join(members)}" if members else path


def _read(node: Any, known: frozenset[str], name: str, depth: int) -> Any:
    if depth < 0:
        raise ValueError(f"{name}: nested deeper than {MAX_DEPTH} levels")
    match node:
        case str():
            return read_text(node, known, name)
        case dict():
            for key in node:
                if "{{" in key:
                    raise ValueError(f"{name}: no placeholders in the names of members: {key[:64]}")
            return {key: _read(value, known, name, depth - 1) for key, value in node.items()}
        case list():
            return [_read(value, known, name, depth - 1) for value in node]
    return node


def _names(node: Any) -> Iterator[str]:
    match node:
        case Text():
            yield from node.names
        case dict():
            for value in node.values():
                yield from _names(value)
        case list():
            for value in node:
                yield from _names(value)


def _rendered(node: Any, values: Mapping[str, Any]) -> Any:
    match node:
        case Text():
            value = node.render(values) if (name := node.alone) is None else values.get(name)
            return _ABSENT if value is None else value
        case dict():
            members = ((key, _rendered(value, values)) for key, value in node.items())
            return {key: value for key, value in members if value is not _ABSENT}
        case list():
            return [value for value in (_rendered(each, values) for each in node) if value is not _ABSENT]
    return node


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a member stands in an object twice")
    return made


def _constant(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")


def _listed(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))
