"""Hostile grammars over a vocabulary of bytes: refused for good, with no second try, and never slow for ever."""

import json
import sys
from typing import Any

import llguidance
import numpy as np
import pytest

from headrace_runner.engine import filling
from headrace_runner.engine.constraint import Constraint
from headrace_runner.engine.filling import MAX_MASK_SECONDS, SECONDS_A_TOKEN, MaskTime
from headrace_runner.engine.grammars import TokenMasks
from headrace_runner.engine.protocol import Generate, Refusal
from headrace_runner.engine.vocabulary import Vocabulary

AMBIGUOUS = 'root ::= root root | root root root | "a"'
# More than llguidance's own limit on the work of one token lets such a grammar draw.
TOKENS = 300


@pytest.fixture(scope="module")
def masks() -> TokenMasks:
    tokenizer = llguidance.LLTokenizer("byte")
    controls = [b"\xff<control>"] * (tokenizer.vocab_size - 256)
    pieces = [*(bytes([byte]) for byte in range(256)), *controls]
    return TokenMasks(Vocabulary(tokenizer, pieces, [tokenizer.eos_token]))


def draw(constraint: Constraint, letter: str, tokens: int) -> None:
    for _ in range(tokens):
        constraint.prepare()
        logits = np.zeros(512, np.float32)
        assert constraint.apply(logits.ctypes.data)
        constraint.consume(ord(letter))


def test_an_ambiguous_grammar_ends_its_task(masks: TokenMasks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filling, "MAX_MASK_SECONDS", MAX_MASK_SECONDS / 20)
    first = masks.constraint(Generate("1", prompt="x", grammar=AMBIGUOUS))
    other = first.fork()
    with pytest.raises(Refusal, match="CPU time") as refused:
        draw(first, "a", TOKENS)
    assert (refused.value.reason, refused.value.retryable) == ("UnsupportedSchema", False)
    with pytest.raises(Refusal, match="CPU time"):
        draw(other, "a", 1)
    draw(masks.constraint(Generate("2", prompt="x", grammar=AMBIGUOUS)), "a", 1)


def test_a_long_text_is_not_refused(masks: TokenMasks) -> None:
    constraint = masks.constraint(Generate("1", prompt="x", regex="[a-c]*"))
    constraint.begin(4000)
    draw(constraint, "a", 2000)


def test_a_lexer_that_earlier_tasks_have_used_up_refuses_no_later_one(masks: TokenMasks) -> None:
    # Each of its characters takes about nine of the 20,000 states that a lexer may have.
    request = Generate("1", prompt="x", json_schema=json.dumps({"type": "string", "minLength": 15_000}))
    first = masks.constraint(request)
    draw(first, '"', 1)
    draw(first, "x", 2500)
    other = first.fork()
    second = masks.constraint(request)
    draw(second, '"', 1)
    draw(second, "x", 2500)
    draw(other, "x", 500)


def test_time_is_of_the_task_and_grows_with_its_tokens() -> None:
    time = MaskTime()
    time.spend(MAX_MASK_SECONDS - SECONDS_A_TOKEN / 2)
    assert not time.is_over
    time.spend(SECONDS_A_TOKEN)
    assert time.is_over
    time.earn()
    assert not time.is_over


@pytest.mark.parametrize(
    "schema",
    [
        {"oneOf": [{"required": [["a"]]}, {"required": ["b"]}]},
        {"oneOf": [{"required": 3}, {"required": ["b"]}]},
        {"not": {"required": ["a"]}, "required": 3, "uniqueItems": True},
    ],
    ids=json.dumps,
)
def test_what_is_no_schema_is_refused_for_good(masks: TokenMasks, schema: Any) -> None:
    with pytest.raises(Refusal) as refused:
        masks.constraint(Generate("1", prompt="x", json_schema=json.dumps(schema), narrow=True))
    assert (refused.value.reason, refused.value.retryable) == ("UnsupportedSchema", False)


def test_a_deep_schema_compiles_or_is_refused_for_good(masks: TokenMasks) -> None:
    outcomes = set()
    # Around the depth that Python reads, but does not write once it is narrowed, which wraps what is contained.
    for depth in range(sys.getrecursionlimit() - 300, sys.getrecursionlimit()):
        deep = "[" * depth + "]" * depth
        text = '{"contains": ' * 30 + f'{{"default": {deep}}}' + "}" * 30
        try:
            masks.constraint(Generate("1", prompt="x", json_schema=text, narrow=True))
        except Refusal as refusal:
            outcomes.add((refusal.reason, refusal.retryable))
    assert outcomes == {("UnsupportedSchema", False), ("InvalidSchema", False)}
