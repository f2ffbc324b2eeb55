"""How long one decision takes: 1,000 models, 400 GPUs, 100,000 queued tasks."""

import random
import statistics
import time

from headrace_operator.planner.facts import (
    AGE_STARTS_SECONDS,
    Backlog,
    GpuNeed,
    ModelFacts,
    NodeFacts,
    Replica,
    ReplicaState,
    Scaling,
)
from headrace_operator.planner.planning import plan

GPU, NOW_MS, MODELS, NODES, PER_NODE, QUEUED = "nvidia.com/gpu", 10**9, 1000, 50, 8, 100_000


def decision_ms(rounds: int = 9) -> float:
    """The slowest case's median: GPUs free or taken, work young or starving, one GPU a replica or up to four.

    CPU time, as the machine may have other work.
    """
    cases = [_case(full, old, wide) for full in (False, True) for old in (False, True) for wide in (False, True)]
    return max(statistics.median(_milliseconds(*case) for _ in range(rounds)) for case in cases)


def _milliseconds(models: list[ModelFacts], nodes: list[NodeFacts]) -> float:
    began = time.process_time()
    plan(models, nodes, NOW_MS)
    return (time.process_time() - began) * 1000


def _case(full: bool, old: bool, wide: bool) -> tuple[list[ModelFacts], list[NodeFacts]]:
    rnd = random.Random(1)
    nodes = [NodeFacts(f"n{number:02}", {GPU: PER_NODE}) for number in range(NODES)]
    everywhere = frozenset(node.name for node in nodes)
    places = [node.name for node in nodes for _ in range(PER_NODE)] if full else []
    rnd.shuffle(places)
    ages = len(AGE_STARTS_SECONDS) - (0 if old else 2)
    models = []
    for number in range(MODELS):
        counts = [0] * len(AGE_STARTS_SECONDS)
        for _ in range(QUEUED // MODELS):
            counts[rnd.randrange(ages)] += 1
        replicas = tuple(
            Replica(f"m{number}-{index}", ReplicaState.SERVING, NOW_MS - rnd.randrange(900_000), 4, places.pop())
            for index in range(rnd.choice((0, 0, 0, 1, 1)))
            if places
        )
        models.append(
            ModelFacts(
                ref=f"team/m{number:04}",
                scaling=Scaling(max_replicas=4),
                slots=8,
                gpu=GpuNeed(GPU, 1 if replicas or not wide else rnd.choice((1, 2, 4)), everywhere),
                backlog=Backlog(tasks=tuple(counts)),
                in_flight=4 * len(replicas),
                service_ms=5_000,
                start_ms=60_000,
                last_work_ms=NOW_MS,
                replicas=replicas,
            )
        )
    return models, nodes
