"""Loading and unloading: the caller's own right at a real API server, through the scale subresource."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from headrace_facade.app import create_app
from headrace_facade.context import open_context
from tests.contract.callers import Caller
from tests.contract.chart.conftest import Helm
from tests.contract.conftest import Kubectl, required
from tests.contract.facade_.own_rights import OwnRights, installed, removed
from tests.contract.runner_.pod_world import until

pytestmark = pytest.mark.contract


@pytest.fixture
def own(kubectl: Kubectl, kubeconfig: str, namespace: str, tmp_path: Path) -> Iterator[OwnRights]:
    yield installed(kubectl, Helm(required("HEADRACE_KUBE"), kubeconfig), namespace, tmp_path)
    removed(kubectl, namespace)


@pytest.fixture
async def http(own: OwnRights) -> AsyncIterator[httpx.AsyncClient]:
    async with open_context(own.settings) as context:
        transport = httpx.ASGITransport(create_app(context))
        async with httpx.AsyncClient(transport=transport, base_url="http://facade") as http:
            yield http


async def listed(http: httpx.AsyncClient, headers: dict[str, str]) -> list[dict[str, object]]:
    """Once the facade has read the models."""
    while True:
        answer = await http.get("/api/v1/models", headers=headers)
        if answer.status_code != 503 and answer.json()["items"]:
            return list(answer.json()["items"])
        # Nothing else waits in here: the facade's watch would never get its turn.
        await asyncio.sleep(0.05)


def replicas(kubectl: Kubectl, namespace: str) -> int:
    return int(kubectl.ok("get", "llmmodel", "small", "-n", namespace, "-o", "jsonpath={.spec.replicas}"))


async def test_replicas_are_the_callers_to_change(
    http: httpx.AsyncClient, kubectl: Kubectl, namespace: str, alice: Caller
) -> None:
    body = {
        "apiVersion": "headrace.dev/v1alpha1",
        "kind": "LLMModel",
        "metadata": {"name": "small"},
        "spec": {"remote": {"provider": "OpenAICompatible", "model": "m", "baseURL": "https://a.example"}},
    }
    kubectl.ok("apply", "-n", namespace, "-f", "-", stdin=json.dumps(body))
    headers = {"Authorization": f"Bearer {alice.token}"}
    (model,) = await listed(http, headers)
    assert (model["model"], model["kind"], model["replicas"]) == ("small", "OpenAICompatible", 1)
    # Whoever may create tasks may not change what everybody's tasks run on.
    refused = await http.post("/api/v1/models/small/unload", headers=headers)
    assert refused.status_code == 403, refused.text
    assert replicas(kubectl, namespace) == 1
    kubectl.ok(
        "create", "role", "scale", "-n", namespace, "--verb=patch,update,get", "--resource=llmmodels.headrace.dev/scale"
    )
    kubectl.ok("create", "rolebinding", "scale", "-n", namespace, "--role=scale", f"--serviceaccount={namespace}:alice")
    while (answer := await http.post("/api/v1/models/small/unload", headers=headers)).status_code == 403:
        pass
    assert (answer.status_code, answer.json()["replicas"]) == (202, 0)
    assert replicas(kubectl, namespace) == 0
    answer = await http.post("/api/v1/models/load", headers=headers, json={"model": "small", "replicas": 3})
    assert answer.status_code == 202, answer.text
    assert replicas(kubectl, namespace) == 3

    async def known() -> bool:
        return [model["replicas"] for model in await listed(http, headers)] == [3]

    # What serves with more keeps them, and one who says how many means it.
    await until(known)
    answer = await http.post("/api/v1/models/small/load", headers=headers)
    assert (answer.status_code, replicas(kubectl, namespace)) == (202, 3)
    answer = await http.post("/api/v1/models/load", headers=headers, json={"model": "small", "replicas": 1})
    assert (answer.status_code, replicas(kubectl, namespace)) == (202, 1)
    # One that goes by its work is not told by anybody.
    kubectl.ok("patch", "llmmodel", "small", "-n", namespace, "--type=merge", "-p", '{"spec": {"scaling": {}}}')
    while (answer := await http.post("/api/v1/models/small/load", headers=headers)).status_code == 202:
        pass
    assert (answer.status_code, answer.json()["error_code"]) == (409, "CONFLICT")
    assert "spec.scaling" in answer.json()["message"]
