"""How hack/native-wheel built llama.cpp."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.contract


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
