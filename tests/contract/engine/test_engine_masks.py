"""The masks over a real vocabulary, looked at one by one: small models hide what a mask forbids them wrongly."""

import numpy as np
import pytest

from headrace_runner.engine.constraint import Constraint
from headrace_runner.engine.model import LoadedModel

pytestmark = pytest.mark.contract


def allowed(constraint: Constraint, model: LoadedModel) -> set[int]:
    logits = np.zeros(model.vocab_size, np.float32)
    assert constraint.apply(logits.ctypes.data)
    return set(np.flatnonzero(np.isfinite(logits)).tolist())


def test_every_end_token_may_end_a_document_and_none_may_before(model: LoadedModel) -> None:
    assert model.eog_tokens == {0, 2, 4}
    constraint = model.token_masks().compile('{"type": "integer"}')
    assert not allowed(constraint, model) & model.eog_tokens
    (digit,) = model.tokenize(["7"])
    assert not constraint.is_complete()
    assert not constraint.consume(digit)
    assert constraint.is_complete()
    assert model.eog_tokens <= allowed(constraint, model)
    assert digit in allowed(constraint, model)


def test_no_control_token_may_stand_in_a_string(model: LoadedModel) -> None:
    constraint = model.token_masks().compile('{"type": "string"}')
    (quote,) = model.tokenize(['"'])
    constraint.consume(quote)
    controls = {token for text in model.control_texts() for token in model.tokenize([text])}
    assert len(controls) == 17
    assert not allowed(constraint, model) & controls


def test_whitespace_is_compact(model: LoadedModel) -> None:
    constraint = model.token_masks().compile('{"x-guidance": {"whitespace_flexible": true}, "type": "object"}')
    for token in allowed(constraint, model):
        assert not model.piece(token)[:1].isspace()
