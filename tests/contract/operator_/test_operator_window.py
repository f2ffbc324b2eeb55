"""What is handed out is bounded: by model, by namespace, by an LLMQuota; and who waits follows by itself."""

import asyncio
from typing import Any

import pytest
from cluster_world import MODEL, Cluster, Operator, StartOperator, until

from headrace_bus import Bus, EntryState, ModelKey

QUOTAS = "/apis/headrace.dev/v1alpha1/namespaces/{}/llmquotas"


def quota(cluster: Cluster, **spec: Any) -> None:
    body = {"apiVersion": "headrace.dev/v1alpha1", "kind": "LLMQuota", "metadata": {"name": "default"}, "spec": spec}
    cluster.request("POST", QUOTAS.format(cluster.namespace), json=body)


async def leading(start: StartOperator, identity: str = "operator-0", **settings: str) -> Operator:
    operator = start(identity, **{"HEADRACE_ELECTION_LEASE_SECONDS": "8", **settings})
    await until(operator.leads, 60)
    return operator


async def names(cluster: Cluster, phase: str, reason: str = "") -> set[str]:
    items = cluster.request("GET", cluster.path("llmtask"))["items"]
    return {
        item["metadata"]["name"]
        for item in items
        if item["status"].get("phase") == phase and reason in ("", item["status"].get("reason"))
    }


async def held(bus: Bus, key: ModelKey) -> int:
    return len((await bus.uids(key)).entries)


async def in_order(bus: Bus, key: ModelKey, cluster: Cluster, count: int) -> list[str]:
    """Claims and commits one after the other, as one runner does; the names in the order of delivery."""
    names = []
    for _ in range(count):
        deliveries: list[Any] = []
        while not deliveries:
            deliveries = await bus.claim(key, worker="pod-a", count=1, lease_ms=60_000)
            await asyncio.sleep(0.02)
        (delivery,) = deliveries
        names.append(delivery.envelope.name)
        cluster.commit(delivery.envelope.name, delivery.envelope.attempt)
        assert await bus.complete(key, delivery.token)
    return names


async def test_a_full_window_makes_tasks_wait_and_room_is_given_in_order(
    start: StartOperator, cluster: Cluster, bus: Bus, key: ModelKey
) -> None:
    await leading(start, HEADRACE_QUEUE_MODEL_TASKS="3")
    cluster.model()
    for number in range(3):
        uid = cluster.task(f"first-{number}")
        await until(lambda uid=uid: in_state(bus, key, uid))
    cluster.task("low", priority=-100)
    cluster.task("middle")
    cluster.task("high", priority=100)
    await until(lambda: count_of(cluster, "Waiting", 3))
    assert await names(cluster, "Waiting", "QueueFull") == {"low", "middle", "high"}
    message = cluster.status("low")["message"]
    assert "3 tasks" in message
    assert await held(bus, key) == 3

    (first,) = await in_order(bus, key, cluster, 1)
    assert first == "first-0"
    await until(lambda: is_queued(cluster, "high"))
    assert await names(cluster, "Waiting", "QueueFull") == {"low", "middle"}
    order = await in_order(bus, key, cluster, 5)
    assert order[0] == "high"
    assert order[-1] == "low"
    await until(lambda: count_of(cluster, "Complete", 6))


async def is_queued(cluster: Cluster, name: str) -> bool:
    return cluster.status(name).get("phase") == "Queued"


async def count_of(cluster: Cluster, phase: str, count: int) -> bool:
    return len(await names(cluster, phase)) == count


async def test_never_more_is_handed_out_than_the_bound_also_across_kills(
    start: StartOperator, cluster: Cluster, bus: Bus, key: ModelKey
) -> None:
    bound, total = 4, 14
    operator = await leading(start, HEADRACE_QUEUE_NAMESPACE_TASKS=str(bound))
    cluster.model()
    for number in range(total):
        cluster.task(f"t-{number}")
    await until(lambda: count_of(cluster, "Queued", bound))
    most = 0
    stop = asyncio.Event()

    async def watch() -> None:
        nonlocal most
        while not stop.is_set():
            items = await asyncio.to_thread(cluster.request, "GET", cluster.path("llmtask"))
            most = max(most, sum(item["status"].get("phase") in ("Queued", "Running") for item in items["items"]))
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    other = Cluster(cluster.kubectl, cluster.namespace)
    done = 0
    for round_ in range(2):
        done += len(await in_order(bus, key, other, 3))
        operator.kill()
        # Room that appears while nobody looks.
        done += len(await in_order(bus, key, other, 1))
        operator = await leading(start, f"operator-{round_ + 1}", HEADRACE_QUEUE_NAMESPACE_TASKS=str(bound))
    done += len(await in_order(bus, key, other, total - done))
    await until(lambda: count_of(other, "Complete", total))
    stop.set()
    await watching
    other.close()
    assert most == bound


async def test_bytes_are_bounded(start: StartOperator, cluster: Cluster, bus: Bus, key: ModelKey) -> None:
    await leading(start, HEADRACE_QUEUE_NAMESPACE_BYTES=str(2**20))
    cluster.model()
    for number in range(6):
        cluster.task(f"t-{number}", prompt="x" * 250_000)
    await until(lambda: count_of(cluster, "Queued", 4))
    await until(lambda: count_of(cluster, "Waiting", 2))
    assert "1048576 bytes" in cluster.status((await names(cluster, "Waiting")).pop())["message"]
    await in_order(bus, key, cluster, 6)
    await until(lambda: count_of(cluster, "Complete", 6))


async def test_a_quota_bounds_what_is_handed_out_and_raising_it_lets_in(
    start: StartOperator, cluster: Cluster, bus: Bus, key: ModelKey
) -> None:
    quota(cluster, maxQueuedTasks=5, maxRunningTasks=2)
    await leading(start)
    cluster.model()
    for number in range(4):
        cluster.task(f"t-{number}")
    await until(lambda: count_of(cluster, "Queued", 2))
    await until(lambda: count_of(cluster, "Waiting", 2))
    waits = await names(cluster, "Waiting", "QuotaExceeded")
    assert len(waits) == 2
    message = cluster.status(waits.pop())["message"]
    assert "2 tasks" in message
    assert "maxRunningTasks of LLMQuota 'default', which the namespace's admins can raise" in message
    headers = {"Content-Type": "application/merge-patch+json"}
    path = QUOTAS.format(cluster.namespace) + "/default"
    cluster.request("PATCH", path, content='{"spec": {"maxRunningTasks": 3}}', headers=headers)
    await until(lambda: count_of(cluster, "Queued", 3))
    cluster.request("DELETE", path)
    await until(lambda: count_of(cluster, "Queued", 4))


async def test_a_quotas_status_tells_what_is_used(start: StartOperator, cluster: Cluster) -> None:
    quota(cluster, maxQueuedTasks=1)
    await leading(start)
    cluster.model()
    for number in range(3):
        cluster.task(f"t-{number}")

    def status() -> dict[str, Any]:
        return dict(cluster.request("GET", QUOTAS.format(cluster.namespace) + "/default").get("status") or {})

    async def told() -> bool:
        found = status()
        return (found.get("queued"), found.get("running"), found.get("waiting")) == (1, 0, 2)

    await until(told)
    assert status()["observedGeneration"] == 1


async def test_a_default_quota_holds_where_there_is_none(start: StartOperator, cluster: Cluster) -> None:
    await leading(start, HEADRACE_DEFAULT_QUOTA='{"maxQueuedTasks": 1}')
    cluster.model()
    cluster.task("one")
    await until(lambda: is_queued(cluster, "one"))
    cluster.task("two")
    await until(lambda: count_of(cluster, "Waiting", 1))
    assert "quota.default.maxQueuedTasks of the chart" in cluster.status("two")["message"]
    quota(cluster)
    cluster.task("three")
    await until(lambda: count_of(cluster, "Waiting", 2))


async def test_a_lowered_ceiling_moves_what_is_queued(
    start: StartOperator, cluster: Cluster, bus: Bus, key: ModelKey
) -> None:
    await leading(start)
    cluster.model()
    older = cluster.task("older")
    await until(lambda: in_state(bus, key, older))
    vain = cluster.task("vain", priority=100)
    await until(lambda: in_state(bus, key, vain))
    assert await bus.position(key, vain) == 0
    quota(cluster, priorityCeiling=0)

    async def moved() -> bool:
        return await bus.position(key, vain) == 1

    await until(moved)
    late = cluster.task("late", priority=100)
    await until(lambda: in_state(bus, key, late))
    assert await bus.position(key, late) == 2


async def in_state(bus: Bus, key: ModelKey, uid: str) -> bool:
    entry = await bus.inspect(key, uid)
    return entry is not None and entry.state is EntryState.QUEUED


@pytest.mark.parametrize("weight", [3])
async def test_a_weight_reaches_the_queues(
    start: StartOperator, cluster: Cluster, redis: Any, key: ModelKey, weight: int
) -> None:
    await leading(start)
    cluster.model()
    cluster.task("one")
    await until(lambda: is_queued(cluster, "one"))
    quota(cluster, weight=weight)

    async def weights() -> dict[str, str]:
        return dict(await redis.hgetall(f"headrace:{{{key}}}:weights"))

    async def told() -> bool:
        return {name: float(value) for name, value in (await weights()).items()} == {key.namespace: weight}

    await until(told)
    cluster.request("DELETE", QUOTAS.format(cluster.namespace) + "/default")

    async def none() -> bool:
        return await weights() == {}

    await until(none)


async def test_who_waits_for_room_is_told_when_the_model_goes(start: StartOperator, cluster: Cluster) -> None:
    await leading(start, HEADRACE_QUEUE_MODEL_TASKS="1")
    cluster.model()
    for name in ("one", "two"):
        cluster.task(name)
    await until(lambda: count_of(cluster, "Waiting", 1))
    cluster.delete("llmmodel", MODEL)

    async def told() -> bool:
        return len(await names(cluster, "Waiting", "ModelNotFound")) == 2

    await until(told)
    cluster.collect()
    cluster.model()
    await until(lambda: count_of(cluster, "Queued", 1))
    await until(lambda: names(cluster, "Waiting", "QueueFull"))


async def test_an_outage_of_redis_leaves_quotas_and_weights_in_force(
    start: StartOperator, cluster: Cluster, server: Any, redis: Any, key: ModelKey
) -> None:
    operator = await leading(start)
    quota(cluster, weight=3, maxQueuedTasks=1)
    cluster.model()
    cluster.task("one")
    await until(lambda: is_queued(cluster, "one"))
    name = f"headrace:{{{key}}}:weights"

    async def weighed() -> bool:
        return bool(await redis.hgetall(name))

    await until(weighed)
    assert operator.process is not None
    await redis.execute_command("CLIENT", "PAUSE", "25000", "ALL")
    cluster.task("two")
    await until(lambda: told_waiting(cluster), 60)
    await redis.delete(name)
    await until(weighed, 60)
    assert operator.process.poll() is None


async def told_waiting(cluster: Cluster) -> bool:
    return await names(cluster, "Waiting", "QuotaExceeded") == {"two"}
