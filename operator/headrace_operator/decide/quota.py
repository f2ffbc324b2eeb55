"""What an LLMQuota grants its namespace, and the words for a task that has to wait for it."""

from dataclasses import dataclass

from headrace_crds.quota import Budget, LLMQuotaSpec
from headrace_crds.reasons import Reason
from headrace_operator.decide import waiting
from headrace_operator.decide.window import Hindrance


@dataclass(frozen=True, slots=True)
class Grant:
    """What a namespace may do."""

    tasks: int | None = None
    """Handed out at once, over all models; None is as many as the window holds."""
    source: str = ""
    """What it is that bounds `tasks`, and who can change it."""
    priority_ceiling: int | None = None
    weight: int = 1
    remote_models: bool = True
    budgets: tuple[Budget, ...] = ()

    def clamped(self, priority: int) -> int:
        """Above the ceiling only where the ceiling was lowered after the task was made."""
        return priority if self.priority_ceiling is None else min(priority, self.priority_ceiling)


def grant(spec: LLMQuotaSpec | None, default: LLMQuotaSpec) -> Grant:
    """How many run is bounded by how many are handed out: who is handed out may run at any moment."""
    bounds: list[tuple[int, str]] = []
    for member, alias in (("max_queued_tasks", "maxQueuedTasks"), ("max_running_tasks", "maxRunningTasks")):
        own, given = getattr(spec, member, None), getattr(default, member)
        if own is not None:
            bounds.append((own, f"{alias} of LLMQuota 'default', which the namespace's admins can raise"))
        elif given is not None:
            bounds.append((given, f"quota.default.{alias} of the chart, which an LLMQuota of an admin can raise"))
    tasks, source = min(bounds, default=(None, ""))
    ceiling = spec.priority_ceiling if spec is not None else None
    remote = spec.remote_models if spec is not None and spec.remote_models is not None else default.remote_models
    return Grant(
        tasks,
        source,
        ceiling if ceiling is not None else default.priority_ceiling,
        spec.weight if spec is not None else default.weight,
        remote is not False,
        tuple(spec.budgets or ()) if spec is not None else (),
    )


def exceeded(hindrance: Hindrance, namespace: str, granted: Grant) -> waiting.Waiting:
    return waiting.Waiting(
        Reason.QUOTA_EXCEEDED,
        f"{hindrance.tasks} tasks of namespace {namespace!r} are queued or running, of at most {granted.tasks} by "
        f"{granted.source}: goes on when one of them ends",
    )
