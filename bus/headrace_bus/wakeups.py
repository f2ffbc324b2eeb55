"""The operator's ear: an endless stream of models worth a look.

A wake-up carries no information and may be lost, so every (re)connection begins with all
registered models: what happened while nobody listened is looked at once.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Final, TypeAlias

from headrace_bus.connection import Connection
from headrace_bus.errors import BusUnavailable
from headrace_bus.keys import CHANNEL_PREFIX, ModelKey

Models: TypeAlias = Callable[[], Awaitable[set[ModelKey]]]
"""Lists the registered models."""

_BACKOFF_FIRST_S: Final = 0.1
_BACKOFF_LIMIT_S: Final = 5.0
_SILENCE_S: Final = 10.0
"""After this long without a message a ping must be answered, or the connection counts as dead."""


async def wakeups(connection: Connection, models: Models) -> AsyncGenerator[ModelKey, None]:
    """Ends with the connection; outlives a restart of Redis. Raises BusDenied and what else waiting does not cure."""
    backoff_s = _BACKOFF_FIRST_S
    while not connection.closed:
        try:
            async with aclosing(_listen(connection, models)) as listening:
                async for model in listening:
                    backoff_s = _BACKOFF_FIRST_S
                    yield model
        except BusUnavailable:
            await asyncio.sleep(backoff_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads reconnections
            backoff_s = min(2 * backoff_s, _BACKOFF_LIMIT_S)


async def _listen(connection: Connection, models: Models) -> AsyncGenerator[ModelKey, None]:
    async with connection.subscription(CHANNEL_PREFIX + "*") as pubsub:
        pinged = False
        while True:
            message = await pubsub.get_message(timeout=_SILENCE_S)
            if message is None:
                if pinged:
                    raise BusUnavailable("the subscription went silent")
                await pubsub.ping()
                pinged = True
                continue
            pinged = False
            if message["type"] == "psubscribe":
                for model in await models():
                    yield model
            elif message["type"] == "pmessage":
                # Whoever may publish may publish nonsense.
                with suppress(ValueError):
                    yield ModelKey.parse(message["channel"].decode().removeprefix(CHANNEL_PREFIX))
