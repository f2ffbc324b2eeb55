"""The samples of remote models are right by what can be judged without a cluster, and a provider starts with them."""

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from headrace_crds.manifest import check
from headrace_crds.model import LLMModel
from headrace_crds.remote import HttpStyle
from headrace_runner.engine.protocol import Generate, Message, Parameters
from headrace_runner.providers.http_api import create
from headrace_runner.providers.http_request import RequestTemplate
from headrace_runner.providers.protocol import Setting

SAMPLES = Path(__file__).parents[3] / "config/samples"
MODELS = sorted(SAMPLES.glob("model-remote-*.yaml"))
INVALID = sorted((SAMPLES / "invalid").glob("model-remote-*.yaml"))


def remote_of(sample: Path) -> Any:
    (model,) = (each.object for each in check([(sample.name, sample.read_text())]).manifests)
    assert isinstance(model, LLMModel)
    assert model.spec.remote is not None
    return model.spec.remote


def setting_of(name: str) -> Setting:
    # The client is never asked: these tests send nothing.
    return Setting(remote_of(SAMPLES / name), httpx2.AsyncClient(), lambda: "key")


@pytest.mark.parametrize("sample", [*MODELS, SAMPLES / "task-remote.yaml"], ids=lambda path: path.stem)
def test_a_sample_is_valid(sample: Path) -> None:
    checked = check([(sample.name, sample.read_text())])
    assert checked.problems == []
    assert checked.manifests


@pytest.mark.parametrize("sample", INVALID, ids=lambda path: path.stem)
def test_an_invalid_sample_has_one_mistake_and_names_it(sample: Path) -> None:
    text = sample.read_text()
    (problem,) = check([(sample.name, text)]).problems
    expected = text.splitlines()[0].removeprefix("# expect: ")
    # A pattern is judged in words of the API server's: there the field alone is the same.
    assert expected in problem.message or expected.startswith(f"{problem.field} in body should match")


def test_every_provider_has_a_sample_and_every_model_a_task() -> None:
    remotes = [remote_of(sample) for sample in MODELS]
    assert {remote.provider for remote in remotes} == {"OpenAI", "Anthropic", "OpenAICompatible", "HTTP"}
    assert {remote.http.style for remote in remotes if remote.http} == {HttpStyle.STREAM, HttpStyle.POLL}
    tasks = [each.object for each in check([("t", (SAMPLES / "task-remote.yaml").read_text())]).manifests]
    models = {
        body["metadata"]["name"]
        for s in MODELS
        for body in yaml.safe_load_all(s.read_text())
        if body["kind"] == "LLMModel"
    }
    assert {task.spec.model_ref.name for task in tasks} == models


@pytest.mark.parametrize("sample", MODELS, ids=lambda path: path.stem)
def test_a_key_has_a_secret_that_says_where_it_may_go(sample: Path) -> None:
    remote = remote_of(sample)
    secrets = [body for body in yaml.safe_load_all(sample.read_text()) if body["kind"] == "Secret"]
    if remote.credentials is None:
        assert secrets == []
        return
    (secret,) = secrets
    reference = remote.credentials.secret_key_ref
    assert (secret["metadata"]["name"], list(secret["stringData"])) == (reference.name, [reference.key])
    (host,) = secret["metadata"]["annotations"]["headrace.dev/allowed-hosts"].split(",")
    assert remote.base_url is None or httpx2.URL(remote.base_url).host == host


@pytest.mark.parametrize("name", ["model-remote-http-stream.yaml", "model-remote-http-poll.yaml"])
async def test_the_provider_starts_with_a_sample(name: str) -> None:
    await create(setting_of(name)).start()


def test_the_sample_for_ollama_asks_as_its_api_does() -> None:
    setting = setting_of("model-remote-http-stream.yaml")
    assert setting.remote.http is not None
    request = Generate(
        "g",
        messages=(Message("system", "s"), Message("user", "u")),
        parameters=Parameters(temperature=0.5, max_tokens=9, seed=7),
        json_schema='{"type": "object"}',
    )
    call = RequestTemplate(setting, setting.remote.http).call(request)
    assert str(call.url) == "http://ollama.inference.svc:11434/api/generate"
    assert json.loads(call.content or b"") == {
        "model": "llama3.2:3b",
        "prompt": "u",
        "system": "s",
        "format": {"type": "object"},
        "stream": True,
        "options": {"temperature": 0.5, "num_predict": 9, "seed": 7},
    }
