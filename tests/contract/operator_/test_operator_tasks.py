"""A task's life against a real API server and Redis; runners are played by hand."""

from typing import Any

from cluster_world import MODEL, RUNNER, Cluster, Operator, Writes, in_state, serve, until
from redis.asyncio import Redis
from redis_server import RedisServer

from headrace_bus import OPERATOR_ACL, Bus, EntryState, Failure, Interruption, ModelKey

LEASE_MS = 600


async def keys_of_work(redis: Redis) -> list[str]:
    """Keys that hold anything of tasks: replies to requests and words to runners end by themselves, and the mean
    service time is the model's.
    """
    found = await redis.keys("headrace:{*")
    return [each for each in found if not any(part in each for part in (":requests:", ":inbox:", ":service"))]


async def test_a_task_before_its_model_waits_and_goes_on_without_a_nudge(
    operator: Operator, cluster: Cluster, bus: Bus, key: ModelKey, kubectl: Any, namespace: str
) -> None:
    writes = Writes(cluster, "llmtask", "early")
    uid = cluster.task("early")

    async def waits() -> bool:
        return cluster.status("early").get("phase") == "Waiting"

    await until(waits)
    status = cluster.status("early")
    assert (status["attempt"], status["reason"]) == (1, "ModelNotFound")
    assert "runner" not in status
    assert await bus.inspect(key, uid) is None

    cluster.model()
    await until(lambda: in_state(bus, key, uid, EntryState.QUEUED, 1))
    status = cluster.status("early")
    assert (status["phase"], status["attempt"]) == ("Queued", 1)
    assert status["runner"]["serviceAccount"] == f"{namespace}/{RUNNER}"
    assert status["assignedModel"] == f"{namespace}/{MODEL}"
    # accept, handed out, and the model's reason if it changed in between
    assert writes.count() <= 3


async def test_two_writes_for_a_modest_task(
    operator: Operator, cluster: Cluster, bus: Bus, key: ModelKey, kubectl: Any, namespace: str
) -> None:
    cluster.model()
    await serve(cluster, bus, key)
    writes = Writes(cluster, "llmtask", "modest")
    uid = cluster.task("modest")
    await until(lambda: in_state(bus, key, uid, EntryState.QUEUED, 1))
    (delivery,) = await bus.claim(key, worker="pod-a", count=1, lease_ms=30_000)
    assert delivery.envelope.payload["messages"] == [{"role": "user", "content": "say hello"}]
    assert delivery.envelope.payload["parameters"]["maxTokens"] == 512
    cluster.commit("modest", 1)
    assert await bus.complete(key, delivery.token, result={"text": "hello"})

    async def swept() -> bool:
        answer = await operator.http("/metrics")
        return answer is not None and 'phase="Queued"' not in answer.text

    await until(swept)
    assert await bus.result(key, uid) == {"text": "hello"}, "what waits for a reader is not swept away"
    assert writes.count() == 2


async def test_flushall_loses_nothing(
    operator: Operator, cluster: Cluster, bus: Bus, key: ModelKey, redis: Redis
) -> None:
    cluster.model()
    uids = [cluster.task(f"task-{n}") for n in range(3)]
    for uid in uids:
        await until(lambda uid=uid: in_state(bus, key, uid, EntryState.QUEUED, 1))
    (delivery,) = await bus.claim(key, worker="pod-a", count=1, lease_ms=60_000)

    await redis.flushall()
    for n, uid in enumerate(uids):
        await until(lambda uid=uid: in_state(bus, key, uid, EntryState.QUEUED, 2))
        status = cluster.status(f"task-{n}")
        assert (status["attempt"], status["retries"]) == (2, 0)
        assert [(r["number"], r["reason"]) for r in status["attempts"]] == [(1, "QueueStateLost")]
    assert await bus.renew(key, [delivery.token], lease_ms=1_000) == [False]

    async def registered() -> bool:
        return key in await bus.models()

    # The model's own look registers it, beside those of its tasks.
    await until(registered)


async def test_a_redis_that_starts_anew_gets_its_users_back(
    operator: Operator, cluster: Cluster, bus: Bus, key: ModelKey, redis: Redis, server: RedisServer
) -> None:
    cluster.model()
    uid = cluster.task("survivor")
    await until(lambda: in_state(bus, key, uid, EntryState.QUEUED, 1))

    async def granted() -> bool:
        return f"headrace:{key.namespace}:{MODEL}" in await redis.acl_users()

    await until(granted)
    server.stop()

    async def says_so() -> str:
        answer = await operator.http("/readyz")
        return answer.text if answer is not None and answer.status_code == 503 else ""

    assert "BusUnavailable" in await until(says_so)
    late = cluster.task("meanwhile")
    server.start()
    await redis.connection_pool.disconnect()
    await redis.execute_command("ACL", "SETUSER", "operator", "reset", "on", ">secret", *OPERATOR_ACL)

    await until(lambda: in_state(bus, key, uid, EntryState.QUEUED, 2))
    await until(lambda: in_state(bus, key, late, EntryState.QUEUED, 1))
    await until(operator.ready)
    await until(granted)


async def test_a_full_redis_takes_the_task_later_at_the_same_attempt(
    operator: Operator, cluster: Cluster, bus: Bus, key: ModelKey, redis: Redis
) -> None:
    cluster.model()
    await redis.config_set("maxmemory", "1")
    uid = cluster.task("squeezed")

    async def refused() -> bool:
        answer = await operator.http("/metrics")
        return answer is not None and 'outcome="BusOutOfMemory",queue="tasks"' in answer.text

    await until(refused)
    await redis.config_set("maxmemory", "0")
    await until(lambda: in_state(bus, key, uid, EntryState.QUEUED, 1))
    assert cluster.status("squeezed")["attempts"] == []


async def test_a_vanished_runner_costs_an_attempt_and_leaves_a_record(
    operator: Operator, cluster: Cluster, bus: Bus, key: ModelKey
) -> None:
    cluster.model()
    uid = cluster.task("orphan")
    await until(lambda: in_state(bus, key, uid, EntryState.QUEUED, 1))
    (first,) = await bus.claim(key, worker="pod-a", count=1, lease_ms=LEASE_MS)
    await until(lambda: in_state(bus, key, uid, EntryState.QUEUED, 2))
    status = cluster.status("orphan")
    assert (status["attempt"], status["retries"]) == (2, 1)
    (record,) = status["attempts"]
    assert (record["number"], record["outcome"], record["reason"], record["pod"]) == (
        1,
        "Lost",
        "LeaseExpired",
        "pod-a",
    )
    assert status["startTime"] == record["startTime"]
    assert not await bus.complete(key, first.token)


async def test_a_released_task_is_charged_nothing(
    operator: Operator, cluster: Cluster, bus: Bus, key: ModelKey
) -> None:
    cluster.model()
    uid = cluster.task("given-back")
    await until(lambda: in_state(bus, key, uid, EntryState.QUEUED, 1))
    (delivery,) = await bus.claim(key, worker="pod-a", count=1, lease_ms=30_000)
    await bus.release(key, delivery.token, "RunnerStopped")
    await until(lambda: in_state(bus, key, uid, EntryState.QUEUED, 2))
    status = cluster.status("given-back")
    assert (status["attempt"], status["retries"]) == (2, 0)
    assert status["attempts"][0]["outcome"] == "Released"


async def test_when_the_limit_is_used_up_the_task_says_what_failed_last(
    operator: Operator, cluster: Cluster, bus: Bus, key: ModelKey, kubectl: Any, namespace: str
) -> None:
    cluster.model()
    uid = cluster.task("doomed", backoffLimit=1)
    for attempt in (1, 2):
        await until(lambda attempt=attempt: in_state(bus, key, uid, EntryState.QUEUED, attempt))
        (delivery,) = await bus.claim(key, worker="pod-a", count=1, lease_ms=30_000)
        await bus.fail(key, delivery.token, Failure("EngineError", f"decode failed {attempt}"))
    kubectl.ok("wait", "--for=condition=Finished", "llmtask/doomed", "-n", namespace, "--timeout=20s")
    status = cluster.status("doomed")
    assert (status["outcome"], status["reason"], status["retries"]) == ("Failed", "BackoffLimitExceeded", 1)
    assert "EngineError: decode failed 2" in status["message"]
    assert [record["number"] for record in status["attempts"]] == [1, 2]

    async def forgotten() -> bool:
        return await bus.inspect(key, uid) is None

    await until(forgotten)
    assert "BackoffLimitExceeded" in cluster.reasons_of_events()


async def test_what_can_never_run_fails_in_one_write(
    operator: Operator, cluster: Cluster, kubectl: Any, namespace: str
) -> None:
    specs: dict[str, dict[str, Any]] = {
        "InvalidSchema": {"output": {"jsonSchema": "{]"}},
        # Admission counts the characters of messages; accept counts bytes.
        "InputTooLarge": {"messages": [{"role": "user", "content": "ä" * 140_000}]},
    }
    for reason, spec in specs.items():
        name = reason.lower()
        writes = Writes(cluster, "llmtask", name)
        cluster.task(name, **spec)
        kubectl.ok("wait", "--for=condition=Finished", f"llmtask/{name}", "-n", namespace, "--timeout=20s")
        status = cluster.status(name)
        assert (status["phase"], status["reason"], status["attempt"]) == ("Failed", reason, 1)
        assert writes.count() == 1


async def test_deleting_tasks_in_any_state_leaves_nothing_in_redis(
    operator: Operator, cluster: Cluster, bus: Bus, key: ModelKey, redis: Redis
) -> None:
    cluster.model()
    states = ("leased", "returned", "delayed", "finished", "queued")
    for state in states:
        uid = cluster.task(state)
        await until(lambda uid=uid: in_state(bus, key, uid, EntryState.QUEUED, 1))
    deliveries = {d.envelope.name: d.token for d in await bus.claim(key, worker="pod-a", count=4, lease_ms=60_000)}
    assert set(deliveries) == set(states) - {"queued"}
    await bus.release(key, deliveries["returned"], "RunnerStopped")
    await bus.fail(key, deliveries["delayed"], Failure("EngineError", "x"))
    cluster.commit("finished", 1)
    await bus.complete(key, deliveries["finished"], result={"text": "hello"})
    cluster.task("waiting", modelRef={"name": "another"})
    for state in (*states, "waiting"):
        cluster.delete("llmtask", state)

    async def nothing() -> bool:
        return not await keys_of_work(redis)

    await until(nothing)
    (word,) = await bus.interruptions(key, "pod-a", timeout_s=5)
    assert (word.uid, word.word) == (deliveries["leased"].uid, Interruption.DROP)


async def test_a_finished_task_whose_runner_died_does_not_run_again(
    operator: Operator, cluster: Cluster, bus: Bus, key: ModelKey, redis: Redis
) -> None:
    cluster.model()
    uid = cluster.task("committed")
    await until(lambda: in_state(bus, key, uid, EntryState.QUEUED, 1))
    await bus.claim(key, worker="pod-a", count=1, lease_ms=LEASE_MS)
    cluster.commit("committed", 1)

    async def forgotten() -> bool:
        return await bus.inspect(key, uid) is None

    await until(forgotten)
    assert cluster.status("committed")["attempt"] == 1


async def test_an_operator_killed_at_any_time_loses_nothing(
    operator: Operator, cluster: Cluster, bus: Bus, key: ModelKey
) -> None:
    cluster.model()
    kept = cluster.task("kept")
    await until(lambda: in_state(bus, key, kept, EntryState.QUEUED, 1))
    operator.kill()
    deleted_meanwhile, made_meanwhile = cluster.task("short-lived"), cluster.task("made")
    cluster.delete("llmtask", "short-lived")
    (delivery,) = await bus.claim(key, worker="pod-a", count=1, lease_ms=LEASE_MS)
    operator.start()
    await until(lambda: in_state(bus, key, made_meanwhile, EntryState.QUEUED, 1))
    await until(lambda: in_state(bus, key, kept, EntryState.QUEUED, 2))
    assert await bus.inspect(key, deleted_meanwhile) is None
    assert cluster.status("kept")["attempts"][0]["outcome"] == "Lost"
    assert not await bus.complete(key, delivery.token)
