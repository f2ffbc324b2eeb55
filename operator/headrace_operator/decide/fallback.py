"""Moving a task to another model: which may follow, what makes it go, and the move.

The chain is the task's own list, else that of the model that it names; each model is tried once, in order, and what a
fallback model has for a fallback itself is not followed. So a task makes at most as many moves as the list is long.
Embeddings go elsewhere only by the task's own list: vectors of different models cannot be compared, so a model's owner
cannot decide it for everybody who stores them.

when            moves a task that                                              once
Unavailable     nobody holds; its model is missing, or Available is not True   it has lasted afterSeconds
                for whatever reason but a rate limit (CircuitOpen, loading,
                WaitingForGPU, ScaledToZero, Stalled, …)
Unavailable     came back with a provider's fault (PROVIDER_FAULTS)            backoffLimit is used up
RateLimited     nobody holds; Available=False for RateLimited or               it has lasted afterSeconds
                ProviderOverloaded
QueueTimeout    waits in the queue, or in line for it (QueueFull)              it has lasted afterSeconds
Refused         came back with ContentRefused                                  at once
InvalidOutput   came back with InvalidOutput, after all repairs                at once

A move is one status write: the next attempt, the other model, nobody who may commit. It leaves the task Waiting there,
never handed out at that attempt; the ordinary hand-out follows, with its window, rights and input.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from headrace_crds.base import Condition, ConditionStatus, find_condition
from headrace_crds.fallback import (
    MODELS_LIMIT,
    FallbackWhen,
    ModelFallback,
    ModelFallbackPolicy,
    TaskFallback,
    TaskFallbackPolicy,
)
from headrace_crds.model import Capability, LLMModel
from headrace_crds.reasons import Reason
from headrace_crds.task import AttemptRecord, LLMTask, TaskPhase
from headrace_operator.decide import clocks, task_status, waiting
from headrace_operator.decide.next_attempt import undelivered
from headrace_operator.decide.plans import Announcement, Move, TakeBack, TaskPlan
from headrace_operator.decide.snapshots import Place, Target, TaskSnapshot
from headrace_operator.refs import ModelRef

LOOK_AGAIN_SECONDS: Final = 15.0
"""Until the next look at a task that would fall back, and that no other model can take."""
SOON_SECONDS: Final = 0.5
"""From a hand-out to a model that is down already to the move: runners that do serve may take it."""
STUCK: Final = "; no fallback can take it: "
"""Between why a task waits and why it is not moved."""

LIMITED: Final = frozenset({Reason.RATE_LIMITED, Reason.PROVIDER_OVERLOADED})
PROVIDER_FAULTS: Final = frozenset(
    {
        Reason.PROVIDER_UNREACHABLE,
        Reason.PROVIDER_FAILED,
        Reason.PROVIDER_ANSWER_INVALID,
    }
)
"""Those that are charged. The others give the task back, and the model's conditions tell of them."""
HANDED_OVER: Final = {
    FallbackWhen.REFUSED: Reason.CONTENT_REFUSED,
    FallbackWhen.INVALID_OUTPUT: Reason.INVALID_OUTPUT,
}
"""What a runner gives back instead of committing Failed, where there is another model to try."""

_MOVABLE_WAITS: Final = frozenset({Reason.MODEL_NOT_FOUND, Reason.MODEL_NOT_READY, Reason.QUEUE_FULL})
"""What a task waits for that another model may have: not its input, its quota, or a right that was withdrawn."""


@dataclass(frozen=True, slots=True)
class Chain:
    """The models that are left for a task, and what makes it go to them. Empty: it stays."""

    models: tuple[ModelRef, ...] = ()
    when: frozenset[FallbackWhen] = frozenset()
    after_seconds: int = 0

    def __bool__(self) -> bool:
        return bool(self.models)


@dataclass(frozen=True, slots=True)
class Overdue:
    """What has moved the task, or will at `at_ms`, and the words for it."""

    when: FallbackWhen
    at_ms: int
    cause: str


def chain_of(task: LLMTask, named: LLMModel | None) -> Chain:
    """`named` is the model of modelRef, whichever the task is assigned to by now."""
    own = task.spec.fallback or TaskFallback()
    found: TaskFallback | ModelFallback | None = own
    home = task.metadata.namespace
    if own.policy is TaskFallbackPolicy.INHERIT:
        found = named.spec.fallback if named is not None and task.spec.embed is None else None
        home = named.metadata.namespace if named is not None else home
    if found is None or found.policy not in (TaskFallbackPolicy.LIST, ModelFallbackPolicy.LIST):
        return Chain()
    away = task.status.tried_models or [] if task.status is not None else []
    if len(away) >= MODELS_LIMIT:
        return Chain()
    tried = {*away, str(task_status.named_model(task)), str(task_status.model_of(task))}
    listed = (ModelRef(each.namespace or home, each.name) for each in found.models or [])
    left = tuple(dict.fromkeys(ref for ref in listed if str(ref) not in tried))
    return Chain(left, frozenset(found.when), found.after_seconds)


def hand_over(task: LLMTask, named: LLMModel | None) -> list[str]:
    """Reasons for which the runner is not to commit Failed; none where no model is left."""
    chain = chain_of(task, named)
    return [reason.value for when, reason in HANDED_OVER.items() if chain and when in chain.when]


def not_now(target: Target, task: LLMTask) -> str:
    """Why a model cannot take the task at the moment; empty: it can. Of a model that does not serve the task's
    namespace nothing else is told.
    """
    if not target.admitted:
        return f"does not serve namespace {task.metadata.namespace!r}"
    if target.model is None:
        return "does not exist"
    needed = Capability.EMBEDDING if task.spec.embed is not None else Capability.CHAT
    if needed not in target.model.spec.capabilities:
        return f"lacks the capability {needed.value}"
    available, ready = _condition(target.model, "Available"), _condition(target.model, "Ready")
    for told in (ready, available):
        if told is None or told.status is not ConditionStatus.TRUE:
            return told.reason if told is not None else Reason.MODEL_LOADING.value
    return ""


def choose(s: TaskSnapshot, task: LLMTask) -> tuple[ModelRef | None, str]:
    """The first model that can take the task; and, of those before it, or of all, why they cannot."""
    passed: list[str] = []
    for target in s.targets:
        barred = target.model is not None and target.model.spec.remote is not None and not s.remote_allowed
        why = not_now(target, task) or (Reason.REMOTE_NOT_ALLOWED.value if barred else "")
        if not why:
            return target.ref, ", ".join(passed)
        passed.append(f"{target.ref}: {why}")
    return None, ", ".join(passed)


def waits_in_vain(s: TaskSnapshot, task: LLMTask) -> TaskPlan | None:
    """Moves a task that nobody holds. The entry is taken back first, so that nobody begins with it meanwhile."""
    overdue = _overdue(s, task)
    if overdue is None or overdue.at_ms > s.now_ms:
        return None
    target, passed = choose(s, task)
    if target is None:
        return None
    told = f"moved from {s.ref.model} to {target}: {overdue.cause}" + (f"; passed over {passed}" if passed else "")
    record = undelivered(s, task, Reason.FELL_BACK, told)
    plan = _moved(s, task, target, overdue.when, record)
    return replace(plan, take_back=TakeBack(max(1, task_status.attempt_of(task))))


def moved_at_end(s: TaskSnapshot, task: LLMTask, record: AttemptRecord, reason: str) -> TaskPlan | None:
    """Of an attempt that came back, and that ends the task for `reason` unless another model can take it."""
    chain = chain_of(task, s.named_model)
    when = next((when for when, handed in HANDED_OVER.items() if handed == record.reason == reason), None)
    if reason == Reason.BACKOFF_LIMIT_EXCEEDED and record.reason in PROVIDER_FAULTS:
        when = FallbackWhen.UNAVAILABLE
    if when is None or when not in chain.when:
        return None
    target, passed = choose(s, task)
    if target is None:
        return None
    told = f"moved from {s.ref.model} to {target}: {record.reason}" + (f"; passed over {passed}" if passed else "")
    told = f"{told}; {record.message}" if record.message else told
    record = record.model_copy(update={"reason": Reason.FELL_BACK.value, "message": told[:512]})
    return replace(_moved(s, task, target, when, record), remove=True)


def followed(plan: TaskPlan, s: TaskSnapshot, task: LLMTask) -> TaskPlan:
    """The plan with the next look at a task that may fall back, and with the word that no other model can take it."""
    over = task.status is not None and task.status.outcome is not None
    if over or (plan.status or {}).get("outcome") is not None or plan.move is not None:
        return plan
    overdue = _overdue(s, task)
    if overdue is None:
        ahead = _ahead_seconds(s, task) if plan.status is not None or plan.enqueue is not None else None
        looks = [seconds for seconds in (ahead, plan.requeue_after_seconds) if seconds is not None]
        return replace(plan, requeue_after_seconds=min(looks, default=None))
    seconds = max((overdue.at_ms - s.now_ms) / 1000, 0.0) or LOOK_AGAIN_SECONDS
    if task_status.phase_of(task) is TaskPhase.WAITING:
        # What becomes of a model does not wake those who stand in line for it.
        seconds = min(seconds, LOOK_AGAIN_SECONDS)
    if plan.requeue_after_seconds is not None:
        seconds = min(seconds, plan.requeue_after_seconds)
    if overdue.at_ms <= s.now_ms:
        plan = _says_stuck(plan, s, task)
    return replace(plan, requeue_after_seconds=seconds)


def _moved(s: TaskSnapshot, task: LLMTask, target: ModelRef, when: FallbackWhen, record: AttemptRecord) -> TaskPlan:
    number = max(task_status.attempt_of(task), s.held.attempt if s.held is not None else 0) + 1
    why = waiting.Waiting(Reason.FELL_BACK, record.message)
    status = task_status.moved(task, target, why, attempt=number, now_ms=s.now_ms, record=record)
    return TaskPlan(
        "moved to another model",
        status=status,
        announcement=Announcement("Normal", Reason.FELL_BACK, record.message),
        move=Move(s.ref.model, target, when.value),
    )


def _says_stuck(plan: TaskPlan, s: TaskSnapshot, task: LLMTask) -> TaskPlan:
    """The reason stays what it is: only the message tells of the models that were asked."""
    status, does_more = task.status, plan.status is not None and not plan.explains_only
    if status is None or does_more or plan.enqueue is not None or plan.remove:
        return plan
    said = plan.status or {"reason": status.reason, "message": status.message}
    passed = choose(s, task)[1]
    message = f"{str(said['message']).partition(STUCK)[0]}{STUCK}{passed}"[:1024]
    if message == status.message or said["reason"] not in tuple(Reason):
        return plan
    patch = task_status.explanation(task, waiting.Waiting(Reason(said["reason"]), message), now_ms=s.now_ms)
    return replace(plan, details="explained", status=patch, explains_only=True)


def _ahead_seconds(s: TaskSnapshot, task: LLMTask) -> float | None:
    """From a write that hands the task out, or has it wait, to the next look: nobody tells of one's own writes."""
    chain = chain_of(task, s.named_model)
    if not chain or not s.targets or task.spec.suspend:
        return None
    ends = [] if FallbackWhen.QUEUE_TIMEOUT not in chain.when else [s.now_ms]
    down = _down_since(s, task)
    if down is not None and _trigger(down[1]) in chain.when:
        ends.append(down[0])
    if not ends:
        return None
    return max((min(ends) - s.now_ms) / 1000 + chain.after_seconds, SOON_SECONDS)


def _trigger(reason: str) -> FallbackWhen:
    return FallbackWhen.RATE_LIMITED if reason in LIMITED else FallbackWhen.UNAVAILABLE


def _overdue(s: TaskSnapshot, task: LLMTask) -> Overdue | None:
    """What moves a task that waits and nobody holds, the earliest if there are several; None: nothing as things are."""
    chain, status = chain_of(task, s.named_model), task.status
    if not chain or not s.targets or status is None or not status.attempt or task.spec.suspend:
        return None
    place = s.held.place if s.held is not None else None
    waits = status.phase is TaskPhase.WAITING and status.reason in _MOVABLE_WAITS and s.held is None
    queued = status.phase is TaskPhase.QUEUED and place in (Place.QUEUED, Place.DELAYED)
    if not waits and not queued:
        return None
    found, after_ms = [], chain.after_seconds * 1000
    down = _down_since(s, task)
    if down is not None:
        since_ms, reason = down
        if (when := _trigger(reason)) in chain.when:
            found.append(Overdue(when, since_ms + after_ms, f"{reason} for {chain.after_seconds} s"))
    in_line = status.reason in (Reason.QUEUE_FULL, Reason.MODEL_NOT_READY) if waits else place is Place.QUEUED
    if FallbackWhen.QUEUE_TIMEOUT in chain.when and in_line:
        cause = f"{FallbackWhen.QUEUE_TIMEOUT.value}: not claimed for {chain.after_seconds} s"
        found.append(Overdue(FallbackWhen.QUEUE_TIMEOUT, _waits_since(s, task) + after_ms, cause))
    return min(found, key=lambda each: each.at_ms, default=None)


def _down_since(s: TaskSnapshot, task: LLMTask) -> tuple[int, str] | None:
    """Since when the model has not served, and why; None while it serves."""
    if s.model is None:
        return _waits_since(s, task), Reason.MODEL_NOT_FOUND.value
    told = _condition(s.model, "Available")
    if told is None:
        since_ms = clocks.milliseconds(s.model.metadata.creation_timestamp)
        return since_ms if since_ms is not None else s.now_ms, Reason.MODEL_LOADING.value
    if told.status is ConditionStatus.TRUE:
        return None
    since_ms = clocks.milliseconds(told.last_transition_time)
    return since_ms if since_ms is not None else s.now_ms, told.reason


def _waits_since(s: TaskSnapshot, task: LLMTask) -> int:
    """Since when the task has waited for this model unclaimed, its suspensions not counted."""
    status = task.status
    if status is None:
        return s.now_ms
    begun = [clocks.milliseconds(status.accept_time)]
    # What was never delivered ended no wait; a move begins another.
    ends = (each.completion_time for each in _deliveries(status.attempts or []))
    begun += [clocks.milliseconds(each) for each in ends]
    resumed = find_condition(status.conditions, "Suspended")
    if resumed is not None:
        begun.append(clocks.milliseconds(resumed.last_transition_time))
    if s.held is not None and s.held.place is Place.QUEUED:
        # Nor does what precedes it count: a backoff, a budget, a right, an input.
        begun.append(s.held.since_ms)
    return max((each for each in begun if each is not None), default=s.now_ms)


def _deliveries(records: Sequence[AttemptRecord]) -> list[AttemptRecord]:
    return [each for each in records if each.start_time is not None or each.reason == Reason.FELL_BACK]


def _condition(model: LLMModel, type_: str) -> Condition | None:
    return find_condition(model.status.conditions, type_) if model.status is not None else None
