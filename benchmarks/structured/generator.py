"""Schemas made by chance from a seed. Every one can be satisfied: keywords are only combined where that is so."""

import random
from collections.abc import Callable
from typing import Any, Final

Schema = dict[str, Any]
_WORDS: Final = (
    "name",
    "title",
    "kind",
    "status",
    "amount",
    "items",
    "owner",
    "created",
    "tags",
    "note",
    "code",
    "size",
)
_PATTERNS: Final = (
    *(
        "^[a-z]+$",
        "^[A-Z]{2,3}-[0-9]{2,4}$",
        "^#[0-9a-f]{6}$",
        "^[^@ ]+@[^@ ]+\\.[a-z]{2,3}$",
        "^v[0-9]+(\\.[0-9]+){2}$",
    ),
    *("^(GET|PUT) /[a-z/]*$", "[0-9]", "^[a-z]+(, [a-z]+)*$"),
)
_FORMATS: Final = ("date", "date-time", "email", "uuid", "ipv4", "uri", "hostname", "time")


class Generator:
    """``schema()`` gives the next one."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def schema(self) -> Schema:
        """An object or list at the top, a few levels deep."""
        schema = self._object(3) if self._random.random() < 0.85 else self._list(3)
        if self._random.random() < 0.15:
            return {"$schema": "https://json-schema.org/draft/2020-12/schema", **self._tree()}
        return schema

    def _any(self, depth: int) -> Schema:
        kinds: list[Callable[[int], Schema]] = [self._string] * 4 + [self._number] * 2 + [self._other]
        if depth > 0:
            kinds += [self._object, self._list, self._alternatives]
        return self._random.choice(kinds)(depth)

    def _string(self, _depth: int) -> Schema:
        draw = self._random
        match draw.randrange(7):
            case 0:
                return {"type": "string", "pattern": draw.choice(_PATTERNS)}
            case 1:
                return {"type": "string", "format": draw.choice(_FORMATS)}
            case 2:
                return {"enum": draw.sample(_WORDS, draw.randint(1, 6))}
            case 3:
                least = draw.choice((0, 1, 5, 40))
                return {"type": "string", "minLength": least, "maxLength": least + draw.choice((0, 3, 30, 300))}
        return {"type": "string", "description": draw.choice(_WORDS)}

    def _number(self, _depth: int) -> Schema:
        draw = self._random
        schema: Schema = {"type": draw.choice(("integer", "number"))}
        least = draw.randint(-1000, 1000)
        if draw.random() < 0.5:
            schema["minimum"] = least
        if draw.random() < 0.5:
            schema["maximum"] = least + draw.randint(1, 10_000)
        if schema["type"] == "integer" and draw.random() < 0.2:
            return {"type": "integer", "multipleOf": draw.choice((2, 5, 10, 25))}
        return schema

    def _other(self, _depth: int) -> Schema:
        return self._random.choice(({"type": "boolean"}, {"type": ["string", "null"]}, {"const": "fixed"}, {}))

    def _object(self, depth: int) -> Schema:
        draw = self._random
        names = draw.sample(_WORDS, draw.randint(1, 8))
        schema: Schema = {"type": "object", "properties": {name: self._any(depth - 1) for name in names}}
        schema["required"] = draw.sample(names, draw.randint(0, len(names)))
        if draw.random() < 0.5:
            schema["additionalProperties"] = draw.choice((False, False, {"type": "integer"}))
        if draw.random() < 0.1:
            schema["minProperties"] = draw.randint(1, len(names))
        if draw.random() < 0.1 and len(names) > 1:
            schema["dependentRequired"] = {names[0]: [names[1]]}
        return schema

    def _list(self, depth: int) -> Schema:
        draw = self._random
        schema: Schema = {"type": "array", "items": self._any(depth - 1)}
        least = draw.choice((0, 0, 1, 3))
        if draw.random() < 0.5:
            schema["minItems"] = least
        if draw.random() < 0.3:
            schema["maxItems"] = least + draw.randint(0, 8)
        if draw.random() < 0.15 and least <= 1:
            schema["uniqueItems"] = True
        return schema

    def _alternatives(self, depth: int) -> Schema:
        draw = self._random
        if draw.random() < 0.5:
            return {"anyOf": [self._any(depth - 1) for _ in range(draw.randint(2, 3))]}
        kinds = draw.sample(_WORDS, 2)
        branches = []
        for kind in kinds:
            branch = self._object(depth - 1)
            branch["properties"]["type"] = {"const": kind}
            branches.append({**branch, "required": ["type", *branch["required"]]})
        return {"oneOf": branches}

    def _tree(self) -> Schema:
        leaf = self._object(1)
        leaf["properties"]["children"] = {"type": "array", "items": {"$ref": "#/$defs/node"}}
        return {"$ref": "#/$defs/node", "$defs": {"node": leaf}}
