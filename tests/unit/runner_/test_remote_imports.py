"""What a remote model's runner does not carry: engines, numbers, and the SDKs of other providers."""

import subprocess
import sys

import pytest

HEAVY = ("anthropic", "llama_cpp", "numpy", "openai")
CODE = """
import sys, httpx2
import headrace_runner.main, headrace_runner.remote.gate, headrace_runner.remote.making
from headrace_crds.remote import Remote
from headrace_runner.providers import registry
from headrace_runner.providers.protocol import Setting
spec = {"provider": sys.argv[1], "model": "m", "baseURL": "https://llm.example.com"}
spec |= {"credentials": {"secretKeyRef": {"name": "s", "key": "k"}}}
if sys.argv[1] == "HTTP":
    spec["http"] = {"body": '["{{prompt}}"]', "response": {"text": "/t"}}
    spec["http"]["headers"] = [{"name": "Key", "value": "{{credential}}"}]
remote = Remote.model_validate(spec)
registry.find(remote.provider)(Setting(remote, httpx2.AsyncClient(), lambda: "k"))
print(*[name for name in sys.argv[2:] if name in sys.modules])
"""


@pytest.mark.parametrize(
    ("provider", "its_own"), [("OpenAI", "openai"), ("Anthropic", "anthropic"), ("OpenAICompatible", ""), ("HTTP", "")]
)
def test_a_runner_imports_its_own_providers_sdk_alone(provider: str, its_own: str) -> None:
    done = subprocess.run([sys.executable, "-c", CODE, provider, *HEAVY], capture_output=True, text=True, check=True)
    assert done.stdout.split() == its_own.split()
