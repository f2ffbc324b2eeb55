"""LLMQuotas as they are seen: what they grant, their status every few seconds, namespaces' weights in the queues."""

import asyncio
import contextlib
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any, Final

import structlog

from headrace_bus import BusError
from headrace_crds.base import GROUP, VERSION
from headrace_crds.outcome import timestamp
from headrace_crds.quota import QUOTA_NAME, LLMQuota
from headrace_operator import budgets
from headrace_operator.context import Context, bus_key
from headrace_operator.decide.quota import Grant
from headrace_operator.errors import KubeConflict, KubeError, KubeNotFound, ObjectInvalid
from headrace_operator.kube import QUOTAS
from headrace_operator.loops import contained
from headrace_operator.refs import ModelRef
from headrace_operator.views import parse_quota

STATUS_SECONDS: Final = 10.0
WEIGH_SECONDS: Final = 0.5
"""Between two rounds that changes ask for."""

_log = structlog.get_logger()


def seen(kind: str | None, body: Mapping[str, Any], ctx: Context) -> None:
    """An LLMQuota's event."""
    namespace = body["metadata"]["namespace"]
    if body["metadata"]["name"] != QUOTA_NAME:
        return
    before = ctx.grants.of(namespace)
    if kind == "DELETED":
        ctx.grants.drop(namespace)
    else:
        try:
            ctx.grants.put(namespace, parse_quota(body))
        except ObjectInvalid as error:
            _log.error("quota is not understood", namespace=namespace, error=str(error))
            return
    granted = ctx.grants.of(namespace)
    if granted == before:
        return
    ctx.window.grant_changed(namespace)
    if granted.budgets != before.budgets:
        budgets.changed(namespace, ctx)
    if granted.remote_models != before.remote_models:
        for view in ctx.store.tasks():
            if view.ref.namespace == namespace and not view.finished:
                ctx.tasks.add(view.ref)
    if granted.priority_ceiling != before.priority_ceiling:
        _move_queued(namespace, before, granted, ctx)


def _move_queued(namespace: str, before: Grant, granted: Grant, ctx: Context) -> None:
    """What is queued takes its place anew when it is offered again."""
    for view in ctx.store.tasks():
        queued = view.ref.namespace == namespace and view.phase == "Queued"
        if queued and before.clamped(view.priority) != granted.clamped(view.priority):
            ctx.memory.misplaced.add(view.ref)
            ctx.tasks.add(view.ref)


async def load(ctx: Context) -> None:
    """All of them, read afresh. Raises KubeError."""
    for namespace in ctx.settings.watch_namespaces or (None,):
        for item in (await ctx.kube.read(QUOTAS.path(namespace))).get("items") or []:
            seen("ADDED", {"apiVersion": f"{GROUP}/{VERSION}", **item}, ctx)


async def run(ctx: Context) -> None:
    """Until cancelled."""
    told = -STATUS_SECONDS
    weighed: set[ModelRef] = set()
    while True:
        ctx.grants.changed.clear()
        try:
            if ctx.monotonic() - told >= STATUS_SECONDS:
                told = ctx.monotonic()
                await tell(ctx)
            weighed = await weigh(ctx, weighed)
        except BusError as error:
            # Redis is away: its return is heard of by the watch on it, and the next round makes up for this one.
            _log.info("quotas are not told", reason=error.reason)
        await asyncio.sleep(WEIGH_SECONDS)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STATUS_SECONDS + told - ctx.monotonic()):
                await ctx.grants.changed.wait()


async def weigh(ctx: Context, before: set[ModelRef]) -> set[ModelRef]:
    """Tells the queues the weights of those namespaces that have tasks there; gives the models that were told any.
    Said again and again: Redis may have lost it.
    """
    weights: defaultdict[ModelRef, dict[str, float]] = defaultdict(dict)
    for view in ctx.store.tasks():
        if not view.finished and (weight := ctx.grants.of(view.ref.namespace).weight) != 1:
            weights[view.ref.model][view.ref.namespace] = weight
    for model in ctx.memory.registered & (before | set(weights)):
        async with contained(model, "weights", ctx):
            await ctx.bus.set_weights(bus_key(model), weights[model])
    return {model for model, told in weights.items() if told}


async def tell(ctx: Context) -> None:
    """Writes the status of those quotas whose numbers changed."""
    quotas = ctx.grants.quotas
    if not quotas:
        return
    tally = Counter((view.ref.namespace, view.phase) for view in ctx.store.tasks() if not view.finished)
    totals: Counter[str] = Counter()
    for (namespace, _), count in tally.items():
        totals[namespace] += count
    for namespace, found in list(quotas.items()):
        queued, running = tally[namespace, "Queued"], tally[namespace, "Running"]
        told = await budgets.statuses(namespace, ctx)
        numbers: dict[str, Any] = {
            "observedGeneration": found.metadata.generation,
            "queued": queued,
            "running": running,
            "waiting": totals[namespace] - queued - running,
            "budgets": None if told is None else [each.dump() for each in told],
        }
        before = found.status.dump() if found.status is not None else None
        if before is None or any(before.get(name) != value for name, value in numbers.items()):
            await _write(namespace, found, numbers, ctx)


async def _write(namespace: str, found: LLMQuota, numbers: Mapping[str, Any], ctx: Context) -> None:
    status = {**numbers, "updateTime": timestamp(await ctx.clock.now_ms())}
    version = found.metadata.resource_version
    try:
        body = await ctx.kube.patch_status(QUOTAS, namespace, QUOTA_NAME, status, resource_version=version)
    except (KubeConflict, KubeNotFound):
        return  # An event is on its way.
    except KubeError as error:
        _log.warning("quota's status not written", namespace=namespace, reason=error.reason, error=str(error))
        return
    seen("MODIFIED", body, ctx)
