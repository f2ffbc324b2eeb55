"""Calls with all that runs beside them, for as long as the facade does."""

import asyncio
import re
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Final

from headrace_bus import CallBus
from headrace_facade.caller import Caller
from headrace_facade.calls.contract import Call, CallRequest, CallService
from headrace_facade.calls.hub import Hub
from headrace_facade.calls.service import Calls
from headrace_facade.directory import Directory
from headrace_facade.errors import Unavailable
from headrace_facade.queues import NOT_SET_UP, Queues, redis_url
from headrace_facade.rates import Rates
from headrace_facade.settings import Settings

CALL_TIMEOUT_S: Final = 3.0


class NoCalls:
    """Where there is no Redis for them."""

    def call(self, caller: Caller, request: CallRequest) -> AbstractAsyncContextManager[Call]:
        raise Unavailable(NOT_SET_UP)


@asynccontextmanager
async def open_calls(
    settings: Settings, directory: Directory, rates: Rates, queues: Queues
) -> AsyncIterator[CallService]:
    """Raises ValueError for a file without a URL."""
    url = redis_url(settings.redis_url_file)
    if url is None:
        yield NoCalls()
        return
    async with AsyncExitStack() as stack:
        bus = await stack.enter_async_context(CallBus.connect(url, call_timeout_s=CALL_TIMEOUT_S))
        hub = Hub(bus, reader_name(socket.gethostname()))
        calls = Calls(
            hub,
            directory,
            rates,
            queues,
            bounds=settings.bounds,
            hold_seconds=settings.hold_seconds,
            calls_limit=settings.calls_limit,
        )
        stack.push_async_callback(calls.aclose)
        for part in (hub.read(), hub.renew()):
            task = asyncio.create_task(part)
            stack.push_async_callback(_ended, task)
        yield calls


def reader_name(host: str) -> str:
    """Of this process alone: an earlier one's events are not its own."""
    plain = re.sub(r"[^A-Za-z0-9.-]", "-", host)[:200].strip(".-") or "facade"
    return f"{plain}.{secrets.token_hex(4)}"


async def _ended(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
