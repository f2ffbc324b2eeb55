"""A chain of models beside the run's own: a local one, then two behind providers, each a process of its own.

The local one's pods are stub engines; those of the remote ones are runners alone, whose provider is the product's
OpenAICompatible with two headers more (`stub_provider.telling`).
"""

import asyncio
import contextlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from headrace_crds.names import ANNOTATION_ALLOWED_HOSTS
from tests.chaos import installation
from tests.chaos.control_plane import Api
from tests.chaos.pods import JOURNAL, Pod, base_environment, free_port, make_pods, show
from tests.chaos.processes import Kept
from tests.chaos.settings import RunSettings
from tests.stub_provider import telling
from tests.stub_provider.behaviour import Behaviour

PRIMARY: Final = "primary"
FIRST: Final = "remote-a"
SECOND: Final = "remote-b"
REPLICAS: Final = {PRIMARY: 2, FIRST: 2, SECOND: 1}
CONCURRENCY: Final = 8
"""Calls under way at each provider, over all runners of its model."""
SECRET: Final = "provider-key"


@dataclass
class Provider:
    """The API behind one remote model; `model` as namespace/name. `behave` changes what it does from the next request
    on.
    """

    name: str
    model: str
    port: int
    process: Kept
    behaviour_file: Path
    key_file: Path
    behaviour: Behaviour = field(default_factory=lambda: Behaviour(key="key-1"))

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def behave(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        behaviour.write(self.behaviour_file)

    def give_key(self, key: str) -> None:
        """As the kubelet does when the Secret has changed."""
        beside = self.key_file.with_suffix(".next")
        beside.write_text(key)
        beside.replace(self.key_file)


@dataclass
class RemoteModels:
    """`primary` are the pods of the local model, `runners` those of the remote ones by model."""

    providers: dict[str, Provider]
    primary: list[Pod]
    runners: dict[str, list[Pod]]

    @property
    def pods(self) -> list[Pod]:
        return [*self.primary, *(pod for pods in self.runners.values() for pod in pods)]

    def names(self, model: str) -> set[str]:
        """Of the pods of a remote model."""
        return {pod.name for pod in self.runners[model]}

    def is_remote(self, pod: str) -> bool:
        return any(pod in self.names(model) for model in self.runners)


def make_providers(settings: RunSettings, tenant: str) -> list[Provider]:
    """Both, not started."""
    return [_provider(settings, tenant, model) for model in (FIRST, SECOND)]


def _provider(settings: RunSettings, tenant: str, model: str) -> Provider:
    folder, name, port = settings.folder, f"provider-{model[-1]}", free_port()
    behaviour = folder / f"{name}.behaviour.json"
    environment = {
        **base_environment(settings.tree, settings.checkout),
        "STUB_PROVIDER_PORT": str(port),
        "STUB_PROVIDER_BEHAVIOUR": str(behaviour),
        "STUB_ENGINE_LOG": str(folder / JOURNAL),
        "STUB_ENGINE_POD": name,
        "STUB_ENGINE_MODEL": f"{tenant}/{model}",
    }
    argv = (sys.executable, "-P", "-m", "tests.stub_provider.server")
    process = Kept(name, argv, environment, folder / f"{name}.log")
    return Provider(name, f"{tenant}/{model}", port, process, behaviour, folder / f"{name}.key")


async def serve_models(
    stack: contextlib.AsyncExitStack,
    api: Api,
    settings: RunSettings,
    tenant: str,
    base: Mapping[str, str],
    providers: list[Provider],
) -> RemoteModels:
    """All models of the chain, with their pods and providers started; what `stack` closes ends them."""
    plugins = settings.folder / "plugins"
    telling.install(plugins)
    runner_base = {**base, "PYTHONPATH": f"{base['PYTHONPATH']}:{plugins}"}
    made = RemoteModels({each.model.partition("/")[2]: each for each in providers}, [], {})
    for provider in providers:
        provider.behave(provider.behaviour)
        provider.give_key(provider.behaviour.key)
        stack.push_async_callback(provider.process.end)
        await provider.process.start()
    hosts = ",".join(provider.host for provider in providers)
    await installation.create(api, f"/api/v1/namespaces/{tenant}/secrets", _secret(hosts))
    bodies = [installation.local_model(tenant, PRIMARY, REPLICAS[PRIMARY], settings.parallelism)]
    for model, provider in made.providers.items():
        bodies.append(installation.model(tenant, model, REPLICAS[model], {"remote": _remote(provider)}))
    deployments = await asyncio.gather(*(installation.create_model(api, body) for body in bodies))
    made.primary += await make_pods(api, deployments[0], settings.folder, base, {})
    for (model, provider), deployment in zip(made.providers.items(), deployments[1:], strict=True):
        mounted = {"HEADRACE_CREDENTIAL_FILE": provider.key_file}
        made.runners[model] = await make_pods(api, deployment, settings.folder, runner_base, {}, mounted)
    for pod in made.pods:
        stack.push_async_callback(pod.end)
        await pod.start()
        await show(api, pod)
    return made


def _secret(hosts: str) -> dict[str, Any]:
    """Nothing reads its value: there is no kubelet, and the operator may not."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SECRET, "annotations": {ANNOTATION_ALLOWED_HOSTS: hosts}},
        "stringData": {"key": "mounted by nobody"},
    }


def _remote(provider: Provider) -> dict[str, Any]:
    return {
        "provider": telling.NAME,
        "model": "stub-1",
        "baseURL": f"http://{provider.host}/v1",
        "credentials": {"secretKeyRef": {"name": SECRET, "key": "key"}},
        "maxConcurrency": CONCURRENCY,
    }
