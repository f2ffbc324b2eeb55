"""Hears what the operator tells this runner about attempts that it holds. What follows is the hearer's affair."""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from headrace_bus import Bus, BusError, Interrupt, ModelKey

_LISTEN_SECONDS: Final = 10.0
"""A connection that died in silence is noticed a few seconds after."""
_FIRST_BACKOFF_SECONDS: Final = 0.1
_LAST_BACKOFF_SECONDS: Final = 5.0

_log = structlog.get_logger()


async def listen(bus: Bus, model: ModelKey, pod: str, hear: Callable[[Interrupt], None]) -> None:
    """Blocks on the inbox, so that a word is heard within milliseconds; endless. An absent bus is asked again.

    A word that is lost costs time, not truth: the lease or the operator's patience ends what it was about.
    """
    backoff_seconds = _FIRST_BACKOFF_SECONDS
    while True:
        try:
            interrupts = await bus.interruptions(model, pod, timeout_s=_LISTEN_SECONDS)
        except BusError as error:
            _log.warning("inbox not heard", reason=error.reason, again_in_seconds=backoff_seconds)
            await asyncio.sleep(backoff_seconds)
            backoff_seconds = min(2 * backoff_seconds, _LAST_BACKOFF_SECONDS)
            continue
        backoff_seconds = _FIRST_BACKOFF_SECONDS
        for interrupt in interrupts:
            hear(interrupt)
