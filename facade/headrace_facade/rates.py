"""Requests and tokens per minute of each identity, over all replicas of the facade: counted in Redis.

PyPI's `limits` was looked at: it brings its scripts to Redis itself, which the facade's user may not, as a script that
does not end stops the queue; and it has no debt for tokens, which are known only when they were used.
"""

import hashlib
import math
from contextlib import AsyncExitStack
from typing import Final

import structlog

from headrace_bus import BusError, RateLedger
from headrace_facade.caller import Caller
from headrace_facade.errors import RateLimitExceeded, Unavailable
from headrace_facade.queues import CALL_TIMEOUT_S, redis_url

_RETRY_MOST_S: Final = 3600
_log = structlog.get_logger("headrace_facade")


class Rates:
    """A rate of 0 is none. An identity is a caller's name: one API key, one ServiceAccount, one user."""

    def __init__(self, ledger: RateLedger | None, requests_per_minute: int, tokens_per_minute: int) -> None:
        self._ledger = ledger
        self._requests = requests_per_minute
        self._tokens = tokens_per_minute

    async def admit(self, caller: Caller) -> None:
        """Counts one request. Raises RateLimitExceeded, and Unavailable where it cannot be counted."""
        if not self._requests and not self._tokens:
            return
        if self._ledger is None:
            raise Unavailable("this facade limits requests per minute and is not connected to Redis, which counts them")
        try:
            wait_ms = await self._ledger.take(
                _identity(caller), requests_per_minute=self._requests, tokens_per_minute=self._tokens
            )
        except BusError as error:
            raise Unavailable("Redis, which counts requests, does not answer: try again") from error
        if wait_ms > 0:
            rates = [
                f"{rate} {unit}" for rate, unit in ((self._requests, "requests"), (self._tokens, "tokens")) if rate
            ]
            told = f"this identity has used what it is given: {' and '.join(rates)} per minute"
            raise RateLimitExceeded(told, min(max(1, math.ceil(wait_ms / 1000)), _RETRY_MOST_S))

    async def charge(self, caller: Caller, tokens: int) -> None:
        """Counts what a call has used, prompt and completion. Never raises: the call's result is good all the same."""
        if not self._tokens or self._ledger is None or tokens <= 0:
            return
        try:
            await self._ledger.charge(_identity(caller), tokens, tokens_per_minute=self._tokens)
        except BusError as error:
            _log.warning("tokens not counted", error=type(error).__name__)


async def open_rates(
    url_file: str | None, requests_per_minute: int, tokens_per_minute: int, stack: AsyncExitStack
) -> Rates:
    """Closed with the stack. Raises ValueError for a file without a URL."""
    url = redis_url(url_file) if requests_per_minute or tokens_per_minute else None
    if url is None:
        return Rates(None, requests_per_minute, tokens_per_minute)
    ledger = RateLedger.connect(url, call_timeout_s=CALL_TIMEOUT_S)
    stack.push_async_callback(ledger.aclose)
    return Rates(ledger, requests_per_minute, tokens_per_minute)


def _identity(caller: Caller) -> str:
    """Users' names are nobody's business in Redis."""
    return hashlib.sha256(caller.name.encode()).hexdigest()[:32]
