"""Judges a value by a structural schema as the API server does: types and bounds, then CEL. Pure.

The schema is the generated one, so that no rule is written twice. Rules over ``oldSelf`` judge updates: left out.
"""

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import cel

from headrace_crds.manifest_yaml import Path

Schema = Mapping[str, Any]

_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "boolean": (bool,),
}
_ARTICLES: Final = {"object": "an object", "array": "a list", "integer": "an integer", "boolean": "true or false"}


@dataclass(frozen=True)
class Flaw:
    """What is wrong at a path, and the remedy."""

    path: Path
    message: str


def flaws(value: Any, schema: Schema, path: Path = ()) -> list[Flaw]:
    """All that the schema finds; its rules are asked only about a value of the right shape."""
    return list(_structure(value, schema, path)) or list(_rules(_with_defaults(value, schema), schema, path))


def _with_defaults(value: Any, schema: Schema) -> Any:
    """The value as it would be stored: the schema's defaults filled in."""
    if isinstance(value, dict):
        properties: Mapping[str, Schema] = schema.get("properties", {})
        filled = {name: each["default"] for name, each in properties.items() if "default" in each} | value
        return {name: _with_defaults(item, properties.get(name, {})) for name, item in filled.items()}
    if isinstance(value, list):
        return [_with_defaults(item, schema.get("items", {})) for item in value]
    return value


def suggestion(word: str, known: Sequence[str]) -> str:
    """What the author may have meant, else what there is."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if not close:
        close = [each for each in known if each.lower() == word.lower()]
    return f"did you mean {close[0]}?" if close else f"there are: {', '.join(known)}"


def _structure(value: Any, schema: Schema, path: Path) -> Iterator[Flaw]:
    wanted = schema["type"]
    if wanted == "integer" and isinstance(value, float) and value.is_integer():
        # 1.0 and 1e1 are integers in JSON.
        value = int(value)
    # In Python True is an int.
    if not isinstance(value, _TYPES[wanted]) or (isinstance(value, bool) and wanted != "boolean"):
        yield Flaw(path, _wrong_type(value, schema))
        return
    match value:
        case dict():
            yield from _object(value, schema, path)
        case list():
            yield from _bounds(len(value), schema, path, "Items", "entries")
            for index, item in enumerate(value):
                yield from _structure(item, schema["items"], (*path, index))
                if schema.get("x-kubernetes-list-type") == "set" and item in value[:index]:
                    yield Flaw((*path, index), f"{_short(str(item))} is in the list before: remove one of them")
        case str():
            yield from _string(value, schema, path)
        case int() if not isinstance(value, bool):
            low, high = schema.get("minimum"), schema.get("maximum")
            if (low is not None and value < low) or (high is not None and value > high):
                yield Flaw(path, f"{value} is out of range: {_range(low, high)}")


def _object(value: dict[str, Any], schema: Schema, path: Path) -> Iterator[Flaw]:
    properties: Mapping[str, Schema] | None = schema.get("properties")
    if properties is None:
        if (of_each := schema.get("additionalProperties")) is not None:
            yield from _bounds(len(value), schema, path, "Properties", "entries")
            for name, item in value.items():
                yield from _structure(item, of_each, (*path, name))
        return
    for name, item in value.items():
        if name not in properties:
            yield Flaw((*path, name), f"unknown field: {suggestion(name, list(properties))}")
        else:
            yield from _structure(item, properties[name], (*path, name))
    for name in schema.get("required", ()):
        if name not in value:
            yield Flaw((*path, name), f"missing: {properties[name].get('description', 'it is required')}")


def _string(value: str, schema: Schema, path: Path) -> Iterator[Flaw]:
    if "enum" in schema and value not in schema["enum"]:
        yield Flaw(path, f"{value!r} is not possible here: {suggestion(value, schema['enum'])}")
    yield from _bounds(len(value), schema, path, "Length", "characters")
    pattern: str | None = schema.get("pattern")
    if pattern is not None and not _matches(pattern, value):
        about = f" ({schema['description']})" if "description" in schema else ""
        yield Flaw(path, f"{_short(value)} does not match {pattern}{about}")


def _bounds(size: int, schema: Schema, path: Path, keyword: str, unit: str) -> Iterator[Flaw]:
    low, high = schema.get(f"min{keyword}"), schema.get(f"max{keyword}")
    if (low is not None and size < low) or (high is not None and size > high):
        yield Flaw(path, f"has {size} {unit}: {_range(low, high)}")


def _rules(value: Any, schema: Schema, path: Path) -> Iterator[Flaw]:
    for entry in schema.get("x-kubernetes-validations", ()):
        if "oldSelf" not in entry["rule"] and not _holds(entry["rule"], value):
            field = tuple(entry.get("fieldPath", "").removeprefix(".").split(".")) if "fieldPath" in entry else ()
            yield Flaw((*path, *field), entry["message"])
    if isinstance(value, dict):
        for name, each in schema.get("properties", {}).items():
            if name in value:
                yield from _rules(value[name], each, (*path, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _rules(item, schema["items"], (*path, index))


# sum() is of Kubernetes' list library. size() is CEL's own, and this one counts a text's bytes where the API server
# counts characters; a built-in cannot be replaced, so the rules call it by another name.
_FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {"sum": sum, "length": len}


@cache
def _program(rule: str) -> cel.Program:
    # `namespace` is a word of CEL's own, and escaped for Kubernetes; this one takes it as it is.
    return cel.compile(re.sub(r"\bsize\(", "length(", rule).replace("__namespace__", "namespace"))


def _holds(rule: str, value: Any) -> bool:
    context = cel.Context(variables={"self": value}, functions=_FUNCTIONS)
    try:
        return bool(_program(rule).execute(context))
    except (ValueError, TypeError, RuntimeError):
        # The API server refuses what a rule cannot be asked about.
        return False


def _matches(pattern: str, value: str) -> bool:
    # RE2's $ is the end of the text, Python's also matches before a final newline.
    if pattern.startswith("^") and pattern.endswith("$"):
        return re.fullmatch(pattern, value) is not None
    return re.search(pattern, value) is not None


def _wrong_type(value: Any, schema: Schema) -> str:
    wanted = schema["type"]
    if value is None:
        return "has no value: give it one or remove the line"
    if wanted == "string" and isinstance(value, bool | int | float):
        return f'must be text: write it in quotes, "{str(value).lower() if isinstance(value, bool) else value}"'
    if wanted == "integer" and isinstance(value, str) and value.lstrip("-").isdigit():
        return f"must be an integer: write {value} without quotes"
    found = {dict: "an object", list: "a list", str: "text", bool: "true or false"}.get(type(value), "a number")
    return f"must be {_ARTICLES.get(wanted, 'text')}, not {found}: {_remedy(value, schema)}"


def _remedy(value: Any, schema: Schema) -> str:
    wanted = schema["type"]
    match wanted:
        case "object":
            properties: Schema = schema.get("properties", {})
            names = [*schema.get("required", ()), *properties][: max(1, len(schema.get("required", ())))]
            members = ", ".join(f"{name}: …" for name in names) or "name: value"
            return f"write its members, {{{members}}}"
        case "array":
            return f"write [{_short(value)}]" if isinstance(value, str) else "write it with a dash before each entry"
        case "integer" if isinstance(value, float):
            return f"write {round(value)}"
        case "integer":
            return f"write a number {_range(schema.get('minimum'), schema.get('maximum'))}"
        case "boolean":
            return f"write {'true' if str(value).lower() in ('true', 'yes', 'on', '1') else 'false'} without quotes"
    return "write it in quotes, or as a block after |"


def _range(low: int | None, high: int | None) -> str:
    if low is None:
        return f"at most {high}"
    return f"at least {low}" if high is None else f"from {low} to {high}"


def _short(value: str) -> str:
    return repr(value if len(value) <= 40 else value[:37] + "…")
