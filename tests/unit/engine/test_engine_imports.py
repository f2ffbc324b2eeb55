"""Which process imports what: no model code beside the runner's token, none in PID 1."""

import subprocess
import sys

import pytest

NATIVE = ("numpy", "llama_cpp", "llguidance", "jinja2")


@pytest.mark.parametrize("module", ["protocol", "client", "supervisor"])
def test_model_code_stays_in_the_child(module: str) -> None:
    code = f"import sys, headrace_runner.engine.{module}; print([n for n in {NATIVE} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_supervisor_starts_without_asyncio() -> None:
    code = "import sys, headrace_runner.engine.supervisor; print('asyncio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
