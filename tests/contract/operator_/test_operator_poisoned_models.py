"""Whoever may read Secrets in a model's namespace may write anything into that model's keys; it alone suffers."""

from typing import Any

import pytest
from cluster_world import MODEL, RUNNER, Cluster, Operator, until
from redis.asyncio import Redis

from headrace_bus import Bus, EntryState, Failure, ModelKey
from headrace_operator.decide.children import redis_user
from headrace_operator.refs import ModelRef

OTHER = "other"
FATAL = '{"reason": "Forged", "message": "not yours", "retryable": false}'


def other_model(cluster: Cluster) -> None:
    source = {"persistentVolumeClaim": {"claimName": "models", "path": "smol.gguf"}}
    body = {
        "apiVersion": "headrace.dev/v1alpha1",
        "kind": "LLMModel",
        "metadata": {"name": OTHER},
        "spec": {"local": {"source": source}},
    }
    cluster.create(body)


async def in_state(bus: Bus, key: ModelKey, uid: str, state: EntryState, attempt: int) -> bool:
    entry = await bus.inspect(key, uid)
    return entry is not None and (entry.state, entry.attempt) == (state, attempt)


async def granted(redis: Redis, key: ModelKey) -> bool:
    return redis_user(ModelRef(*key)) in await redis.acl_users()


def prefix(key: ModelKey) -> str:
    return f"headrace:{{{key}}}:"


POISONS: dict[str, list[tuple[Any, ...]]] = {
    "sets are strings": [
        ("SET", name, "x") for name in ("index", "returned", "leases", "delayed", "workers", "queued")
    ],
    "numbers are words": [
        ("HSET", "entry:abc", "attempt", "many", "state", "Returned", "name", "x", "namespace", "y", "since", "soon"),
        ("HSET", "index", "abc", "many"),
        ("ZADD", "returned", 1, "abc"),
        ("ZADD", "leases", 1, "abc"),
    ],
    "not even text": [
        ("HSET", "index", b"\xff\xfe", b"\xff"),
        ("ZADD", "returned", 1, b"\xff\xfe"),
        ("ZADD", "workers", 99_999_999_999_999, b"\xff"),
        ("HSET", b"entry:\xff\xfe", "attempt", "1", "state", b"\xff"),
    ],
}


@pytest.mark.parametrize("poison", list(POISONS.values()), ids=list(POISONS))
async def test_a_poisoned_model_keeps_nobody_else_from_being_served(
    operator: Operator, cluster: Cluster, bus: Bus, key: ModelKey, redis: Redis, poison: list[tuple[Any, ...]]
) -> None:
    cluster.model()
    other_model(cluster)
    bad, good = ModelKey(key.namespace, OTHER), key
    for model in (bad, good):
        await until(lambda model=model: granted(redis, model))
    hopeless = cluster.task("hopeless", modelRef={"name": OTHER})
    await until(lambda: in_state(bus, bad, hopeless, EntryState.QUEUED, 1))
    for command, name, *rest in poison:
        encoded = name if isinstance(name, bytes) else name.encode()
        await redis.execute_command("UNLINK", prefix(bad).encode() + encoded)
        await redis.execute_command(command, prefix(bad).encode() + encoded, *rest)
    await redis.publish(f"headrace:wake:{bad}", "")

    uid = cluster.task("healthy")
    await until(lambda: in_state(bus, good, uid, EntryState.QUEUED, 1))
    await bus.claim(good, worker="pod-a", count=1, lease_ms=600)
    # Heard of by the reaper alone.
    await until(lambda: in_state(bus, good, uid, EntryState.QUEUED, 2))

    cluster.delete("llmmodel", OTHER)

    await until(lambda: gone(redis, bad))
    assert await operator.leads()


async def gone(redis: Redis, key: ModelKey) -> bool:
    return not await granted(redis, key) and not await redis.sismember("headrace:models", str(key))


async def test_an_entry_cannot_speak_for_another_models_task(
    operator: Operator, cluster: Cluster, bus: Bus, key: ModelKey, redis: Redis
) -> None:
    cluster.model()
    other_model(cluster)
    bad = ModelKey(key.namespace, OTHER)
    await until(lambda: granted(redis, bad))
    uid = cluster.task("victim")
    await until(lambda: in_state(bus, key, uid, EntryState.QUEUED, 1))
    (delivery,) = await bus.claim(key, worker="pod-a", count=1, lease_ms=60_000)

    # The entry that the bus would make of it, under the other model's keys.
    source = await redis.hgetall(f"{prefix(key)}entry:{uid}")
    forged = {**source, "state": "Returned", "reason": "Failed", "worker": "pod-x", "failure": FATAL, "since": "1"}
    await redis.hset(f"{prefix(bad)}entry:{uid}", mapping=forged)
    await redis.hset(f"{prefix(bad)}index", uid, "1")
    await redis.zadd(f"{prefix(bad)}returned", {uid: 1})
    assert await in_state(bus, bad, uid, EntryState.RETURNED, 1), "the forgery is what the bus would tell"
    await redis.publish(f"headrace:wake:{bad}", "")

    async def removed() -> bool:
        return await bus.inspect(bad, uid) is None

    await until(removed)
    status = cluster.status("victim")
    assert (status["attempt"], status["phase"], status["attempts"]) == (1, "Queued", [])
    assert await in_state(bus, key, uid, EntryState.LEASED, 1)
    await bus.fail(key, delivery.token, Failure("EngineError", "decode failed"))
    await until(lambda: in_state(bus, key, uid, EntryState.QUEUED, 2))


async def test_words_that_fit_no_condition_still_end_the_task(
    operator: Operator, cluster: Cluster, bus: Bus, key: ModelKey, kubectl: Any, namespace: str
) -> None:
    cluster.model()
    uid = cluster.task("odd", backoffLimit=0)
    await until(lambda: in_state(bus, key, uid, EntryState.QUEUED, 1))
    (delivery,) = await bus.claim(key, worker="pod-a", count=1, lease_ms=60_000)
    await bus.fail(key, delivery.token, Failure("engine lost!", "one\ntwo\x1b[31m", retryable=False))
    kubectl.ok("wait", "--for=condition=Finished", "llmtask/odd", "-n", namespace, "--timeout=20s")
    status = cluster.status("odd")
    (record,) = status["attempts"]
    assert (status["outcome"], record["outcome"]) == ("Failed", "Failed")
    assert record["reason"].isalpha()
    assert record["message"].isprintable()


async def test_a_report_that_fits_no_status_is_told_all_the_same(
    operator: Operator, cluster: Cluster, bus: Bus, key: ModelKey
) -> None:
    cluster.model()

    async def deployed() -> bool:
        return cluster.get("deployment", RUNNER) is not None

    await until(deployed)
    cluster.pod("pod-a")
    odd = {"state": "Failed", "reason": "no word!", "message": "a\x00b", "sinceMs": 10**18, "generation": 1}
    await bus.report(key, "pod-a", odd, ttl_ms=60_000)

    async def told() -> bool:
        return cluster.conditions("llmmodel", MODEL).get("Ready") == ("False", "RunnerError")

    await until(told)
