"""Whether there is room for one more task, as far as that can be known before it is created. Pure.

The bounds are the operator's: what it cannot hand out waits in its object, with the same reason. A client is told
before, so that it slows down.
"""

import math
from dataclasses import dataclass
from typing import Final

from headrace_bus import ModelKey, Stats
from headrace_crds.quota import LLMQuota
from headrace_facade.errors import FacadeError, NamespaceFull, QueueFull, QuotaExceeded

_RETRY_S: Final = 5
_RETRY_MOST_S: Final = 60


@dataclass(frozen=True)
class Bounds:
    """Tasks in Redis at most, as the operator's chart values `queue.*` have it."""

    model_tasks: int = 20_000
    namespace_tasks: int = 10_000
    """Of one namespace in one model's queue."""


def quota_used_up(namespace: str, quota: LLMQuota) -> FacadeError | None:
    """As many tasks are queued or running as `maxQueuedTasks` grants. Where `maxRunningTasks` is lower, no more than
    that are handed out, and the open tasks that wait for it count as queued.

    By the counts that the operator keeps in the LLMQuota. `maxRunningTasks` alone refuses nothing: it makes tasks wait.
    """
    spec, status = quota.spec, quota.status
    most = spec.max_queued_tasks
    if most is None or status is None:
        return None
    handed_out = (status.queued or 0) + (status.running or 0)
    # Who is handed out may run at any moment: the operator hands out no more than may run.
    if handed_out < min(most, most if spec.max_running_tasks is None else spec.max_running_tasks):
        return None
    open_tasks = handed_out + (status.waiting or 0)
    if open_tasks < most:
        return None
    told = f"namespace {namespace!r} has {open_tasks} open tasks, and its LLMQuota grants {most} (maxQueuedTasks)"
    return QuotaExceeded(f"{told}: wait until some end, or have an admin raise it", _RETRY_S)


def queue_filled(namespace: str, model: ModelKey, stats: Stats, bounds: Bounds) -> FacadeError | None:
    """The namespace's share of the model's queue, or all of it, is taken."""
    own = stats.by_namespace.get(namespace, 0)
    retry_s = _RETRY_S
    if stats.mean_service_ms is not None:
        retry_s = min(max(math.ceil(stats.mean_service_ms / 1000), 1), _RETRY_MOST_S)
    if own >= bounds.namespace_tasks:
        told = f"{own} tasks of namespace {namespace!r} are queued for LLMModel {str(model)!r}, as many as may be"
        return NamespaceFull(f"{told}: wait until some are done", retry_s)
    # Of a model that it does not use yet a namespace learns nothing: sharing may not admit it.
    if namespace != model.namespace and not own:
        return None
    held = stats.queued + stats.delayed + stats.leased + stats.returned
    if held >= bounds.model_tasks:
        told = f"the queue of LLMModel {str(model)!r} is full with {held} tasks"
        return QueueFull(f"{told}: wait until some are done, or scale the model up", retry_s)
    return None
