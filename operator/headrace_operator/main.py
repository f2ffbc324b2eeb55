"""The ``headrace-operator`` command: watches always, works while it leads, ends when either fails."""

import asyncio
import contextlib
import gc
import os
import signal
import sys
from collections.abc import Awaitable, Mapping
from typing import Final

import structlog

from headrace_bus import Bus
from headrace_bus.tracing import opened
from headrace_operator import health, logs, watch
from headrace_operator.context import Context
from headrace_operator.elections import Election
from headrace_operator.errors import KubeError
from headrace_operator.kube import Kube
from headrace_operator.leader import lead
from headrace_operator.redis_watch import check_redis, watch_redis
from headrace_operator.settings import Settings

_log = structlog.get_logger()


GARBAGE_OBJECTS: Final = 20_000
"""So many objects more than were freed make the collector look; Python's own is 700."""


def main() -> int:
    """Run until SIGTERM or SIGINT; gives the exit code."""
    logs.configure()
    try:
        settings = Settings.from_environment(os.environ)
        settings.redis_url()
    except ValueError as error:
        _log.error("settings are not usable", error=str(error))
        return 2
    try:
        # What the imports left stays for good, and the collector would look at it again and again during a burst.
        gc.freeze()
        gc.set_threshold(GARBAGE_OBJECTS)
        return asyncio.run(run(settings))
    except KubeError as error:
        _log.error("the API server is not usable", reason=error.reason, error=str(error))
        return 1


async def run(settings: Settings, stop: asyncio.Event | None = None) -> int:
    """0 after a stop that was asked for, 1 when a part failed: the kubelet starts the process again."""
    stop = stop or asyncio.Event()
    kube = await Kube.connect(settings.kubeconfig)
    async with (
        opened(os.environ, "headrace-operator", settings.identity) as tracing,
        Bus.connect(settings.redis_url()) as bus,
    ):
        ctx = Context.build(settings, kube, bus)
        ctx.tracing = tracing
        await check_redis(ctx)
        served = await health.serve(ctx)
        try:
            watching = await watch.spawn(ctx)
            # After kopf, which installs its own.
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, stop.set)
            election = Election(
                kube, settings.namespace, settings.identity, settings.election_lease_seconds, give_up=_end_at_once
            )
            kube.fence(election.seconds_left)
            ctx.leads = election.leads
            parts = {"leader": election.lead(lambda: lead(ctx)), "redis": watch_redis(ctx), "watches": watching()}
            return await _until_one_ends(parts, stop)
        finally:
            await served.cleanup()
            await kube.aclose()


def _end_at_once() -> None:
    """Without a look back: what should have ended by itself did not."""
    os._exit(1)


async def _until_one_ends(parts: Mapping[str, Awaitable[None]], stop: asyncio.Event) -> int:
    """They end in this order: the leader first, so that the lease is given back while requests still work."""
    running = {asyncio.ensure_future(part): name for name, part in parts.items()}
    asked = asyncio.ensure_future(stop.wait())
    await asyncio.wait({asked, *running}, return_when=asyncio.FIRST_COMPLETED)
    ended = [part for part in running if part.done()]
    for part in ended:
        error = None if part.cancelled() else part.exception()
        _log.error("a part of the operator ended", part=running[part], error=repr(error))
    asked.cancel()
    for part in running:
        part.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await part
    return 1 if ended else 0


if __name__ == "__main__":
    sys.exit(main())
