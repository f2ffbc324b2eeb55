"""Replicas by backlog: gathers what the planner is told, and hands its decisions to the models' reconciles.

What it remembers saves nothing but time: a new leader measures starts anew, and takes every model for just idle.
"""

import asyncio
import bisect
import re
from typing import Any, Final

import structlog

from headrace_bus import Stats
from headrace_crds.base import ConditionStatus, find_condition
from headrace_crds.model import Gpu, LLMModel
from headrace_crds.reasons import Reason
from headrace_crds.scaling import Scaling as ScalingSpec
from headrace_crds.scaling import ScalingStatus
from headrace_operator.context import Context, bus_key
from headrace_operator.decide import provider, weights
from headrace_operator.decide.clocks import milliseconds
from headrace_operator.decide.model_status import same_plan
from headrace_operator.decide.nodes import admits
from headrace_operator.decide.snapshots import PodView
from headrace_operator.gpus import Gpus
from headrace_operator.loops import contained, every
from headrace_operator.planner.facts import (
    AGE_STARTS_SECONDS,
    Backlog,
    Decision,
    GpuNeed,
    ModelFacts,
    Replica,
    ReplicaState,
    Scaling,
)
from headrace_operator.planner.planning import plan
from headrace_operator.refs import ModelRef
from headrace_operator.views import TaskView, report

PLAN_SECONDS: Final = 1.0
REMOTE_SLOTS: Final = 8
"""Of a remote model that does not say how many calls it takes at once."""
ASKED_AT_ONCE: Final = 32
"""Models of which Redis is asked at the same time."""
NOT_READY: Final = "NotReady"
"""In place of the planner's verdict on a model whose pods may not be started."""
STUCK_SECONDS: Final = 120.0
START_MOST_SECONDS: Final = 300.0
"""A start that took longer (a first pull of an image) counts as this: a model's turn on a GPU is measured in starts."""
NOTHING: Final = Stats(0, 0, 0, 0, None)
START_WEIGHT: Final = 0.3
"""Of the latest start in the mean."""
WAITS_FOR_MODEL: Final = frozenset(
    {
        Reason.QUEUED,
        Reason.QUEUE_FULL,
        Reason.MODEL_LOADING,
        Reason.MODEL_NOT_READY,
        Reason.MODEL_SCALED_TO_ZERO,
        Reason.WAITING_FOR_GPU,
        Reason.RESUMED,
        Reason.FELL_BACK,
    }
) | frozenset(provider.PAUSES)
"""Reasons of open tasks that a replica would serve. One that lacks quota, budget, input or a right waits for those."""

_log = structlog.get_logger()


async def run(ctx: Context) -> None:
    """Until cancelled."""
    await every(PLAN_SECONDS, "planner", Planning(ctx).once)


class Planning:
    """One per leadership."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._gpus = Gpus(ctx)
        self._stats: dict[ModelRef, Stats] = {}
        self._busy: dict[ModelRef, dict[str, int]] = {}
        self._missing_ms: dict[ModelRef, int] = {}
        self._worked_ms: dict[ModelRef, int] = {}
        self._starts_ms: dict[ModelRef, float] = {}
        self._served_ms: dict[ModelRef, int] = {}
        self._ready: dict[ModelRef, frozenset[str]] = {}

    async def once(self) -> None:
        """Raises BusError; then everything stays as it is."""
        models = {ref: model for ref in self._ctx.store.models() if (model := self._ctx.store.model(ref)) is not None}
        # Of one that this leadership has not looked at nothing is decided; GPUs that its pods have are taken.
        models = {ref: model for ref, model in models.items() if ref in self._ctx.memory.may_run}
        planned = {ref: model for ref, model in models.items() if model.spec.scales_itself or _gpu(model) is not None}
        self._forget(set(planned))
        if not any(model.spec.scales_itself for model in planned.values()):
            return
        resources = {gpu.resource_name for model in planned.values() if (gpu := _gpu(model)) is not None}
        await self._gpus.look(resources)
        if resources and not self._gpus.settled:
            return
        now_ms = await self._ctx.clock.now_ms()
        facts: dict[ModelRef, ModelFacts] = {}
        refs = sorted(planned)
        for begin in range(0, len(refs), ASKED_AT_ONCE):
            chunk = refs[begin : begin + ASKED_AT_ONCE]
            told = await asyncio.gather(*(self._facts(ref, planned[ref], now_ms) for ref in chunk))
            facts.update(zip(chunk, told, strict=True))
        pods = {(ref.namespace, replica.pod) for ref, each in facts.items() for replica in each.replicas}
        able = {ref: each for ref, each in facts.items() if not _stuck(each, now_ms)}
        decided = plan(list(able.values()), self._gpus.facts(pods), now_ms)
        for ref, each in able.items():
            if planned[ref].spec.scales_itself:
                self._note(ref, self._status(ref, each, decided.decisions[str(ref)]))

    def _forget(self, known: set[ModelRef]) -> None:
        memories: tuple[dict[ModelRef, Any], ...] = (
            self._stats,
            self._busy,
            self._missing_ms,
            self._worked_ms,
            self._starts_ms,
            self._served_ms,
            self._ready,
            self._ctx.memory.planned,
        )
        for memory in memories:
            for gone in set(memory) - known:
                del memory[gone]

    def _status(self, ref: ModelRef, facts: ModelFacts, decision: Decision) -> ScalingStatus:
        reason, message = decision.verdict.value, decision.message
        if not self._may_run(ref):
            reason, message = NOT_READY, "it may not start yet: its conditions say why"
        return ScalingStatus(
            replicas=decision.replicas,
            wanted=decision.wanted,
            reason=reason,
            message=_own_words(message, ref)[:1024],
            start_seconds=None if facts.start_ms is None else max(1, round(facts.start_ms / 1000)),
        )

    def _note(self, ref: ModelRef, status: ScalingStatus) -> None:
        before = self._ctx.memory.planned.get(ref)
        self._ctx.memory.planned[ref] = status
        if before is None or not same_plan(before, status):
            self._ctx.models.add(ref)
        if before is not None and before.replicas != status.replicas:
            self._ctx.metrics.scaled.labels(status.reason).inc()
            _log.info(
                "model scaled", model=str(ref), replicas=status.replicas, before=before.replicas, reason=status.reason
            )

    def _may_run(self, ref: ModelRef) -> bool:
        """As its last reconcile found."""
        return self._ctx.memory.may_run[ref]

    async def _facts(self, ref: ModelRef, model: LLMModel, now_ms: int) -> ModelFacts:
        pods = [pod for pod in self._ctx.store.pods(ref) if _stands(pod) and not pod.fetches]
        async with contained(ref, "planner", self._ctx):
            self._stats[ref] = await self._ctx.bus.stats(bus_key(ref))
            if pods:
                documents = await self._ctx.bus.reports(bus_key(ref))
                told = {pod: read for pod, document in documents.items() if (read := report(document)) is not None}
                self._busy[ref] = {pod: each.busy for pod, each in told.items()}
        stats, busy = self._stats.get(ref, NOTHING), self._busy.get(ref, {})
        replicas = [_replica(pod, busy.get(pod.name, 0)) for pod in pods]
        replicas += self._ordered(ref, sum(not pod.terminating for pod in pods), now_ms)
        if any(replica.state is ReplicaState.SERVING for replica in replicas):
            self._served_ms[ref] = now_ms
        may_run = self._may_run(ref)
        backlog = _backlog(self._ctx.store.open_tasks_of(ref), stats, now_ms, trial=_trial_ms(model))
        if backlog.total or stats.leased:
            self._worked_ms[ref] = now_ms
        self._measure_starts(ref)
        return ModelFacts(
            ref=str(ref),
            scaling=_scaling(model, may_run=may_run),
            slots=_slots(model),
            gpu=self._need(model),
            # For one that cannot start no GPU is held, and nobody makes room.
            backlog=backlog if may_run else Backlog(),
            in_flight=stats.leased,
            service_ms=stats.mean_service_ms,
            start_ms=self._starts_ms.get(ref) or _start_told(model),
            last_work_ms=self._worked_ms.setdefault(ref, now_ms),
            served_ms=self._served_ms.get(ref, 0),
            replicas=tuple(replicas),
        )

    def _ordered(self, ref: ModelRef, living: int, now_ms: int) -> list[Replica]:
        """What the Deployment asks for and nobody has made yet: their GPUs are spoken for, for a while. Pods that are
        refused are nobody's.
        """
        deployment = self._ctx.store.deployment(ref)
        missing = 0 if deployment is None or deployment.replica_failure else deployment.replicas - living
        if missing <= 0:
            self._missing_ms.pop(ref, None)
            return []
        since_ms = self._missing_ms.setdefault(ref, now_ms)
        return [Replica(f"{ref}#{number}", ReplicaState.STARTING, since_ms) for number in range(missing)]

    def _need(self, model: LLMModel) -> GpuNeed | None:
        """None where nodes are not known, too: nobody is kept from what the scheduler may allow."""
        gpu = _gpu(model)
        if gpu is None or not self._gpus.known:
            return None
        template, nodes = model.spec.runner_template, self._gpus.nodes.values()
        may = {node.name for node in nodes if admits(node, template, gpu.resource_name)}
        seen = weights.known(model, self._ctx.settings.runner.weights.node_directory)
        if seen is not None and seen.node is not None:
            may &= {seen.node}  # only there are its weights
        return GpuNeed(gpu.resource_name, gpu.count, frozenset(may))

    def _measure_starts(self, ref: ModelRef) -> None:
        """From pod to serving, of pods that began to serve since the last look."""
        pods = self._ctx.store.pods(ref)
        serving = frozenset(pod.name for pod in pods if pod.ready)
        # Of those that served when this leadership began nothing is learnt: they may have been ready twice.
        before = self._ready.get(ref, serving)
        for pod in pods:
            if pod.name in serving - before and pod.ready_changed_ms is not None:
                # Without what it waited for a node: that is no cost of a start.
                took_ms = float(pod.ready_changed_ms - (pod.scheduled_changed_ms or pod.created_ms))
                took_ms = min(took_ms, START_MOST_SECONDS * 1000)
                mean_ms = self._starts_ms.get(ref)
                self._starts_ms[ref] = took_ms if mean_ms is None else mean_ms + START_WEIGHT * (took_ms - mean_ms)
        self._ready[ref] = serving | (before & {pod.name for pod in pods})


def _gpu(model: LLMModel) -> Gpu | None:
    return model.spec.local.gpu if model.spec.local is not None else None


def _slots(model: LLMModel) -> int:
    if model.spec.local is not None:
        return model.spec.local.parallelism
    return (model.spec.remote.max_concurrency if model.spec.remote is not None else None) or REMOTE_SLOTS


def _scaling(model: LLMModel, *, may_run: bool) -> Scaling:
    if not model.spec.scales_itself:
        return Scaling(manual=model.spec.replicas if may_run else 0)
    spec = model.spec.scaling or ScalingSpec()
    return Scaling(
        min_replicas=spec.min_replicas if may_run else 0,
        max_replicas=spec.max_replicas,
        idle_seconds=spec.idle_seconds,
        tasks_per_replica=spec.tasks_per_replica,
    )


def _stuck(facts: ModelFacts, now_ms: int) -> bool:
    """The scheduler has found no place for any of its pods for so long that something else is missing than GPUs: a
    volume, memory. They stay, with their reason, and may come up; nothing is kept for them meanwhile.
    """
    waiting_ms = [now_ms - each.since_ms for each in facts.replicas if each.state is ReplicaState.STARTING]
    placed = any(each.node for each in facts.replicas)
    return facts.gpu is not None and bool(waiting_ms) and not placed and max(waiting_ms) > STUCK_SECONDS * 1000


def _trial_ms(model: LLMModel) -> int | None:
    """Since when somebody wants to know whether this model serves: Ready tells of it before anybody sends work, and
    helm --wait waits for it. None: an engine has loaded this spec, or said that it cannot. It is work like another.
    """
    conditions = model.status.conditions if model.status is not None else []
    tried = any(
        (condition := find_condition(conditions, type_)) is not None and condition.status is ConditionStatus.TRUE
        for type_ in ("Ready", "Stalled")
    )
    return None if tried or not model.spec.scales_itself else milliseconds(model.metadata.creation_timestamp) or 0


def _start_told(model: LLMModel) -> float | None:
    """As an earlier leader measured it."""
    told = model.status.scaling if model.status is not None else None
    return None if told is None or told.start_seconds is None else told.start_seconds * 1000.0


def _own_words(message: str, ref: ModelRef) -> str:
    """Models of other namespaces are not named: their names are their owners'."""
    return re.sub(r"[^\s,;:()]+/[^\s,;:()]+", lambda found: _named(found[0], ref), message)


def _named(word: str, ref: ModelRef) -> str:
    return word if word.partition("/")[0] == ref.namespace or "." in word else "another namespace's model"


def _stands(pod: PodView) -> bool:
    return pod.phase not in ("Succeeded", "Failed")


def _replica(pod: PodView, busy: int) -> Replica:
    if pod.terminating:
        state, since_ms = ReplicaState.DRAINING, pod.terminating_ms or pod.created_ms
    elif pod.ready:
        state, since_ms = ReplicaState.SERVING, pod.ready_changed_ms or pod.created_ms
    else:
        state, since_ms = ReplicaState.STARTING, pod.created_ms
    return Replica(pod.name, state, since_ms, busy, pod.node)


def _backlog(views: list[TaskView], stats: Stats, now_ms: int, *, trial: int | None = None) -> Backlog:
    """Tasks by their objects, which are older than their entries; Calls, which have none, by the queue.

    A task that runs says so only after a second: Redis knows how many are still queued, and the oldest of those that
    say so are taken for those that are not.
    """
    tasks, calls = [0] * len(AGE_STARTS_SECONDS), [0] * len(AGE_STARTS_SECONDS)
    queued = [0] * len(AGE_STARTS_SECONDS)
    for view in views:
        if view.reason in WAITS_FOR_MODEL and not view.deleting and view.phase in ("Queued", "Waiting"):
            (queued if view.phase == "Queued" else tasks)[_bucket(now_ms - view.created_ms)] += 1
    begun = max(0, sum(queued) - max(0, stats.queued - stats.queued_calls)) if stats.leased else 0
    for index in reversed(range(len(queued))):
        gone = min(begun, queued[index])
        begun -= gone
        tasks[index] += queued[index] - gone
    if stats.queued_calls:
        # One age for all of them; the queue tells that of its oldest entry, which may be a task's.
        calls[_bucket(now_ms - (stats.oldest_queued_ms or now_ms)) if not sum(queued) else 0] = stats.queued_calls
    if trial is not None and not sum(tasks):
        tasks[_bucket(now_ms - trial)] += 1
    return Backlog(tuple(calls), tuple(tasks))


def _bucket(age_ms: int) -> int:
    return max(0, bisect.bisect_right(AGE_STARTS_SECONDS, age_ms / 1000) - 1)
