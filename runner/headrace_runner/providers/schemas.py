"""A task's JSON Schema in the dialect that a provider enforces. Pure; reads what tenants wrote, so its work is bounded.

Providers enforce subsets of JSON Schema, and refuse a request whose schema is outside. The rules of the conversion, the
first that applies:

1. *Every document of the converted schema should be one of the original.* An object that says nothing of further
   properties is closed, an optional property becomes required where the dialect knows no optional ones, ``oneOf`` with
   branches that exclude each other becomes ``anyOf``: fewer documents, each of them valid. An optional property never
   becomes a union with null, since null is invalid where the original has no null.
2. *What a document may say must stay sayable.* Where the dialect has no words for a part at all (free-form objects,
   maps without named properties, a value of any type, recursion in Anthropic's), leaving it out would take data away
   that the task asked for. Then there is no conversion (``schema`` is None), and the provider asks in another way.
3. *The rest is dropped and told.* Bounds, patterns, formats and conditions that the dialect has not, and the further
   properties of an object that allows them beside named ones, are in ``dropped``, and ``whole`` is false; simple
   ones are told to the model in the description. The runner judges every document by the original in any case.

Sources: the pages "Structured outputs" of both providers' documentation, and what their SDKs send.
"""

import json
import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NoReturn

from headrace_runner.providers.schema_limits import within_limits
from headrace_runner.providers.schema_nodes import Node, Part, Resolver, flatten
from headrace_runner.providers.schema_types import (
    Dropped,
    Inexpressible,
    Keywords,
    NothingValid,
    converted_scalar,
    literals,
    types_of,
)

SCHEMA_LIMIT_BYTES: Final = 64 * 1024
DEPTH_LIMIT: Final = 64
NODE_LIMIT: Final = 8192
"""Converted schemas, and those that each is put together from: intersections of unions multiply."""


class Dialect(StrEnum):
    """Whose subset: OpenAI's ``strict`` schemas, Anthropic's ``output_config.format`` and strict tools."""

    OPENAI_STRICT = "OpenAIStrict"
    ANTHROPIC = "Anthropic"


@dataclass(frozen=True, slots=True)
class Converted:
    """``schema`` is what to send, its properties in the original's order; None where it cannot be said.

    ``dropped`` has JSON Pointers into the original of keywords that are dropped or weakened. ``whole``: every document
    that the provider lets pass is valid by the original, and nothing that the original allows on purpose is lost.
    """

    schema: dict[str, Any] | None
    dropped: tuple[str, ...]
    whole: bool


@dataclass(frozen=True, slots=True)
class _Rules:
    keywords: Keywords
    recursion: bool
    optional: bool
    any_root: bool


_FORMATS: Final = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})
_BOUNDS: Final = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
_RULES: Final = {
    Dialect.OPENAI_STRICT: _Rules(
        Keywords(_BOUNDS | {"minItems", "maxItems", "pattern"}, _FORMATS, min_items_limit=None),
        recursion=True,
        optional=False,
        any_root=False,
    ),
    Dialect.ANTHROPIC: _Rules(
        Keywords(frozenset({"minItems", "pattern"}), _FORMATS | {"uri"}, min_items_limit=1),
        recursion=False,
        optional=True,
        any_root=True,
    ),
}


def down_convert(schema_text: str, dialect: Dialect) -> Converted:
    """Give the schema (JSON text) in the dialect. Never raises: what cannot be read or said has None as ``schema``."""
    none = Converted(None, (), False)
    try:
        if len(schema_text.encode()) > SCHEMA_LIMIT_BYTES:
            return none
        original = json.loads(schema_text, parse_constant=_refuse_constant, parse_float=_finite)
        # Half a surrogate pair, which JSON can escape, cannot be sent as UTF-8.
        json.dumps(original, ensure_ascii=False).encode()
        if not isinstance(original, dict):
            return none
        conversion = _Conversion(Resolver(original), _RULES[dialect])
        schema = conversion.root()
    except (ValueError, RecursionError, Inexpressible, NothingValid):
        return none
    if not within_limits(schema, strict_objects=dialect is Dialect.OPENAI_STRICT):
        return none
    dropped = tuple(conversion.dropped.pointers)
    return Converted(schema, dropped, not dropped)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is too large")
    return number


@dataclass
class _Conversion:
    resolver: Resolver
    rules: _Rules
    dropped: Dropped = field(default_factory=Dropped)
    names: dict[str, str] = field(default_factory=dict)
    """Of definitions, by the pointer that refers to them."""
    definitions: dict[str, Any] = field(default_factory=dict)
    under_way: set[str] = field(default_factory=set)
    nodes: int = 0

    def root(self) -> dict[str, Any]:
        self.under_way.add("")
        schema = self.convert([Part(self.resolver.root, "")], 0, root=True)
        if not self.rules.any_root and schema.get("type") != "object":
            raise Inexpressible
        if self.definitions:
            schema["$defs"] = self.definitions
        return schema

    def convert(self, parts: list[Part], depth: int, *, root: bool = False) -> dict[str, Any]:
        """What is valid by every one of the parts. Raises Inexpressible, and NothingValid where no document is."""
        self.nodes += len(parts)
        if depth > DEPTH_LIMIT or self.nodes > NODE_LIMIT:
            raise Inexpressible
        if not root and len(parts) == 1 and parts[0].is_reference():
            return self._reference(parts[0], depth)
        flat = flatten(parts, self.resolver)
        self.nodes += len(flat)
        for at, part in enumerate(flat):
            for keyword in ("anyOf", "oneOf"):
                if isinstance(part.schema, dict) and keyword in part.schema:
                    others = [*flat[:at], part.without(keyword), *flat[at + 1 :]]
                    return self._union(part, keyword, others, depth, root=root)
        return self._typed(Node(flat, self.dropped), depth)

    def _reference(self, part: Part, depth: int) -> dict[str, Any]:
        pointer, target = self.resolver.resolve(part.schema["$ref"])
        if pointer in self.under_way and not self.rules.recursion:
            raise Inexpressible
        if pointer == "":
            return {"$ref": "#"}
        if pointer not in self.names:
            name = self.names[pointer] = _name(pointer, self.definitions)
            self.definitions[name] = {}
            self.under_way.add(pointer)
            try:
                self.definitions[name] = self.convert([Part(target, pointer)], depth + 1)
            except NothingValid as error:
                raise Inexpressible from error
            self.under_way.discard(pointer)
        return {"$ref": f"#/$defs/{self.names[pointer]}"}

    def _union(self, part: Part, keyword: str, others: list[Part], depth: int, *, root: bool) -> dict[str, Any]:
        branches = part.schema[keyword]
        if not isinstance(branches, list):
            raise Inexpressible
        kept: dict[str, dict[str, Any]] = {}
        met = [other for other in others if other.asserts()]
        for number, branch in enumerate(branches):
            try:
                converted = self.convert(
                    [*met, Part(branch, f"{part.pointer}/{keyword}/{number}")], depth + 1, root=root
                )
            except NothingValid:
                continue
            kept.setdefault(json.dumps(converted), converted)
        if not kept:
            raise NothingValid
        if keyword == "oneOf" and not self.resolver.exclusive(branches):
            self.dropped.add(f"{part.pointer}/oneOf")
        if len(kept) == 1:
            return next(iter(kept.values()))
        union: dict[str, Any] = {"anyOf": [inner for one in kept.values() for inner in one.get("anyOf", [one])]}
        if isinstance(description := part.schema.get("description"), str):
            union["description"] = description
        return union

    def _typed(self, node: Node, depth: int) -> dict[str, Any]:
        types = types_of(node)
        allowed = node.literals()
        if allowed is not None:
            variants = literals(node, allowed, types, self.dropped)
        elif types is None:
            raise Inexpressible
        else:
            node.drop_conditions()
            variants = []
            for name in types:
                try:
                    variants.append(self._of_type(node, name, depth))
                except NothingValid:
                    if len(types) == 1:
                        raise
        if not variants:
            raise NothingValid
        return node.annotated(variants[0] if len(variants) == 1 else {"anyOf": variants})

    def _of_type(self, node: Node, name: str, depth: int) -> dict[str, Any]:
        if name == "object":
            return self._object(node, depth)
        if name == "array":
            return self._array(node, depth)
        return converted_scalar(node, name, self.rules.keywords)

    def _object(self, node: Node, depth: int) -> dict[str, Any]:
        properties, required = node.properties(), node.required()
        # Without names there is nothing to say but {}; only a schema that means just that is served by it.
        if not properties and not node.is_closed():
            raise Inexpressible
        kept: dict[str, Any] = {}
        for name, parts in properties.items():
            try:
                kept[name] = self.convert(parts, depth + 1)
            except NothingValid:
                if name in required:
                    raise
        for name in required:
            if name not in kept:
                # Of any type where the object is open, and impossible where it is closed.
                raise NothingValid if node.is_closed() else Inexpressible
        must = [name for name in kept if name in required] if self.rules.optional else list(kept)
        at_most = node.number("maxProperties")
        if at_most is not None and len(must) > at_most:
            # All would be given, and no document be valid.
            raise Inexpressible
        node.drop_of_object(least=len(must), most=len(kept))
        return {"type": "object", "properties": kept, "required": must, "additionalProperties": False}

    def _array(self, node: Node, depth: int) -> dict[str, Any]:
        bounds = converted_scalar(node, "array", self.rules.keywords)
        kinds = [[part] for part in node.tuples()]
        if items := node.items():
            kinds.append(items)
        if not kinds:
            raise Inexpressible  # items of any type
        try:
            converted = [self.convert(parts, depth + 1) for parts in kinds]
        except NothingValid as error:
            raise Inexpressible from error  # an empty array is valid all the same
        different = list({json.dumps(kind): kind for kind in converted}.values())
        return {**bounds, "items": different[0] if len(different) == 1 else {"anyOf": different}}


def _name(pointer: str, taken: dict[str, Any]) -> str:
    last = pointer.rsplit("/", 1)[-1]
    name = last if last.isascii() and last.replace("_", "").replace("-", "").isalnum() else f"part{len(taken)}"
    while name in taken:
        name = f"{name}_{len(taken)}"
    return name
