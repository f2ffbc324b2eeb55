"""A provider for remote models under test: OpenAICompatible itself, whose requests also say which generation they are.

The product tells a provider neither task nor attempt, and should not. What its seam for providers allows a plugin is to
add headers: by them the stub provider, the witness, knows whose generation it begins. All else is the product's code.
"""

import os
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import httpx2

from headrace_runner.engine.protocol import Delta, Generate, GenerationResult
from headrace_runner.providers.compatible import OpenAICompatible
from headrace_runner.providers.protocol import ENTRY_POINT_GROUP, Provider, Setting

NAME: Final = "StubCompatible"
"""What spec.remote.provider says."""
HEADER: Final = "X-Stub-Generation"
"""`<uid>/<attempt>`."""
POD_HEADER: Final = "X-Stub-Pod"
_METADATA: Final = "Metadata-Version: 2.1\nName: headrace-stub-provider\nVersion: 1\n"
_GENERATION: ContextVar[str] = ContextVar("generation", default="")


class _Telling:
    """The runner's client with two headers more; only what OpenAICompatible uses of it."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http

    def stream(self, method: str, url: str, *, headers: dict[str, str], **more: Any) -> Any:
        told = {HEADER: _GENERATION.get(), POD_HEADER: os.environ.get("HEADRACE_POD", "")}
        return self._http.stream(method, url, headers={**headers, **told}, **more)


class StubCompatible(OpenAICompatible):
    def __init__(self, setting: Setting) -> None:
        telling: Any = _Telling(setting.http)
        super().__init__(replace(setting, http=telling))

    async def generate(self, request: Generate, on_delta: Callable[[Delta], None]) -> GenerationResult:
        # Each call has a task, and so a context, of its own.
        _GENERATION.set(request.id)
        return await super().generate(request, on_delta)


def create(setting: Setting) -> Provider:
    """The factory that the entry point names."""
    return StubCompatible(setting)


def install(folder: Path) -> None:
    """Make a distribution with the entry point in `folder`; a process whose PYTHONPATH has it has the provider."""
    about = folder / "headrace_stub_provider-1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(_METADATA)
    (about / "entry_points.txt").write_text(f"[{ENTRY_POINT_GROUP}]\n{NAME} = {__name__}:create\n")
