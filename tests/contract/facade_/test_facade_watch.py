"""The directory against a real API server, by the rights that the chart gives."""

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from headrace_crds.quota import QUOTA_NAME
from headrace_facade.app import create_app
from headrace_facade.caller import Caller
from headrace_facade.context import open_context
from headrace_facade.errors import Unavailable
from tests.contract.chart.conftest import Helm
from tests.contract.conftest import Kubectl, required
from tests.contract.facade_.own_rights import OwnRights, installed, removed

pytestmark = pytest.mark.contract


@pytest.fixture
def own(kubectl: Kubectl, kubeconfig: str, namespace: str, tmp_path: Path) -> Iterator[OwnRights]:
    shared = ("--set", f"sharing.modelNamespaces={{{namespace}}}")
    own = installed(kubectl, Helm(required("HEADRACE_KUBE"), kubeconfig), namespace, tmp_path, *shared)
    while own.account.request("GET", "/api/v1/namespaces?limit=1").status_code == 403:
        pass
    yield own
    removed(kubectl, namespace)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while True:
            try:
                if holds():
                    return
            except Unavailable:
                pass
            await asyncio.sleep(0.02)


def made(kubectl: Kubectl, namespace: str, kind: str, name: str, spec: dict[str, Any]) -> None:
    body = {"apiVersion": "headrace.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
    kubectl.ok("apply", "-n", namespace, "-f", "-", stdin=json.dumps(body))


async def test_models_quotas_and_labels_are_followed(own: OwnRights, kubectl: Kubectl, namespace: str) -> None:
    remote: dict[str, Any] = {"remote": {"provider": "OpenAICompatible", "model": "m", "baseURL": "https://a.example"}}
    gold = {"from": "Selector", "selector": {"matchExpressions": [{"key": "gold", "operator": "Exists"}]}}
    made(kubectl, namespace, "LLMModel", "own", {**remote, "sharing": {"namespaces": gold}})
    settings = replace(own.settings, sharing_model_namespaces=(namespace,))
    here, there = Caller(namespace, "a"), Caller(own.keys, "b")
    async with open_context(settings) as context:
        directory = context.directory
        await until(lambda: directory.condition() == "ok")
        assert directory.model(here, "own") is not None
        assert directory.model(there, f"{namespace}/own") is None
        kubectl.ok("label", "namespace", own.keys, "gold=yes")
        await until(lambda: directory.model(there, f"{namespace}/own") is not None)
        assert [model.metadata.name for model in directory.models(there)] == ["own"]
        kubectl.ok("label", "namespace", own.keys, "gold-")
        await until(lambda: directory.model(there, f"{namespace}/own") is None)
        made(kubectl, namespace, "LLMQuota", QUOTA_NAME, {"maxQueuedTasks": 3})
        await until(lambda: directory.quota(namespace) is not None)
        kubectl.ok("delete", "llmmodel", "own", "-n", namespace)
        await until(lambda: directory.model(here, "own") is None)
        transport = httpx.ASGITransport(create_app(context))
        async with httpx.AsyncClient(transport=transport, base_url="http://facade") as http:
            assert (await http.get("/readyz")).json()["models"] == "ok"


async def test_without_the_right_it_knows_nothing_and_says_so(own: OwnRights, kubectl: Kubectl, namespace: str) -> None:
    kubectl.ok("delete", "clusterrolebinding", f"{namespace}-headrace-facade")
    while own.account.request("GET", "/apis/headrace.dev/v1alpha1/llmmodels?limit=1").status_code != 403:
        pass
    async with open_context(own.settings) as context:
        await asyncio.sleep(0.5)
        assert context.directory.condition().startswith("not read yet")
        with pytest.raises(Unavailable):
            context.directory.model(Caller(namespace, "a"), "own")
