"""Between decide and apply: a hand-out needs the runner's right in the task's namespace, and room."""

from headrace_operator import bindings
from headrace_operator.bindings import BindingRefused
from headrace_operator.context import Context
from headrace_operator.decide import sharing
from headrace_operator.decide.plans import TaskPlan
from headrace_operator.decide.snapshots import TaskSnapshot


async def admit(plan: TaskPlan, s: TaskSnapshot, ctx: Context) -> TaskPlan:
    """The plan, or that the task waits instead. Raises KubeError."""
    if plan.enqueue is None or s.task is None:
        return plan
    try:
        await bindings.ensure(s.ref.model, s.ref.namespace, ctx)
    except BindingRefused as error:
        return sharing.binding_refused(plan, s, s.task, str(error))
    return plan
