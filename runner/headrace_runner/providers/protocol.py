"""What a provider is to the runner. A new one is one module with a factory; see config/samples/provider-plugin.

A provider turns one request into one call of somebody's API and its answer into one result. Queue, retries, deadlines,
limits, validation and the bill are the runner's: a provider tries once, and says how it failed.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

import httpx2

from headrace_crds.reasons import Reason
from headrace_crds.remote import Remote
from headrace_runner.engine.embedding_request import Embed
from headrace_runner.engine.protocol import Delta, Generate, GenerationResult, Timings, Usage

ENTRY_POINT_GROUP = "headrace.providers"
"""Its entry points are named as ``spec.remote.provider`` names the provider, and load a ``ProviderFactory``."""


class Fault(StrEnum):
    """What a failed call means for the next one."""

    RATE_LIMITED = "RateLimited"
    """Too much was asked: the whole model waits, nobody is charged."""
    OVERLOADED = "Overloaded"
    """The provider has no room: likewise, and fewer requests at a time."""
    TRANSIENT = "Transient"
    """Network, time-out, 5xx: the attempt is charged and tried again."""
    UNAVAILABLE = "Unavailable"
    """No call of this model will succeed until somebody acts: a revoked key, an unknown model, a spent budget."""
    TERMINAL = "Terminal"
    """This request will never succeed: refused content, a context too long, parameters that the provider refuses."""


class ProviderError(Exception):
    """A call that gave no result.

    ``reason`` is one PascalCase word, ``message`` what a person should know and do: never a prompt, never a key, and of
    the provider's own words at most one bounded sentence. ``retry_after_seconds`` is what the provider asks for;
    ``usage`` what it charges all the same.
    """

    def __init__(
        self,
        fault: Fault,
        reason: Reason,
        message: str,
        *,
        retry_after_seconds: float | None = None,
        status: int | None = None,
        usage: Usage | None = None,
    ) -> None:
        super().__init__(f"{reason}: {message}")
        self.fault = fault
        self.reason = reason
        self.message = message
        self.retry_after_seconds = retry_after_seconds
        self.status = status
        self.usage = usage


@dataclass(frozen=True, slots=True)
class Budget:
    """What the provider's last answer said is left (its rate-limit headers); None where it said nothing."""

    requests: int | None = None
    tokens: int | None = None
    reset_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """What a provider is made of. ``remote`` is the model's spec; ``http`` the only client that it may use.

    ``credential`` gives the key, read anew: call it for every request. Empty where the model has none.
    """

    remote: Remote
    http: httpx2.AsyncClient
    credential: Callable[[], str]
    on_budget: Callable[[Budget], None] = lambda _: None
    extra_body: dict[str, Any] | None = None
    """``remote.extraBody`` as parsed; the provider refuses members that it does not list."""


class Provider(Protocol):
    """One per runner; used from one event loop, by many calls at once."""

    async def start(self) -> None:
        """Before the first call. Raises ValueError for a spec that this provider cannot serve, with the remedy."""

    async def generate(self, request: Generate, on_delta: Callable[[Delta], None]) -> GenerationResult:
        """One call. ``on_delta`` gets the text as it grows, always, so that what a cancelled call had said is kept.

        ``request.narrow`` has no meaning here. ``enforcement`` of the result is ``Provider`` where the API itself
        enforced the whole schema, else ``ValidatedOnly``. Raises ProviderError. Cancelling it ends the call.
        """

    async def embed(self, request: Embed) -> GenerationResult:
        """Vectors, as ``embedding`` builds the result. Raises ProviderError."""

    async def check_health(self) -> None:
        """One cheap request that spends nothing. Raises ProviderError."""

    async def aclose(self) -> None:
        """After the last call; the client is closed by whoever made it."""


@runtime_checkable
class Counting(Protocol):
    """A provider that can also say beforehand how many tokens a prompt has."""

    async def count(self, request: Generate) -> GenerationResult:
        """For a request whose ``count`` is Conversation: ``counted`` of the number. Raises ProviderError."""


def counted(request: Generate, tokens: int) -> GenerationResult:
    """The result of a count. A provider has no tokens to show, and it costs none."""
    document = json.dumps({"count": tokens})
    return GenerationResult(request.id, document, "Stop", Usage(0, 0, 0), Timings(0, 0, 0))


class ProviderFactory(Protocol):
    def __call__(self, setting: Setting) -> Provider: ...
