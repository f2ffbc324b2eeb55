"""Replicas by backlog against a real API server and Redis; nodes, scheduler, kubelet and runners by hand."""

from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio
from cluster_world import ENGINE, MODEL, RUNNER, Cluster, Operator, until

from headrace_bus import Bus, ModelKey
from headrace_crds.names import runner_name


@pytest_asyncio.fixture
async def one_gpu(cluster: Cluster) -> AsyncIterator[str]:
    """A node with one GPU, of a resource that no other test's models ask for."""
    resource = f"{cluster.namespace}.example/gpu"
    name = f"node-{cluster.namespace}"
    cluster.node(name, {resource: "1"})
    yield resource
    cluster.delete("node", name)


def replicas(cluster: Cluster, name: str = MODEL) -> int | None:
    deployment = cluster.get("deployment", runner_name(name))
    return None if deployment is None else deployment["spec"]["replicas"]


async def has(cluster: Cluster, count: int, name: str = MODEL) -> bool:
    return replicas(cluster, name) == count


async def scaling(cluster: Cluster, name: str, reason: str) -> dict[str, Any] | None:
    found = cluster.status(name, "llmmodel").get("scaling") or {}
    return found if found.get("reason") == reason else None


async def serves(cluster: Cluster, bus: Bus, namespace: str, name: str, pod: str, *, node: str = "") -> None:
    cluster.pod(pod, runner=runner_name(name), node=node)
    cluster.pod_ready(pod)
    told = {"state": "Serving", "generation": 1, "engine": ENGINE}
    await bus.report(ModelKey(namespace, name), pod, told, ttl_ms=600_000)


async def test_it_is_tried_once_goes_to_zero_and_comes_back_for_work(
    operator: Operator, cluster: Cluster, bus: Bus, key: ModelKey, namespace: str
) -> None:
    cluster.model(scaling={"idleSeconds": 1, "drainSeconds": 7})
    # Nobody sent work yet: whether the weights are good is to be known before somebody does.
    await until(lambda: has(cluster, 1))
    deployment = cluster.get("deployment", RUNNER)
    assert deployment is not None
    pod = deployment["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 7 + 25
    assert {"name": "HEADRACE_DRAIN_SECONDS", "value": "7"} in pod["containers"][0]["env"]
    await serves(cluster, bus, namespace, MODEL, "pod-a")

    await until(lambda: has(cluster, 0))
    cluster.delete_pods()

    async def at_rest() -> bool:
        status = cluster.status(MODEL, "llmmodel")
        return status["phase"] == "ScaledToZero" and cluster.conditions().get("Ready") == ("True", "ScaledToZero")

    await until(at_rest)
    planned = cluster.status(MODEL, "llmmodel")["scaling"]
    assert (planned["replicas"], planned["reason"]) == (0, "ScaledToZero")
    # The spec is its owner's: nobody wrote to it.
    found = cluster.get("llmmodel", MODEL)
    assert found is not None
    assert (found["spec"]["replicas"], found["metadata"]["generation"]) == (1, 1)

    cluster.task("t")
    await until(lambda: has(cluster, 1))

    async def told() -> bool:
        return cluster.status("t").get("reason") == "ModelLoading"

    await until(told)


async def test_a_burst_is_one_step(operator: Operator, cluster: Cluster, bus: Bus, namespace: str) -> None:
    cluster.model(scaling={"maxReplicas": 5, "tasksPerReplica": 2})
    await until(lambda: has(cluster, 1))
    await serves(cluster, bus, namespace, MODEL, "pod-a")
    for number in range(7):
        cluster.task(f"t{number}")
    await until(lambda: has(cluster, 4))


async def test_by_hand_it_is_the_specs(operator: Operator, cluster: Cluster) -> None:
    cluster.model(scaling={"mode": "Manual", "minReplicas": 2, "maxReplicas": 9}, replicas=3)
    await until(lambda: has(cluster, 3))
    cluster.patch("llmmodel", MODEL, {"spec": {"replicas": 0}})
    await until(lambda: has(cluster, 0))
    assert "scaling" not in cluster.status(MODEL, "llmmodel")


async def test_two_models_take_turns_on_one_gpu(
    operator: Operator, cluster: Cluster, bus: Bus, namespace: str, one_gpu: str
) -> None:
    local = {"gpu": {"count": 1, "resourceName": one_gpu}}
    cluster.model(name="first", local=local, scaling={"idleSeconds": 600})
    await until(lambda: has(cluster, 1, "first"))
    await serves(cluster, bus, namespace, "first", "pod-first", node=f"node-{namespace}")
    cluster.model(name="second", local=local, scaling={"idleSeconds": 600})

    async def second_has_its_children() -> bool:
        return replicas(cluster, "second") is not None

    await until(second_has_its_children)
    # The first one is idle, and is asked to make room; until its pod has ended nobody else has the GPU.
    await until(lambda: has(cluster, 0, "first"))
    short = await until(lambda: scaling(cluster, "second", "WaitingForGPU"))
    assert (short["replicas"], short["wanted"]) == (0, 1)
    assert cluster.status("second", "llmmodel")["phase"] == "WaitingForGPU"
    assert cluster.conditions(name="second")["Placed"] == ("False", "WaitingForGPU")
    assert replicas(cluster, "second") == 0
    cluster.task("t", modelRef={"name": "second"})

    async def told() -> bool:
        status = cluster.status("t")
        return status.get("reason") == "WaitingForGPU" and "second" in status["message"]

    await until(told)
    cluster.delete("pod", "pod-first")
    await until(lambda: has(cluster, 1, "second"))
    assert replicas(cluster, "first") == 0


async def test_nobody_waits_for_a_gpu_that_no_node_has(operator: Operator, cluster: Cluster, one_gpu: str) -> None:
    cluster.model(local={"gpu": {"count": 2, "resourceName": one_gpu}}, scaling={})
    planned = await until(lambda: scaling(cluster, MODEL, "NoSuchGPU"))
    assert planned["replicas"] == 0
    assert one_gpu in planned["message"]
    # A second GPU on the node is seen.
    cluster.node(f"node-{cluster.namespace}", {one_gpu: "2"})
    await until(lambda: has(cluster, 1))


async def test_a_taint_keeps_away_who_does_not_tolerate_it(operator: Operator, cluster: Cluster, one_gpu: str) -> None:
    name = f"node-{cluster.namespace}"
    cluster.patch("node", name, {"spec": {"taints": [{"key": "gpu", "effect": "NoSchedule"}]}})
    local = {"gpu": {"count": 1, "resourceName": one_gpu}}
    cluster.model(name="kept-away", local=local, scaling={})
    await until(lambda: scaling(cluster, "kept-away", "NoSuchGPU"))
    template = {"tolerations": [{"key": "gpu", "operator": "Exists"}], "labels": {"team": "a"}}
    cluster.model(name="tolerates", local=local, scaling={}, runnerTemplate=template)
    await until(lambda: has(cluster, 1, "tolerates"))
    deployment = cluster.get("deployment", "headrace-tolerates")
    assert deployment is not None
    # A node's taint by the resource's own name is tolerated unasked.
    own = {"key": one_gpu, "operator": "Exists"}
    assert deployment["spec"]["template"]["spec"]["tolerations"] == [{"key": "gpu", "operator": "Exists"}, own]
    assert deployment["metadata"]["labels"]["team"] == "a"
    assert deployment["spec"]["template"]["metadata"]["labels"]["team"] == "a"
