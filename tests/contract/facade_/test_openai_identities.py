"""OpenAI's client with what identifies a caller of a real API server: a cluster's token and an API key."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import openai
import pytest
from openai import AsyncOpenAI

from headrace_cli import key_command
from headrace_cli.cluster import Cluster
from headrace_facade.context import open_context
from headrace_facade.errors import Unavailable
from tests.contract.callers import Caller, service_account
from tests.contract.chart.conftest import Helm
from tests.contract.conftest import Kubectl, required
from tests.contract.facade_.own_rights import OwnRights, installed, removed
from tests.fake_calls.service import FakeContext
from tests.fake_calls.serving import served

pytestmark = pytest.mark.contract


@pytest.fixture
def own(kubectl: Kubectl, kubeconfig: str, namespace: str, tmp_path: Path) -> Iterator[OwnRights]:
    yield installed(kubectl, Helm(required("HEADRACE_KUBE"), kubeconfig), namespace, tmp_path)
    removed(kubectl, namespace)


@pytest.fixture
async def context(own: OwnRights) -> AsyncIterator[FakeContext]:
    """Callers and models are the real ones; calls are played."""
    async with open_context(own.settings) as context:
        yield FakeContext(callers=context.callers, directory=context.directory)


async def listed(client: AsyncOpenAI) -> list[str]:
    """Once the facade has read the models."""
    while True:
        try:
            return [model.id async for model in client.models.list()]
        except openai.InternalServerError as error:
            if error.code != Unavailable.code.lower():
                raise


async def test_tokens_and_keys(
    context: FakeContext, own: OwnRights, kubectl: Kubectl, kubeconfig: str, namespace: str, alice: Caller
) -> None:
    for name in ("small", "large"):
        body = {
            "apiVersion": "headrace.dev/v1alpha1",
            "kind": "LLMModel",
            "metadata": {"name": name},
            "spec": {"remote": {"provider": "OpenAICompatible", "model": "m", "baseURL": "https://a.example"}},
        }
        kubectl.ok("apply", "-n", namespace, "-f", "-", stdin=json.dumps(body))
    async with Cluster.connect(kubeconfig, None) as cluster:
        made = await key_command.create(cluster, own.keys, namespace, [f"{namespace}/small"], None)
    async with (
        served(context) as address,
        AsyncOpenAI(api_key=alice.token, base_url=f"{address}/v1", max_retries=0) as client,
    ):
        assert await listed(client) == ["large", "small"]
        answer = await client.chat.completions.create(model="small", messages=[{"role": "user", "content": "Hi"}])
        assert answer.choices[0].message.content == "Hello"
        assert (context.calls.callers[-1].namespace, context.calls.callers[-1].name) == (namespace, alice.user)

        by_key = client.with_options(api_key=made["key"])
        assert await listed(by_key) == ["small"]
        with pytest.raises(openai.NotFoundError):
            await by_key.models.retrieve("large")
        await by_key.embeddings.with_raw_response.create(model="small", input="Hi")
        assert context.calls.callers[-1].namespace == namespace
        assert context.calls.callers[-1].token is None

        forged = client.with_options(api_key=made["key"][:-4] + "AAAA")
        with pytest.raises(openai.AuthenticationError) as unknown:
            await listed(forged)
        assert unknown.value.code == "invalid_api_key"
        nobody = client.with_options(api_key=service_account(kubectl, namespace, "nobody").token)
        with pytest.raises(openai.PermissionDeniedError):
            await listed(nobody)
