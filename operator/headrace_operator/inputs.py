"""Between decide and apply: the text that `spec.inputFrom` refers to, read for every hand-out."""

from dataclasses import replace

from headrace_crds.inputs import KeyRef
from headrace_crds.task import LLMTask
from headrace_operator.context import Context
from headrace_operator.decide import input as decide_input
from headrace_operator.decide.input import MissedInput
from headrace_operator.decide.plans import TaskPlan
from headrace_operator.decide.snapshots import TaskSnapshot
from headrace_operator.errors import KubeError
from headrace_operator.kube import CONFIG_MAPS


def not_due(plan: TaskPlan, s: TaskSnapshot, ctx: Context) -> TaskPlan:
    """The plan, or that the task goes on waiting: its input was missed so lately that it is not looked for again."""
    task = s.task
    if plan.enqueue is None or task is None or _ref(task) is None:
        return plan
    missed, now = ctx.memory.missed_inputs.get(s.ref), ctx.monotonic()
    if missed is None or missed.generation != task.metadata.generation or now >= missed.again_at:
        return plan
    return decide_input.waits(plan, s, task, missed.why, missed.again_at - now)


async def provide(plan: TaskPlan, s: TaskSnapshot, ctx: Context) -> TaskPlan:
    """The plan, to which the window gave a seat, with its input; or that the task waits or ends instead, and the seat
    is let go. Raises KubeError.
    """
    task = s.task
    if plan.enqueue is None or task is None or (ref := _ref(task)) is None:
        return plan
    try:
        body = await ctx.kube.get(CONFIG_MAPS, s.ref.namespace, ref.name)
    except KubeError:
        ctx.window.let_go(s.ref)
        raise
    found = decide_input.text_of(ref, body)
    if not isinstance(found, str):
        ctx.window.let_go(s.ref)
        missed = ctx.memory.missed_inputs.get(s.ref)
        looks = missed.looks + 1 if missed is not None else 1
        again_seconds = decide_input.look_again_seconds(looks)
        again_at = ctx.monotonic() + again_seconds
        ctx.memory.missed_inputs[s.ref] = MissedInput(found, task.metadata.generation, looks, again_at)
        return decide_input.waits(plan, s, task, found, again_seconds)
    ctx.memory.missed_inputs.pop(s.ref, None)
    if problem := decide_input.too_large(task, found):
        ctx.window.let_go(s.ref)
        return decide_input.refused(s, task, problem)
    return replace(plan, enqueue=replace(plan.enqueue, input_text=found))


def _ref(task: LLMTask) -> KeyRef | None:
    return task.spec.input_from.config_map_key_ref if task.spec.input_from is not None else None
