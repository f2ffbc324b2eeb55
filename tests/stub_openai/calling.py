"""Providers as the runner makes them, against a stub."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2

from headrace_crds.remote import Remote
from headrace_runner.engine.protocol import Delta, Generate, GenerationResult, Message, Parameters
from headrace_runner.providers import compatible, openai_api
from headrace_runner.providers.protocol import Budget, Provider, Setting
from tests.stub_openai.server import EMBEDDING_MODELS, KEY, MODELS, StubOpenAI, serving

TIMEOUT = httpx2.Timeout(5.0)


@dataclass
class World:
    """A stub, and a provider that asks it; ``deltas`` are those of all calls. ``key`` may change between calls."""

    stub: StubOpenAI
    provider: Provider
    key: list[str]
    deltas: list[Delta] = field(default_factory=list)
    budgets: list[Budget] = field(default_factory=list)

    async def generate(self, request: Generate | None = None) -> GenerationResult:
        return await self.provider.generate(request or asking(), self.deltas.append)

    @property
    def body(self) -> dict[str, Any]:
        """Of the last request."""
        return self.stub.bodies[-1]


def asking(text: str = "Say hello to everybody.", parameters: Parameters | None = None, **more: Any) -> Generate:
    return Generate("uid/1", messages=(Message("user", text),), parameters=parameters or Parameters(), **more)


@asynccontextmanager
async def openai_world(model: str = MODELS[0], extra_body: dict[str, Any] | None = None) -> AsyncIterator[World]:
    """Provider OpenAI, through the real SDK."""
    async with _world("OpenAI", model, extra_body, openai_api.create, strict=True) as world:
        yield world


@asynccontextmanager
async def compatible_world(model: str = "qwen3", extra_body: dict[str, Any] | None = None) -> AsyncIterator[World]:
    """Provider OpenAICompatible; its server takes everything."""
    async with _world("OpenAICompatible", model, extra_body, compatible.create, strict=False) as world:
        yield world


@asynccontextmanager
async def _world(
    provider: str,
    model: str,
    extra_body: dict[str, Any] | None,
    create: Callable[[Setting], Provider],
    *,
    strict: bool,
) -> AsyncIterator[World]:
    budgets: list[Budget] = []
    key = [KEY]
    async with (
        serving(strict=strict) as stub,
        httpx2.AsyncClient(timeout=TIMEOUT, trust_env=False, verify=False) as http,
    ):
        remote = Remote.model_validate(
            {
                "provider": provider,
                "model": model,
                "baseURL": stub.url,
                "credentials": {"secretKeyRef": {"name": "key", "key": "key"}},
            }
        )
        setting = Setting(remote, http, lambda: key[0], budgets.append, extra_body)
        made = create(setting)
        await made.start()
        yield World(stub, made, key, budgets=budgets)
        await made.aclose()


EMBEDDING_MODEL = EMBEDDING_MODELS[0]
