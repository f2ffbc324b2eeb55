"""Models, nodes and backlogs for the planner's tests, and what becomes of a plan that is carried out."""

from dataclasses import replace

from headrace_operator.planner.facts import (
    AGE_STARTS_SECONDS,
    Backlog,
    GpuNeed,
    ModelFacts,
    NodeFacts,
    Plan,
    Replica,
    ReplicaState,
    Scaling,
)

GPU = "nvidia.com/gpu"
NOW = 10_000_000


def waiting(tasks: int = 0, *, age_seconds: int = 0, calls: int = 0) -> Backlog:
    index = max(i for i, start in enumerate(AGE_STARTS_SECONDS) if start <= age_seconds)
    counts = [0] * len(AGE_STARTS_SECONDS)
    own, others = list(counts), list(counts)
    own[index], others[index] = tasks, calls
    return Backlog(calls=tuple(others), tasks=tuple(own))


def serving(
    pod: str, node: str = "n0", *, seconds: float = 1000, busy: int = 1, state: ReplicaState = ReplicaState.SERVING
) -> Replica:
    return Replica(pod, state, int(NOW - seconds * 1000), busy, node)


def a_model(
    ref: str,
    backlog: Backlog | None = None,
    *replicas: Replica,
    gpus: int = 1,
    nodes: tuple[str, ...] = ("n0",),
    slots: int = 4,
    most: int = 1,
    least: int = 0,
    manual: int | None = None,
    each: int | None = None,
    idle_seconds: int = 300,
    in_flight: int | None = None,
    last_work_seconds: float | None = None,
    served_ms: int = 0,
    service_ms: float | None = 5_000,
    start_ms: float | None = 20_000,
) -> ModelFacts:
    """With GPUs unless `gpus` is 0; in flight is what its replicas are busy with."""
    work = backlog or Backlog()
    flying = sum(replica.busy for replica in replicas) if in_flight is None else in_flight
    last = NOW if (work.total or flying) and last_work_seconds is None else NOW - (last_work_seconds or 0) * 1000
    return ModelFacts(
        ref=f"team/{ref}",
        scaling=Scaling(least, most, idle_seconds, each, manual),
        slots=slots,
        gpu=GpuNeed(GPU, gpus, frozenset(nodes)) if gpus else None,
        backlog=work,
        in_flight=flying,
        service_ms=service_ms,
        start_ms=start_ms,
        last_work_ms=int(last),
        served_ms=served_ms,
        replicas=replicas,
    )


def node(name: str = "n0", gpus: int = 1) -> NodeFacts:
    return NodeFacts(name, {GPU: gpus})


def carried_out(models: list[ModelFacts], nodes: list[NodeFacts], plan: Plan, now_ms: int = NOW) -> list[ModelFacts]:
    """What the facts are when Deployments have followed the plan and nothing else happened: what goes drains, what
    comes has no node yet.
    """
    after = []
    for model in models:
        decision = plan.decisions[model.ref]
        replicas = [
            replace(replica, state=ReplicaState.DRAINING, since_ms=now_ms)
            if replica.pod in decision.drains
            else replica
            for replica in model.replicas
            if replica.node or replica.pod not in decision.drains
        ]
        live = [replica for replica in replicas if replica.state is not ReplicaState.DRAINING]
        for number in range(len(live), decision.replicas):
            replicas.append(Replica(f"{model.ref}-new-{number}", ReplicaState.STARTING, now_ms))
        after.append(replace(model, replicas=tuple(replicas)))
    return after
