"""Between decide and apply: a hand-out needs room in the window, and the runner's right in the task's namespace."""

from typing import Final

from headrace_crds.task import LLMTask
from headrace_operator import bindings
from headrace_operator.bindings import BindingRefused
from headrace_operator.context import Context
from headrace_operator.decide import quota, sharing, waiting, window
from headrace_operator.decide.plans import TaskPlan
from headrace_operator.decide.snapshots import TaskSnapshot
from headrace_operator.decide.window import Scope

CLOSED_SECONDS: Final = 0.5
"""Between two looks while the tasks that are handed out are being counted; its end wakes everybody anyway."""


async def admit(plan: TaskPlan, s: TaskSnapshot, ctx: Context) -> TaskPlan:
    """The plan, or that the task waits instead. Raises KubeError."""
    if plan.enqueue is None or s.task is None:
        ctx.window.let_go(s.ref)
        return plan
    if not window.holds_room(s.task):
        if not ctx.window.is_open:
            return TaskPlan("the window is not open yet", requeue_after_seconds=CLOSED_SECONDS)
        why = _hindrance(s, s.task, ctx)
        if why is not None:
            return window.held_back(plan, s, s.task, why)
    try:
        await bindings.ensure(s.ref.model, s.ref.namespace, ctx)
    except BindingRefused as error:
        ctx.window.let_go(s.ref)
        return sharing.binding_refused(plan, s, s.task, str(error))
    return plan


def _hindrance(s: TaskSnapshot, task: LLMTask, ctx: Context) -> waiting.Waiting | None:
    view = ctx.store.task(task.metadata.uid)
    hindrance = ctx.window.ask(view) if view is not None else window.Hindrance(Scope.TURN)
    if hindrance is None:
        return None
    if hindrance.scope is Scope.QUOTA:
        return quota.exceeded(hindrance, s.ref.namespace, ctx.grants.of(s.ref.namespace))
    return window.queue_full(hindrance, s.ref.model, s.ref.namespace, ctx.settings.window)
