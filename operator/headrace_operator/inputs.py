"""Between decide and apply: the text that `spec.inputFrom` refers to, read for every hand-out."""

from dataclasses import replace

from headrace_operator.context import Context
from headrace_operator.decide import input as decide_input
from headrace_operator.decide.input import MissedInput
from headrace_operator.decide.plans import TaskPlan
from headrace_operator.decide.snapshots import TaskSnapshot
from headrace_operator.kube import CONFIG_MAPS
from headrace_operator.refs import TaskRef


async def provide(plan: TaskPlan, s: TaskSnapshot, ctx: Context) -> TaskPlan:
    """The plan with its input, or that the task waits or ends instead. Raises KubeError."""
    task = s.task
    ref = task.spec.input_from.config_map_key_ref if task is not None and task.spec.input_from is not None else None
    if plan.enqueue is None or task is None or ref is None:
        return plan
    now = ctx.monotonic()
    missed = ctx.memory.missed_inputs.get(s.ref)
    if missed is not None and missed.generation == task.metadata.generation and now < missed.again_at:
        return decide_input.waits(plan, s, task, missed.why, missed.again_at - now)
    found = decide_input.text_of(ref, await ctx.kube.get(CONFIG_MAPS, s.ref.namespace, ref.name))
    if not isinstance(found, str):
        looks = missed.looks + 1 if missed is not None else 1
        again_seconds = decide_input.look_again_seconds(looks)
        _remember(s.ref, MissedInput(found, task.metadata.generation, looks, now + again_seconds), ctx)
        return decide_input.waits(plan, s, task, found, again_seconds)
    ctx.memory.missed_inputs.pop(s.ref, None)
    if problem := decide_input.too_large(task, found):
        return decide_input.refused(s, task, problem)
    return replace(plan, enqueue=replace(plan.enqueue, input_text=found))


def _remember(ref: TaskRef, missed: MissedInput, ctx: Context) -> None:
    ctx.memory.missed_inputs[ref] = missed
