"""Deletes finished tasks, at a bounded rate: finished objects would fill etcd.

Which ones is decided by `decide.retention`. One that may not be deleted (a finalizer's webhook, a policy) is tried ever
more rarely and keeps no other. A deletion names uid and resourceVersion, so that what somebody edited in
between, to keep it, is looked at again.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import structlog

from headrace_operator.context import Context, RefusedDeletion
from headrace_operator.decide import retention
from headrace_operator.decide.ended import ended_ms
from headrace_operator.decide.retention import Due
from headrace_operator.errors import KubeConflict, KubeError, KubeNotFound
from headrace_operator.kube import TASKS
from headrace_operator.loops import every
from headrace_operator.refs import TaskRef
from headrace_operator.views import TaskView

DELETIONS_PER_SECOND: Final = 100
AT_ONCE: Final = 10
PER_ROUND: Final = 1_000
REFUSED_AGAIN_SECONDS: Final = 60.0
REFUSED_AGAIN_LIMIT_SECONDS: Final = 3600.0

_log = structlog.get_logger()


async def run(ctx: Context) -> None:
    """Until cancelled."""

    async def once() -> None:
        await delete_due(ctx)

    await every(ctx.settings.retention_seconds, "retention", once)


async def delete_due(ctx: Context) -> None:
    """One round. Raises BusError: without Redis there is no time to go by."""
    now_ms = await ctx.clock.now_ms()
    finished = (_believed(view, now_ms) for view in ctx.store.tasks() if view.finished and not view.deleting)
    due = _deletable(retention.due(finished, ctx.settings.retention, now_ms=now_ms), ctx)[:PER_ROUND]
    for start in range(0, len(due), AT_ONCE):
        pause = asyncio.create_task(asyncio.sleep(AT_ONCE / DELETIONS_PER_SECOND))
        try:
            answers = await asyncio.gather(*(_delete(each, ctx) for each in due[start : start + AT_ONCE]))
            if not all(answers):
                return
            await pause
        finally:
            pause.cancel()


def _believed(view: TaskView, now_ms: int) -> TaskView:
    end_ms = ended_ms(view.completed_ms, view.accepted_ms, now_ms)
    return view if end_ms == view.completed_ms else replace(view, completed_ms=end_ms)


def _deletable(due: Sequence[Due[TaskView]], ctx: Context) -> list[Due[TaskView]]:
    """Without those whose deletion was refused a short while ago; forgets refusals of what is due no more."""
    refused = ctx.memory.refused_deletions
    for ref in refused.keys() - {each.task.ref for each in due}:
        del refused[ref]
    now = ctx.monotonic()
    return [each for each in due if each.task.ref not in refused or refused[each.task.ref].again_at <= now]


def _refused(ref: TaskRef, ctx: Context) -> None:
    before = ctx.memory.refused_deletions.get(ref)
    times = before.times + 1 if before is not None else 1
    pause = min(REFUSED_AGAIN_LIMIT_SECONDS, REFUSED_AGAIN_SECONDS * 2.0 ** min(times - 1, 10))
    ctx.memory.refused_deletions[ref] = RefusedDeletion(times, ctx.monotonic() + pause)


async def _delete(due: Due[TaskView], ctx: Context) -> bool:
    """False: the API server is away; the next round tries again."""
    view = due.task
    try:
        await ctx.kube.delete(
            TASKS, view.ref.namespace, view.ref.name, uid=view.ref.uid, resource_version=view.resource_version
        )
    except (KubeConflict, KubeNotFound):
        return True  # its event is on the way
    except KubeError as error:
        _log.warning("finished task is not deleted", task=str(view.ref), reason=error.reason, error=str(error))
        if error.retryable:
            return False
        _refused(view.ref, ctx)
        return True
    ctx.memory.refused_deletions.pop(view.ref, None)
    ctx.metrics.deleted.labels(due.because.value).inc()
    if due.owed:
        _log.warning("finished task deleted with its webhook untold", task=str(view.ref), reason=due.because.value)
        return True
    _log.info("finished task deleted", task=str(view.ref), reason=due.because.value)
    return True
