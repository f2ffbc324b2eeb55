"""The masks over a real vocabulary, looked at one by one: small models hide what a mask forbids them wrongly."""

import json
import re
from dataclasses import replace
from functools import lru_cache
from typing import Any

import jsonschema_rs
import numpy as np
import pytest

from headrace_runner.engine.constraint import Constraint
from headrace_runner.engine.grammars import TokenMasks
from headrace_runner.engine.model import LoadedModel
from headrace_runner.engine.protocol import Generate, Refusal

pytestmark = pytest.mark.contract


def schema(model: LoadedModel, text: str) -> Constraint:
    return token_masks(model).constraint(Generate("1", prompt="x", json_schema=text))


@lru_cache
def token_masks(model: LoadedModel) -> TokenMasks:
    return model.token_masks()


@lru_cache
def saying(model: LoadedModel, text: str) -> np.ndarray[Any, Any]:
    """Which tokens have the text in them."""
    return np.array([text.encode() in model.piece(token) for token in range(model.vocab_size)])


def schema_request(value: dict[str, Any]) -> Generate:
    return Generate("1", prompt="x", json_schema=json.dumps(value))


def allowed(constraint: Constraint, model: LoadedModel) -> set[int]:
    logits = np.zeros(model.vocab_size, np.float32)
    assert constraint.apply(logits.ctypes.data)
    return set(np.flatnonzero(np.isfinite(logits)).tolist())


def test_every_end_token_may_end_a_document_and_none_may_before(model: LoadedModel) -> None:
    assert model.eog_tokens == {0, 2, 4}
    constraint = schema(model, '{"type": "integer"}')
    assert not allowed(constraint, model) & model.eog_tokens
    (digit,) = model.tokenize(["7"])
    assert not constraint.is_complete()
    assert not constraint.consume(digit)
    assert constraint.is_complete()
    assert model.eog_tokens <= allowed(constraint, model)
    assert digit in allowed(constraint, model)


def test_no_control_token_may_stand_in_a_string(model: LoadedModel) -> None:
    constraint = schema(model, '{"type": "string"}')
    (quote,) = model.tokenize(['"'])
    constraint.consume(quote)
    controls = {token for text in model.control_texts() for token in model.tokenize([text])}
    assert len(controls) == 17
    assert not allowed(constraint, model) & controls


def test_whitespace_is_compact(model: LoadedModel) -> None:
    constraint = schema(model, '{"x-guidance": {"whitespace_flexible": true}, "type": "object"}')
    for token in allowed(constraint, model):
        assert not model.piece(token)[:1].isspace()


def documents(model: LoadedModel, request: Generate, tokens: int, rule: str) -> tuple[str, str, bool]:
    """Text, finish reason and whether it is whole, drawn with ``rule`` in place of a model's wishes."""
    constraint = token_masks(model).constraint(request)
    constraint.begin(tokens)
    random = np.random.default_rng(7)
    text = b""
    for _ in range(tokens):
        constraint.prepare()
        logits = np.zeros(model.vocab_size, np.float32)
        assert constraint.apply(logits.ctypes.data)
        allowed = np.isfinite(logits)
        wished = allowed if rule == "any" else allowed & saying(model, rule)
        token = int(random.choice(np.flatnonzero(wished if wished.any() else allowed)))
        if token in model.eog_tokens:
            break
        text += model.piece(token)
        if constraint.consume(token):
            break
    return text.decode("utf-8", "replace"), constraint.finish_reason, constraint.is_complete()


ENDLESS = {
    "strings": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}, "required": ["a"]},
    "lists": {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
    "depth": {"$ref": "#/$defs/n", "$defs": {"n": {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}}}},
    "names": {"type": "object", "additionalProperties": {"type": "number"}},
    "numbers": {"type": "array", "items": {"type": "number"}, "minItems": 3},
    "needs": {
        "type": "array",
        "items": {
            "type": "object",
            "properties": {k: {"type": "string"} for k in "abcdefgh"},
            "required": [*"abcdefgh"],
        },
    },
}


@pytest.mark.parametrize("rule", ["any", "a", "[", "{", "3", ","])
@pytest.mark.parametrize("name", ENDLESS)
def test_a_document_ends_within_its_tokens_whatever_a_model_wishes(model: LoadedModel, name: str, rule: str) -> None:
    text, finish_reason, whole = documents(model, schema_request(ENDLESS[name]), 400, rule)
    assert whole
    assert jsonschema_rs.is_valid(ENDLESS[name], json.loads(text))
    assert finish_reason in ("Stop", "Length")


def test_the_budget_says_that_it_ended_a_document(model: LoadedModel) -> None:
    text, finish_reason, whole = documents(model, schema_request({"type": "string"}), 60, "a")
    assert (finish_reason, whole) == ("Length", True)
    assert len(json.loads(text)) > 40


@pytest.mark.parametrize(
    "request_",
    [
        Generate("1", prompt="x", choice=("yes", "no\n", 'say "so"')),
        Generate("1", prompt="x", regex="[a-c]{2,4}-[0-9]+"),
        Generate("1", prompt="x", grammar='root ::= item item\nitem ::= "- " [a-z]+ "\\n"'),
    ],
    ids=["choice", "regex", "grammar"],
)
def test_other_shapes_are_masked_too(model: LoadedModel, request_: Generate) -> None:
    text, _, whole = documents(model, request_, 60, "any")
    assert whole
    if request_.choice:
        assert text in request_.choice
    elif request_.regex:
        assert re.fullmatch(request_.regex, text)
    else:
        assert re.fullmatch("(- [a-z]+\n){2}", text)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ({"regex": "a(?!b)"}, "look-around"),
        ({"regex": "("}, "output.regex"),
        ({"grammar": "root = 3"}, "output.grammar"),
        ({"grammar": "root ::= nothing"}, "output.grammar"),
    ],
)
def test_what_cannot_be_compiled_is_refused(model: LoadedModel, shape: dict[str, str], words: str) -> None:
    masks = token_masks(model)
    for _ in range(2):  # the second time from the cache
        with pytest.raises(Refusal, match=words) as refused:
            masks.constraint(Generate("1", prompt="x", **shape))
        assert refused.value.reason == "InvalidSchema"


def test_what_no_mask_can_express_is_told_and_narrowed_when_it_is_asked_again(model: LoadedModel) -> None:
    unique = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
    masks = token_masks(model)
    request = schema_request(unique)
    assert masks.constraint(request).enforcement == "ValidatedOnly"
    assert masks.constraint(replace(request, narrow=True)).enforcement == "Grammar"
    text, _, _ = documents(model, replace(request, narrow=True), 100, ",")
    assert jsonschema_rs.is_valid(unique, json.loads(text))
