"""Replicas by backlog: gathers what the planner is told, and hands its decisions to the models' reconciles.

What it remembers saves nothing but time: a new leader measures starts anew, and takes every model for just idle.
"""

import bisect
from typing import Any, Final

import structlog

from headrace_bus import Stats
from headrace_crds.base import ConditionStatus, find_condition
from headrace_crds.model import Gpu, LLMModel
from headrace_crds.reasons import Reason
from headrace_crds.scaling import Scaling as ScalingSpec
from headrace_crds.scaling import ScalingStatus
from headrace_operator.context import Context, bus_key
from headrace_operator.decide import weights
from headrace_operator.decide.model_status import same_plan
from headrace_operator.decide.nodes import admits
from headrace_operator.decide.snapshots import PodView, Report
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
)
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
        self._last: dict[ModelRef, ModelFacts] = {}
        self._worked_ms: dict[ModelRef, int] = {}
        self._starts_ms: dict[ModelRef, float] = {}
        self._served_ms: dict[ModelRef, int] = {}
        self._ready: dict[ModelRef, frozenset[str]] = {}

    async def once(self) -> None:
        """Raises BusError; then everything stays as it is."""
        models = {ref: model for ref in self._ctx.store.models() if (model := self._ctx.store.model(ref)) is not None}
        planned = {ref: model for ref, model in models.items() if model.spec.scales_itself or _gpu(model) is not None}
        self._forget(set(planned))
        if not any(model.spec.scales_itself for model in planned.values()):
            return
        await self._gpus.look({gpu.resource_name for model in models.values() if (gpu := _gpu(model)) is not None})
        now_ms = await self._ctx.clock.now_ms()
        facts = {}
        for ref, model in planned.items():
            async with contained(ref, "planner", self._ctx):
                self._last[ref] = await self._facts(ref, model, now_ms)
            if ref in self._last:
                facts[ref] = self._last[ref]
        decided = plan(list(facts.values()), self._gpus.facts(), now_ms)
        for ref in facts:
            if planned[ref].spec.scales_itself:
                self._note(ref, decided.decisions[str(ref)])

    def _forget(self, known: set[ModelRef]) -> None:
        memories: tuple[dict[ModelRef, Any], ...] = (
            self._last,
            self._worked_ms,
            self._starts_ms,
            self._served_ms,
            self._ready,
            self._ctx.memory.planned,
        )
        for memory in memories:
            for gone in set(memory) - known:
                del memory[gone]

    def _note(self, ref: ModelRef, decision: Decision) -> None:
        status = ScalingStatus(
            replicas=decision.replicas,
            wanted=decision.wanted,
            reason=decision.verdict.value,
            message=decision.message[:1024],
        )
        before = self._ctx.memory.planned.get(ref)
        self._ctx.memory.planned[ref] = status
        if before is None or not same_plan(before, status):
            self._ctx.models.add(ref)
        if before is not None and before.replicas != status.replicas:
            self._ctx.metrics.scaled.labels(status.reason).inc()
            _log.info(
                "model scaled", model=str(ref), replicas=status.replicas, before=before.replicas, reason=status.reason
            )

    async def _facts(self, ref: ModelRef, model: LLMModel, now_ms: int) -> ModelFacts:
        stats = await self._ctx.bus.stats(bus_key(ref))
        documents = await self._ctx.bus.reports(bus_key(ref))
        reports = {pod: read for pod, document in documents.items() if (read := report(document)) is not None}
        pods = [pod for pod in self._ctx.store.pods(ref) if _stands(pod) and not pod.fetches]
        replicas = [_replica(pod, reports.get(pod.name)) for pod in pods]
        replicas += self._ordered(ref, sum(not pod.terminating for pod in pods), now_ms)
        if any(replica.state is ReplicaState.SERVING for replica in replicas):
            self._served_ms[ref] = now_ms
        startable = self._startable(model)
        # While its weights are fetched no GPU is held for it.
        backlog = _backlog(self._ctx.store.open_tasks_of(ref), stats, now_ms) if startable else Backlog()
        if backlog.total or stats.leased:
            self._worked_ms[ref] = now_ms
        self._measure_starts(ref)
        return ModelFacts(
            ref=str(ref),
            scaling=_scaling(model, startable=startable),
            slots=_slots(model),
            gpu=self._need(model),
            backlog=backlog,
            in_flight=stats.leased,
            service_ms=stats.mean_service_ms,
            start_ms=self._starts_ms.get(ref),
            last_work_ms=self._worked_ms.setdefault(ref, now_ms),
            served_ms=self._served_ms.get(ref, 0),
            replicas=tuple(replicas),
        )

    def _startable(self, model: LLMModel) -> bool:
        local = model.spec.local
        directory = self._ctx.settings.runner.weights.node_directory
        return local is None or not local.source.fetched or weights.known(model, directory) is not None

    def _ordered(self, ref: ModelRef, living: int, now_ms: int) -> list[Replica]:
        """What the Deployment asks for and nobody has made yet: their GPUs are spoken for."""
        deployment = self._ctx.store.deployment(ref)
        missing = (deployment.replicas if deployment is not None else 0) - living
        return [Replica(f"{ref}#{number}", ReplicaState.STARTING, now_ms) for number in range(missing)]

    def _need(self, model: LLMModel) -> GpuNeed | None:
        """None where nodes are not known, too: nobody is kept from what the scheduler may allow."""
        gpu = _gpu(model)
        if gpu is None or not self._gpus.known:
            return None
        nodes = [node.name for node in self._gpus.nodes.values() if admits(node, model.spec.runner_template)]
        return GpuNeed(gpu.resource_name, gpu.count, frozenset(nodes))

    def _measure_starts(self, ref: ModelRef) -> None:
        """From pod to serving, of pods that began to serve since the last look."""
        pods = self._ctx.store.pods(ref)
        serving = frozenset(pod.name for pod in pods if pod.ready)
        # Of those that served when this leadership began nothing is learnt: they may have been ready twice.
        before = self._ready.get(ref, serving)
        for pod in pods:
            if pod.name in serving - before and pod.ready_changed_ms is not None:
                took_ms, mean_ms = float(pod.ready_changed_ms - pod.created_ms), self._starts_ms.get(ref)
                self._starts_ms[ref] = took_ms if mean_ms is None else mean_ms + START_WEIGHT * (took_ms - mean_ms)
        self._ready[ref] = serving | (before & {pod.name for pod in pods})


def _gpu(model: LLMModel) -> Gpu | None:
    return model.spec.local.gpu if model.spec.local is not None else None


def _slots(model: LLMModel) -> int:
    if model.spec.local is not None:
        return model.spec.local.parallelism
    return (model.spec.remote.max_concurrency if model.spec.remote is not None else None) or REMOTE_SLOTS


def _scaling(model: LLMModel, *, startable: bool) -> Scaling:
    if not model.spec.scales_itself:
        return Scaling(manual=model.spec.replicas)
    spec = model.spec.scaling or ScalingSpec()
    return Scaling(
        min_replicas=max(spec.min_replicas, 0 if _tried(model) else 1) if startable else 0,
        max_replicas=spec.max_replicas,
        idle_seconds=spec.idle_seconds,
        tasks_per_replica=spec.tasks_per_replica,
    )


def _tried(model: LLMModel) -> bool:
    """Whether an engine has loaded this spec, or said that it cannot: Ready tells of it before anybody sends work."""
    conditions = model.status.conditions if model.status is not None else []
    return any(
        (condition := find_condition(conditions, type_)) is not None and condition.status is ConditionStatus.TRUE
        for type_ in ("Ready", "Stalled")
    )


def _stands(pod: PodView) -> bool:
    return pod.phase not in ("Succeeded", "Failed")


def _replica(pod: PodView, told: Report | None) -> Replica:
    if pod.terminating:
        state, since_ms = ReplicaState.DRAINING, pod.terminating_ms or pod.created_ms
    elif pod.ready:
        state, since_ms = ReplicaState.SERVING, pod.ready_changed_ms or pod.created_ms
    else:
        state, since_ms = ReplicaState.STARTING, pod.created_ms
    return Replica(pod.name, state, since_ms, told.busy if told is not None else 0, pod.node)


def _backlog(views: list[TaskView], stats: Stats, now_ms: int) -> Backlog:
    """Tasks by their objects, which are older than their entries; Calls, which have none, by the queue.

    A task that runs says so only after a second: what is leased beyond that is taken off the oldest.
    """
    tasks, calls, running = [0] * len(AGE_STARTS_SECONDS), [0] * len(AGE_STARTS_SECONDS), 0
    for view in views:
        if view.phase == "Running":
            running += 1
        elif view.reason in WAITS_FOR_MODEL and view.phase in ("Queued", "Waiting") and not view.deleting:
            tasks[_bucket(now_ms - view.created_ms)] += 1
    unsaid = max(0, stats.leased - running)
    for index in reversed(range(len(tasks))):
        begun = min(unsaid, tasks[index])
        tasks[index] -= begun
        unsaid -= begun
    if stats.queued_calls:
        # One age for all of them; the queue tells that of its oldest entry, which may be a task's.
        calls[_bucket(now_ms - (stats.oldest_queued_ms or now_ms)) if not sum(tasks) else 0] = stats.queued_calls
    return Backlog(tuple(calls), tuple(tasks))


def _bucket(age_ms: int) -> int:
    return max(0, bisect.bisect_right(AGE_STARTS_SECONDS, age_ms / 1000) - 1)
