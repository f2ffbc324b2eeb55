"""The composition root: everything a request needs, built once per process."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from headrace_facade.budget import ByteBudget
from headrace_facade.kube import KubeClient
from headrace_facade.metrics import Metrics
from headrace_facade.service import TaskService
from headrace_facade.settings import Settings


@dataclass(frozen=True)
class Context:
    settings: Settings
    kube: KubeClient
    tasks: TaskService
    metrics: Metrics
    bodies: ByteBudget


@asynccontextmanager
async def open_context(settings: Settings) -> AsyncIterator[Context]:
    """Clients that are closed at the end."""
    bodies = ByteBudget(settings.bodies_limit_bytes, "too many request bodies are being read: try again")
    answers = ByteBudget(settings.answers_limit_bytes, "too many answers of the API server are being read: try again")
    async with KubeClient.connect(settings.kube_url, settings.kube_ca_file, settings.kube_timeout_s, answers) as kube:
        yield Context(
            settings,
            kube,
            TaskService(kube, settings.default_namespace, settings.default_ttl_seconds),
            Metrics(),
            bodies,
        )
