"""What only the leader does, in one task group: the first part to fail ends the leadership, and the process."""

import asyncio
from typing import Final

from headrace_bus import BusError
from headrace_operator import bindings, budgets, census, planning, quotas, retention, sweep
from headrace_operator.context import Context, Memory
from headrace_operator.reaper import Reaper
from headrace_operator.reconcile import reconcile_model, reconcile_task
from headrace_operator.redis_watch import check_redis
from headrace_operator.refs import ModelRef, TaskRef
from headrace_operator.webhooks.delivery import Delivery

REDIS_RETRY_SECONDS: Final = 2.0


async def lead(ctx: Context) -> None:
    """Until cancelled."""
    # What another leader did in between is not remembered here.
    ctx.memory = Memory(redis_run_id=ctx.memory.redis_run_id)
    ctx.budgets.clear()
    while not await _begin(ctx):  # noqa: ASYNC110  Redis has no event to wait for
        await asyncio.sleep(REDIS_RETRY_SECONDS)

    async def task(ref: TaskRef) -> float | None:
        return await reconcile_task(ref, ctx)

    async def model(ref: ModelRef) -> float | None:
        return await reconcile_model(ref, ctx)

    ctx.window.close()
    async with asyncio.TaskGroup() as group:
        group.create_task(ctx.models.run(model), name="models")
        group.create_task(ctx.tasks.run(task), name="tasks")
        await asyncio.sleep(0)  # the queues are open from here on
        ctx.enqueue_everything()
        group.create_task(Reaper(ctx).run(), name="reaper")
        group.create_task(sweep.run(ctx), name="sweep")
        group.create_task(retention.run(ctx), name="retention")
        group.create_task(Delivery(ctx).run(), name="webhooks")
        group.create_task(bindings.run(ctx), name="bindings")
        group.create_task(census.open_window(ctx), name="census")
        group.create_task(quotas.run(ctx), name="quotas")
        group.create_task(budgets.run(ctx), name="budgets")
        group.create_task(planning.run(ctx), name="planner")
        ctx.health.leading = True
        ctx.metrics.leading.set(1)
        try:
            await asyncio.Event().wait()
        finally:
            # Here, and not after the group: it ends only when its last part has.
            ctx.health.leading = False
            ctx.metrics.leading.set(0)


async def _begin(ctx: Context) -> bool:
    """Whether Redis answers, and told whose keys stand in it."""
    if not await check_redis(ctx):
        return False
    try:
        ctx.memory.inherited = await sweep.registered_models(ctx)
    except BusError:
        return False
    return True
