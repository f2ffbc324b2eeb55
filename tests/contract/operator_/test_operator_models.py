"""A model's children and conditions against a real API server and Redis; scheduler, kubelet and runner by hand."""

import base64
from typing import Any

from cluster_world import CHILD_KINDS, ENGINE, MODEL, RUNNER, Cluster, Operator, Writes, until
from redis.asyncio import Redis
from redis_server import RedisServer

from headrace_bus import Bus, BusDenied, EntryState, ModelKey


async def conditions(cluster: Cluster, **want: tuple[str, str] | None) -> bool:
    found = cluster.conditions()
    return all(found.get(type_) == value for type_, value in want.items())


async def deployed(cluster: Cluster) -> bool:
    return cluster.get("deployment", RUNNER) is not None


async def test_the_children_are_there_and_owned(operator: Operator, cluster: Cluster) -> None:
    uid = cluster.model()
    await until(lambda: deployed(cluster))
    for kind in CHILD_KINDS:
        child = cluster.get(kind, RUNNER)
        assert child is not None, kind
        assert child["metadata"]["ownerReferences"][0]["uid"] == uid
    status = cluster.status(MODEL, "llmmodel")
    assert status["observedGeneration"] == 1


async def test_a_runners_redis_user_reaches_its_own_keys_alone(
    operator: Operator, cluster: Cluster, bus: Bus, key: ModelKey, server: RedisServer
) -> None:
    cluster.model()
    await until(lambda: deployed(cluster))
    secret = cluster.get("secret", RUNNER)
    assert secret is not None
    url = base64.b64decode(secret["data"]["url"]).decode().replace("127.0.0.1:6379", f"127.0.0.1:{server.port}")
    async with Bus.connect(url) as runner:
        assert await runner.claim(key, worker="pod-a", count=1, lease_ms=1_000) == []
        denied = False
        try:
            await runner.claim(ModelKey(key.namespace, "another"), worker="pod-a", count=1, lease_ms=1_000)
        except BusDenied:
            denied = True
        assert denied


async def test_from_nothing_to_serving(
    operator: Operator, cluster: Cluster, bus: Bus, key: ModelKey, kubectl: Any, namespace: str
) -> None:
    cluster.model()
    await until(lambda: conditions(cluster, Ready=("False", "Starting")))
    await until(lambda: deployed(cluster))
    cluster.pod("pod-a")
    await until(lambda: conditions(cluster, Placed=("True", "Scheduled")))
    await bus.report(key, "pod-a", {"state": "Loading", "generation": 1}, ttl_ms=60_000)
    await until(lambda: conditions(cluster, Ready=("False", "LoadingWeights")))
    assert cluster.status(MODEL, "llmmodel")["phase"] == "Loading"
    await bus.report(key, "pod-a", {"state": "Serving", "generation": 1, "engine": ENGINE}, ttl_ms=60_000)
    cluster.pod_ready("pod-a")
    kubectl.ok("wait", "--for=condition=Ready", f"llmmodel/{MODEL}", "-n", namespace, "--timeout=20s")
    status = cluster.status(MODEL, "llmmodel")
    assert status["engine"] == ENGINE
    assert status["phase"] == "Serving"

    cluster.patch("llmmodel", MODEL, {"spec": {"replicas": 0}})
    cluster.delete_pods()
    await until(lambda: conditions(cluster, Ready=("True", "ScaledToZero"), Available=("False", "ScaledToZero")))
    deployment = cluster.get("deployment", RUNNER)
    assert deployment is not None
    assert deployment["spec"]["replicas"] == 0
    annotations = deployment["spec"]["template"]["metadata"]["annotations"]
    assert annotations["headrace.dev/spec-generation"] == "1", "scaling must not roll pods"


async def test_a_model_at_rest_is_not_written(
    operator: Operator, cluster: Cluster, bus: Bus, key: ModelKey, kubectl: Any, namespace: str
) -> None:
    cluster.model()
    await until(lambda: conditions(cluster, Ready=("False", "Starting")))
    model, deployment = cluster.get("llmmodel", MODEL), cluster.get("deployment", RUNNER)
    assert model is not None
    assert deployment is not None
    writes = Writes(cluster, "llmmodel", MODEL)

    async def reconciles() -> float:
        answer = await operator.http("/metrics")
        assert answer is not None
        lines = [
            line
            for line in answer.text.splitlines()
            if line.startswith('headrace_reconciles_total{outcome="Done",queue="models"')
        ]
        return float(lines[0].split()[-1]) if lines else 0.0

    start = await reconciles()
    for n in range(10):
        await bus.report(key, f"nobody-{n}", {"state": "Loading", "generation": 1}, ttl_ms=60_000)

    async def more() -> bool:
        return await reconciles() >= start + 3

    await until(more)
    assert writes.count() == 0
    again = cluster.get("llmmodel", MODEL)
    assert again is not None
    assert again["metadata"]["resourceVersion"] == model["metadata"]["resourceVersion"]


async def test_two_models_and_one_gpu(operator: Operator, cluster: Cluster, bus: Bus, key: ModelKey) -> None:
    cluster.model(local={"gpu": {"count": 1}})
    await until(lambda: deployed(cluster))
    uid = cluster.task("patient")
    cluster.pod("pod-a", scheduled=False, message="0/1 nodes are available: 1 Insufficient nvidia.com/gpu.")
    await until(lambda: conditions(cluster, Placed=("False", "WaitingForGPU"), Ready=("False", "WaitingForGPU")))
    assert cluster.status(MODEL, "llmmodel")["phase"] == "WaitingForGPU"

    async def told() -> bool:
        return cluster.status("patient").get("reason") == "WaitingForGPU"

    await until(told)
    assert "waiting since" in cluster.status("patient")["message"]
    entry = await bus.inspect(key, uid)
    assert entry is not None
    assert entry.state is EntryState.QUEUED

    cluster.pod_ready("pod-a")
    await bus.report(key, "pod-a", {"state": "Serving", "generation": 1, "engine": ENGINE}, ttl_ms=60_000)
    await until(lambda: conditions(cluster, Placed=("True", "Scheduled"), Ready=("True", "Serving")))

    async def moved_on() -> bool:
        return cluster.status("patient").get("reason") == "Queued"

    await until(moved_on)


async def test_a_refused_file_is_named_and_nothing_loops_hot(
    operator: Operator, cluster: Cluster, bus: Bus, key: ModelKey, kubectl: Any, namespace: str
) -> None:
    cluster.model()
    await until(lambda: deployed(cluster))
    cluster.task("waits")
    cluster.pod("pod-a")
    message = "smol.gguf: expected digest 00…, found 11…"
    failed = {"state": "Failed", "reason": "ChecksumMismatch", "message": message, "generation": 1}
    await bus.report(key, "pod-a", failed, ttl_ms=60_000)
    await until(lambda: conditions(cluster, Ready=("False", "ChecksumMismatch"), Stalled=("True", "ChecksumMismatch")))

    async def told() -> bool:
        return cluster.status("waits").get("reason") == "ModelNotReady"

    await until(told)
    assert cluster.status("waits")["message"] == f"ChecksumMismatch: {message}"
    assert "ChecksumMismatch" in cluster.reasons_of_events()

    await bus.report(key, "pod-a", {"state": "Serving", "generation": 1, "engine": ENGINE}, ttl_ms=60_000)
    await until(lambda: conditions(cluster, Ready=("True", "Serving"), Stalled=None))


async def test_a_missing_claim_is_said(operator: Operator, cluster: Cluster) -> None:
    cluster.model(claim=False)
    await until(lambda: conditions(cluster, Ready=("False", "ClaimNotFound")))


async def test_an_object_of_that_name_is_not_touched(
    operator: Operator, cluster: Cluster, bus: Bus, key: ModelKey
) -> None:
    foreign = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": RUNNER},
        "stringData": {"url": "somebody else's"},
    }
    before = cluster.create(foreign)
    cluster.model()
    uid = cluster.task("unlucky")
    await until(lambda: conditions(cluster, Ready=("False", "NameConflict"), Stalled=("True", "NameConflict")))
    after = cluster.get("secret", RUNNER)
    assert after is not None
    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
    assert all(cluster.get(kind, RUNNER) is None for kind in CHILD_KINDS if kind != "secret")

    async def waits() -> bool:
        return cluster.status("unlucky").get("reason") == "ModelNotReady"

    await until(waits)

    cluster.delete("secret", RUNNER)
    await until(lambda: deployed(cluster))
    await until(lambda: conditions(cluster, Ready=("False", "Starting"), Stalled=None))

    async def queued() -> bool:
        entry = await bus.inspect(key, uid)
        return entry is not None and cluster.status("unlucky")["phase"] == "Queued"

    await until(queued)


async def test_drift_is_repaired(operator: Operator, cluster: Cluster) -> None:
    cluster.model()
    await until(lambda: deployed(cluster))
    cluster.patch("deployment", RUNNER, {"spec": {"replicas": 5}})

    async def repaired() -> bool:
        found = cluster.get("deployment", RUNNER)
        return found is not None and found["spec"]["replicas"] == 1

    await until(repaired)
    cluster.delete("deployment", RUNNER)
    await until(lambda: deployed(cluster))


async def test_deleting_a_model_purges_its_queue_and_its_tasks_wait(
    operator: Operator, cluster: Cluster, bus: Bus, key: ModelKey, redis: Redis
) -> None:
    cluster.model()
    uids = {f"task-{n}": cluster.task(f"task-{n}") for n in range(3)}

    async def all_queued() -> bool:
        return (await bus.stats(key)).queued == 3

    await until(all_queued)
    (delivery,) = await bus.claim(key, worker="pod-a", count=1, lease_ms=60_000)
    cluster.delete("llmmodel", MODEL)

    async def all_wait() -> bool:
        found = [cluster.status(name) for name in uids]
        return all((s["phase"], s["reason"], s["attempt"]) == ("Waiting", "ModelNotFound", 2) for s in found)

    await until(all_wait)
    assert await bus.renew(key, [delivery.token], lease_ms=1_000) == [False]

    async def nothing() -> bool:
        return not await redis.keys("headrace:*") and len(await redis.acl_users()) == 2

    await until(nothing)

    cluster.collect()
    cluster.model()
    await until(all_queued)
    assert {cluster.status(name)["attempt"] for name in uids} == {2}


async def test_a_model_made_again_waits_for_its_predecessors_objects(operator: Operator, cluster: Cluster) -> None:
    first = cluster.model()
    await until(lambda: deployed(cluster))
    cluster.delete("llmmodel", MODEL)
    second = cluster.model()
    assert first != second

    async def waits() -> bool:
        found = cluster.status(MODEL, "llmmodel").get("conditions") or []
        return any("deleted model" in c["message"] for c in found)

    await until(waits)
    cluster.collect()

    async def ours() -> bool:
        found = cluster.get("deployment", RUNNER)
        return found is not None and found["metadata"]["ownerReferences"][0]["uid"] == second

    await until(ours)


async def test_a_quota_that_refuses_a_child_is_said(operator: Operator, cluster: Cluster) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "none"},
        "spec": {"hard": {"secrets": "0"}},
    }
    cluster.create(quota)
    # No controller counts here: the status is what admission goes by.
    cluster.patch(
        "resourcequota", "none", {"status": {"hard": {"secrets": "0"}, "used": {"secrets": "0"}}}, status=True
    )
    cluster.model()
    await until(lambda: conditions(cluster, Ready=("False", "ChildRefused")))
    assert cluster.get("deployment", RUNNER) is None
    cluster.delete("resourcequota", "none")
    await until(lambda: deployed(cluster))
    await until(lambda: conditions(cluster, Ready=("False", "Starting")))
