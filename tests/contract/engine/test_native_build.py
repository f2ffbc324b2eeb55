"""How hack/native-wheel built llama.cpp."""

import ctypes
import subprocess
import sys
from pathlib import Path

import llama_cpp.llama_cpp as llama
import numpy as np
import pytest
from numpy.typing import NDArray

from headrace_runner.engine.batch import TokenBatch
from headrace_runner.engine.model import LoadedModel
from headrace_runner.engine.settings import EngineSettings

pytestmark = pytest.mark.contract

SENTENCE = "The quick brown fox jumps over the lazy dog. The capital of France is Paris, and the capital of Italy is"
MOST_APART = 2.5
"""Over 400 tokens of prose the kernels are at most 2.2 apart, as far as one token a step and 32 are from each other,
and the text's negative log-likelihood is 2.929 with either."""


def test_llama_cpp_computes_without_openmp() -> None:
    """Decision 0010: with it a second thread that computes slows every token down, and the engine has two."""
    code = """
import llama_cpp
with open("/proc/self/maps") as maps:
    mapped = maps.read()
print("libgomp" in mapped, "libggml-cpu" in mapped)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def logits(model: Path, *, plain: bool) -> tuple[NDArray[np.float32], dict[str, int]]:
    """After a sentence, and the buffers that the weights are in."""
    settings = EngineSettings(model, context_tokens=128, plain_kernels_because="compared" if plain else "")
    loaded = LoadedModel(str(model), settings, lambda _: None)
    tokens = loaded.tokenize([SENTENCE])
    batch = TokenBatch(len(tokens))
    row = batch.add(tokens, 0, 0, wants_logits=True)
    assert llama.llama_decode(loaded.context, batch.native) == 0
    pointer = ctypes.cast(llama.llama_get_logits_ith(loaded.context, row), ctypes.POINTER(ctypes.c_float))
    found = np.ctypeslib.as_array(pointer, shape=(loaded.vocab_size,)).copy()
    return found, loaded.buffers()


def test_the_kernels_of_this_cpu_compute_what_the_plain_ones_do(model_path: Path) -> None:
    """On a CPU with AMX the weights lie in its buffers: a build whose compiler drops the tiles' shape dies here."""
    fast, buffers = logits(model_path, plain=False)
    plain, none = logits(model_path, plain=True)
    has_amx = {"amx_int8", "avx512_vnni"} <= set(Path("/proc/cpuinfo").read_text().split())
    assert ("AMX" in buffers, "AMX" in none) == (has_amx, False)
    apart = np.abs(fast - plain)
    assert float(apart.max()) < MOST_APART
    assert int(fast.argmax()) == int(plain.argmax())
