"""Shapes made to exhaust: each is refused or bounded, and none makes the engine grow."""

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace_runner.engine.grammars import MAX_CACHED, TokenMasks
from headrace_runner.engine.model import LoadedModel
from headrace_runner.engine.protocol import Generate, Refusal

pytestmark = pytest.mark.contract

MOST_GROWTH_MIB = 96
STEPS = 40


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def doubling(depth: int) -> dict[str, Any]:
    definitions: dict[str, Any] = {"a0": {"type": "string"}}
    for level in range(1, depth):
        definitions[f"a{level}"] = {"prefixItems": [{"$ref": f"#/$defs/a{level - 1}"}] * 2, "type": "array"}
    return {"$ref": f"#/$defs/a{depth - 1}", "$defs": definitions}


def crossing(sides: int, faces: int) -> dict[str, Any]:
    return {
        "allOf": [
            {"anyOf": [{"properties": {f"a{side}{face}": {"type": "integer"}}} for face in range(faces)]}
            for side in range(sides)
        ]
    }


HOSTILE: dict[str, dict[str, Any]] = {
    "a long least length": {"json_schema": {"type": "string", "minLength": 10**6}},
    "a long least list": {"json_schema": {"type": "array", "minItems": 10**6, "items": {"type": "integer"}}},
    "states": {"json_schema": {"type": "string", "pattern": ".*a.{1000}$"}},
    "counts of counts": {"json_schema": {"type": "string", "pattern": "^((a{1,1000}){1,1000}){1,1000}$"}},
    "depth": {"json_schema": nested(100)},
    "doubling": {"json_schema": doubling(30)},
    "crossing": {"json_schema": crossing(12, 8)},
    "itself": {"json_schema": {"$ref": "#"}},
    "words": {"regex": "(\\w+ ){1000}"},
    "many stars": {"regex": "(.*a){40}.*"},
    "left recursion": {"grammar": 'root ::= root "a" | "b"'},
    "nothing again and again": {"grammar": 'root ::= a\na ::= a | b | ""\nb ::= a*'},
    "a long ring": {
        "grammar": "root ::= r0\n" + "\n".join(f'r{n} ::= "x" r{(n + 1) % 500} | [a-z]+' for n in range(500))
    },
}


@pytest.fixture(scope="module")
def masks(model: LoadedModel) -> TokenMasks:
    return model.token_masks()


def memory_mib() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096 // 2**20


def request(shape: dict[str, Any]) -> Generate:
    given = {name: value if isinstance(value, str) else json.dumps(value) for name, value in shape.items()}
    return Generate("1", prompt="x", **given)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_shape_is_refused_or_bounded(masks: TokenMasks, model: LoadedModel, name: str) -> None:
    before = memory_mib()
    with contextlib.suppress(Refusal):
        constraint = masks.constraint(request(HOSTILE[name]))
        constraint.begin(STEPS)
        random = np.random.default_rng(1)
        for _ in range(STEPS):
            constraint.prepare()
            logits = np.zeros(model.vocab_size, np.float32)
            if not constraint.apply(logits.ctypes.data):
                break
            token = int(random.choice(np.flatnonzero(np.isfinite(logits))))
            if token in model.eog_tokens or constraint.consume(token):
                break
    assert memory_mib() - before < MOST_GROWTH_MIB


def test_many_shapes_do_not_pile_up(masks: TokenMasks) -> None:
    for number in range(MAX_CACHED):
        masks.constraint(request({"regex": f"[a-c]{{{number + 1}}}"}))
    before = memory_mib()
    for number in range(4 * MAX_CACHED):
        masks.constraint(request({"regex": f"[d-f]{{{number + 1}}}"}))
    assert memory_mib() - before < MOST_GROWTH_MIB
