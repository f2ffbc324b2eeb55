"""Logits masks: the fast kernel does what llguidance's own does, for every vocabulary length."""

import llguidance.numpy
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_runner.engine.constraint import mask_logits


@given(st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_the_kernel_agrees_with_llguidance(vocab_size: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    bits = random.integers(-(2**31), 2**31, size=(1, (vocab_size + 31) // 32), dtype=np.int64).astype(np.int32)
    logits = random.normal(size=vocab_size).astype(np.float32)
    expected = logits.copy()[np.newaxis, :]
    llguidance.numpy.apply_token_bitmask_inplace_kernel(expected, bits)
    mask_logits(logits.ctypes.data, bits[0], vocab_size)
    assert np.array_equal(logits, expected[0])


@pytest.mark.parametrize(("word", "kept"), [(0, 0), (-1, 32)])
def test_nothing_and_everything(word: int, kept: int) -> None:
    logits = np.zeros(32, np.float32)
    mask_logits(logits.ctypes.data, np.array([word], np.int32), 32)
    assert np.isfinite(logits).sum() == kept
