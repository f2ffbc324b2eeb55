"""The set difference that repairs what events missed: Redis against objects by uid, both ways; and the store itself.

It only enqueues keys: what is to be done about a difference is decided where everything is decided.
"""

import asyncio
from collections.abc import Awaitable
from typing import Final

import structlog

from headrace_bus import EntryState, UidState
from headrace_crds.task import HANDED_OUT
from headrace_operator.context import Context, bus_key
from headrace_operator.errors import KubeError
from headrace_operator.kube import MODELS, TASKS, Resource
from headrace_operator.loops import contained, every
from headrace_operator.observe_task import named_by_entry
from headrace_operator.refs import ModelRef, TaskRef
from headrace_operator.views import TaskView

UID_CHUNK: Final = 500
LIST_CHUNK: Final = 50

_log = structlog.get_logger()


async def run(ctx: Context) -> None:
    """Until cancelled."""

    async def difference() -> None:
        await sweep(ctx)
        await _unless_away(relist_models(ctx))

    async def listing() -> None:
        await asyncio.sleep(ctx.settings.relist_seconds)
        await _unless_away(relist_tasks(ctx))

    async with asyncio.TaskGroup() as group:
        group.create_task(every(ctx.settings.sweep_seconds, "sweep", difference), name="sweep")
        group.create_task(every(0.0, "relist", listing), name="relist")


async def _unless_away(listing: Awaitable[None]) -> None:
    try:
        await listing
    except KubeError as error:
        _log.warning("listing failed", reason=error.reason, error=str(error))


async def sweep(ctx: Context) -> None:
    """One set difference. Raises BusError."""
    registered = await registered_models(ctx)
    known = set(ctx.store.models())
    for ref in registered - known:
        ctx.models.add(ref)
    for ref in known - registered:
        # Forgotten by Redis, grants included: they are made again.
        ctx.memory.registered.discard(ref)
        ctx.memory.granted.pop(ref, None)
        ctx.models.add(ref)
    ctx.memory.registered |= registered & known
    held: dict[ModelRef, dict[str, UidState]] = {}
    for ref in sorted(registered | known):
        async with contained(ref, "sweep", ctx):
            held[ref] = await _surplus(ref, ctx)
    overlooked: list[TaskRef] = []
    for view in ctx.store.tasks():
        # What a model's keys hold speaks for that model's tasks alone; what could not be read, for none.
        entry = held.get(view.ref.model, {}).get(view.ref.uid)
        held_as_told = entry is not None and entry.attempt == view.attempt and entry.state is not EntryState.RETURNED
        differs = view.phase in HANDED_OUT and not held_as_told
        differs |= view.phase == "Suspended" and entry is not None
        if view.behind or (not view.finished and not view.deleting and (differs or view.phase == "")):
            ctx.tasks.add(view.ref)
        elif view.phase == "Waiting" and not view.finished and not view.deleting and _expects_nothing(view, known, ctx):
            overlooked.append(view.ref)
    for chosen in ctx.memory.overlooked.choose(overlooked):
        ctx.tasks.add(chosen)


def _expects_nothing(view: TaskView, known: set[ModelRef], ctx: Context) -> bool:
    """Who stands in line is woken, a missing input is looked for in its own time, and a model by its event: to ask all
    of them again and again would be most of the work.
    """
    missed = ctx.memory.missed_inputs.get(view.ref)
    looked_for = missed is not None and ctx.monotonic() < missed.again_at
    return view.ref.model in known and not ctx.window.waits(view.ref.uid) and not looked_for


async def registered_models(ctx: Context) -> set[ModelRef]:
    """Models that own keys in Redis, as far as their namespace is watched. Raises BusError."""
    found = {ModelRef(key.namespace, key.name) for key in await ctx.bus.models()}
    served = {ref for ref in found if ctx.settings.serves(ref.namespace)}
    if (others := frozenset(found - served)) != ctx.memory.elsewhere:
        ctx.memory.elsewhere = others
        _log.warning("models in namespaces that are not watched are left alone", models=sorted(map(str, others)))
    return served


async def _surplus(ref: ModelRef, ctx: Context) -> dict[str, UidState]:
    """Every uid that the bus holds for the model, its attempt and state; those without an open object are enqueued."""
    held: dict[str, UidState] = {}
    cursor = 0
    while True:
        page = await ctx.bus.uids(bus_key(ref), cursor, limit=UID_CHUNK)
        held.update(page.entries)
        for uid in page.entries:
            view = ctx.store.task(uid)
            if view is not None and view.ref.model == ref:
                if view.finished or view.deleting:
                    ctx.tasks.add(view.ref)
            elif (entry := await ctx.bus.inspect(bus_key(ref), uid)) is not None:
                ctx.tasks.add(named_by_entry(ref, uid, entry.namespace, entry.name, ctx))
        cursor = page.cursor
        if cursor == 0:
            return held


async def relist_tasks(ctx: Context) -> None:
    """Drops from the store what the API server does not list: a deletion in a gap between two watches has no event."""
    before = {view.ref.uid: view.ref for view in ctx.store.tasks()}
    living = await _uids(TASKS, ctx)
    for uid, ref in before.items():
        if uid not in living:
            ctx.store.drop_task(ref)
            ctx.tasks.add(ref)


async def relist_models(ctx: Context) -> None:
    """The same for models."""
    before = [(ref, model.metadata.uid) for ref in ctx.store.models() if (model := ctx.store.model(ref)) is not None]
    living = await _uids(MODELS, ctx)
    for ref, uid in before:
        if uid not in living and ctx.store.drop_model(ref, uid):
            ctx.models.add(ref)


async def _uids(resource: Resource, ctx: Context) -> set[str]:
    listed = ctx.kube.listed(resource, ctx.settings.watch_namespaces, limit=LIST_CHUNK)
    return {item["metadata"]["uid"] async for item in listed}
