"""The runner's composition root: builds every part from the settings, runs them, ends them in order."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any, Final

import structlog

from headrace_bus import Bus
from headrace_bus.tracing import opened
from headrace_runner.backend import Backend
from headrace_runner.claim import Claims
from headrace_runner.commit import Committer
from headrace_runner.engine_link import EngineFiles, EngineLink
from headrace_runner.flight import Deck
from headrace_runner.health import HealthServer
from headrace_runner.inbox import listen
from headrace_runner.kube import KubeTaskStatus, KubeUnconfigured
from headrace_runner.lease import LeaseKeeper
from headrace_runner.local_backend import LocalBackend
from headrace_runner.logs import error_keys
from headrace_runner.metrics import Metrics
from headrace_runner.report import Reporter
from headrace_runner.rotation import until_rotated
from headrace_runner.settings import RunnerSettings, SettingsError
from headrace_runner.slots import Slots
from headrace_runner.streaming import TokenStreams
from headrace_runner.telemetry import GpuTelemetry
from headrace_runner.validate import Validator

COMMIT_SECONDS: Final = 12.0
"""Commits twice so long at the most: less than the 25 s that the pod has beyond its drain."""

_log = structlog.get_logger()


async def run(settings: RunnerSettings, stop: asyncio.Event) -> None:
    """Run until ``stop`` is set, then give back what is in flight.

    Raises SettingsError where it cannot start, and what breaks a part that must not break.
    """
    metrics, slots = Metrics(), Slots(settings.parallelism)
    async with contextlib.AsyncExitStack() as stack:
        tracing = await stack.enter_async_context(opened(os.environ, "headrace-runner", settings.pod))
        bus = await stack.enter_async_context(_bus(settings))
        try:
            tasks = await KubeTaskStatus.connect(settings.kubeconfig)
        except KubeUnconfigured as error:
            raise SettingsError(str(error)) from error
        stack.push_async_callback(tasks.aclose)
        backend, watches = _backend(settings, bus)
        stack.push_async_callback(backend.aclose)
        validator = await stack.enter_async_context(Validator())
        leases = _lease_keeper(settings)
        leases.start()
        stack.push_async_callback(leases.aclose)
        committer = Committer(tasks)
        reporter = Reporter(
            bus,
            settings.model,
            settings.pod,
            backend,
            slots,
            settings.generation,
            commit_forbidden=lambda: committer.forbidden,
        )
        health = HealthServer(
            settings.http_port, metrics, slots, alive=lambda: leases.alive, not_ready=reporter.not_ready
        )
        stack.push_async_callback(health.aclose)
        await health.start()
        streams = TokenStreams(bus, settings.model, metrics)
        deck = Deck(
            bus=bus,
            model=settings.model,
            pod=settings.pod,
            tasks=tasks,
            committer=committer,
            leases=leases,
            backend=backend,
            validator=validator,
            slots=slots,
            metrics=metrics,
            streams=streams,
            tracing=tracing,
            remote=None if settings.remote is None else settings.remote.remote,
        )
        claims = Claims(deck, lease_ms=settings.lease_ms)
        _log.info("runner started", model=str(settings.model), slots=slots.sequences)
        parts = (
            *backend.parts(),
            *watches,
            reporter.run(),
            claims.run(),
            streams.run(),
            listen(bus, settings.model, settings.pod, claims.interrupt),
            until_rotated(settings.redis_url),
        )
        async with _running(*parts) as broken:
            stopped = asyncio.create_task(stop.wait())
            await asyncio.wait({stopped, *broken}, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            _log.info("runner stops", in_flight=slots.generating, committing=slots.parked)
            await claims.stop(finish_seconds=settings.drain_seconds, commit_seconds=COMMIT_SECONDS)
    _log.info("runner stopped")


def _backend(settings: RunnerSettings, bus: Bus) -> tuple[Backend, Sequence[Coroutine[Any, Any, None]]]:
    """What attempts run on, and what watches it."""
    if settings.remote is None:
        files = EngineFiles(settings.engine_socket, settings.engine_state)
        gpus = GpuTelemetry(bus, settings.model, settings.pod, settings.engine_state)
        return LocalBackend(EngineLink(files)), [gpus.run()]
    # Here, as a local model's runner has no use for an HTTP client.
    from headrace_runner.remote.gate import Gate, limits_of
    from headrace_runner.remote.making import remote_backend

    gate = Gate(bus, settings.model, limits_of(settings.remote.remote), settings.pod)
    return remote_backend(settings.remote, gate), []


def _bus(settings: RunnerSettings) -> Bus:
    try:
        return Bus.connect(settings.redis_url())
    except SettingsError:
        raise
    except ValueError as error:
        # The library's message may quote the password.
        raise SettingsError("HEADRACE_REDIS_URL_FILE: does not hold a Redis URL") from error


def _lease_keeper(settings: RunnerSettings) -> LeaseKeeper:
    url, every_seconds = settings.redis_url(), settings.renew_every_seconds

    def connect() -> Bus:
        # Two tries of two steps each: a renewal that hangs is over before the next is due, and one lost reply costs a
        # quarter of that.
        limit = every_seconds / 4
        return Bus.connect(url, connect_timeout_s=limit, socket_timeout_s=limit)

    return LeaseKeeper(connect, settings.model, lease_ms=settings.lease_ms, every_seconds=every_seconds)


@contextlib.asynccontextmanager
async def _running(*parts: Coroutine[Any, Any, None]) -> AsyncIterator[set[asyncio.Task[None]]]:
    """Run the parts as tasks; a part that breaks is logged and raised at the end, so that the pod starts again."""
    tasks = {asyncio.create_task(part) for part in parts}
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    for error in ended:
        if isinstance(error, Exception):
            _log.error("runner broke", **error_keys(error))
            raise error
