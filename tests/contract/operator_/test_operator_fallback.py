"""A task that falls back: one model's queue is left before the other's is entered, whatever is killed in between."""

from collections.abc import Callable
from typing import Any

import pytest
from cluster_world import MODEL, RUNNER, Cluster, Operator, StartOperator, in_state, serve, until
from redis.asyncio import Redis

from headrace_bus import Bus, EntryState, Failure, ModelKey

OTHER = "other"
AFTER_A_SECOND = {"policy": "List", "models": [{"name": OTHER}], "afterSeconds": 1}
HANDS_OVER = {**AFTER_A_SECOND, "when": ["InvalidOutput"]}
WRONG = Failure("InvalidOutput", "the result lacks a member (asked 3 times)", retryable=False)


@pytest.fixture
def other(namespace: str) -> ModelKey:
    return ModelKey(namespace, OTHER)


async def ended(cluster: Cluster, name: str) -> dict[str, Any]:
    async def there() -> dict[str, Any] | None:
        status = cluster.status(name)
        return status if status.get("outcome") else None

    return await until(there) or {}


def records(status: dict[str, Any]) -> list[tuple[int, str, str]]:
    return [(each["number"], each["model"], each["reason"]) for each in status["attempts"]]


def said(cluster: Cluster, name: str, words: str) -> Callable[[], Any]:
    async def says() -> bool:
        return words in cluster.status(name).get("message", "")

    return says


async def test_a_task_of_a_model_that_does_not_serve_is_done_by_the_other(
    operator: Operator, cluster: Cluster, bus: Bus, key: ModelKey, other: ModelKey
) -> None:
    cluster.model()
    cluster.model(name=OTHER)
    await serve(cluster, bus, other)
    uid = cluster.task("falls", fallback=AFTER_A_SECOND)
    await until(lambda: in_state(bus, other, uid, EntryState.QUEUED, 2))
    assert await bus.inspect(key, uid) is None, "the copy in the queue that it left"
    status = cluster.status("falls")
    assert (status["phase"], status["attempt"], status["retries"]) == ("Queued", 2, 0)
    assert (status["assignedModel"], status["triedModels"]) == (str(other), [str(key)])
    assert status["runner"]["serviceAccount"] == f"{key.namespace}/headrace-{OTHER}"
    assert f"moved from {key} to {other}: " in status["message"]
    assert records(status) == [(1, str(key), "FellBack")]
    answer = await operator.http("/metrics")
    assert answer is not None
    counted = f'headrace_operator_fallbacks_total{{from="{key}",reason="Unavailable",to="{other}"}} 1.0'
    assert counted in answer.text

    async def announced() -> bool:
        return "FellBack" in cluster.reasons_of_events()

    await until(announced)
    with pytest.raises(AssertionError):
        cluster.commit("falls", 1)
    (delivery,) = await bus.claim(other, worker="pod-a", count=1, lease_ms=30_000)
    assert delivery.envelope.payload["model"] == str(other)
    cluster.commit("falls", 2)
    assert await bus.complete(other, delivery.token, result=None)
    assert (await ended(cluster, "falls"))["outcome"] == "Complete"


async def test_the_models_own_list_is_inherited_and_its_deletion_moves_nobody_back(
    operator: Operator, cluster: Cluster, bus: Bus, key: ModelKey, other: ModelKey
) -> None:
    cluster.model(fallback=AFTER_A_SECOND)
    cluster.model(name=OTHER, fallback={"policy": "List", "models": [{"name": MODEL}], "afterSeconds": 1})
    await serve(cluster, bus, other)
    stays = cluster.task("stays", fallback={"policy": "None"})
    uid = cluster.task("inherits")
    await until(lambda: in_state(bus, other, uid, EntryState.QUEUED, 2))
    cluster.delete("llmmodel", MODEL)

    async def waits() -> bool:
        return cluster.status("stays").get("reason") == "ModelNotFound"

    await until(waits)
    assert await bus.inspect(other, stays) is None
    assert await in_state(bus, other, uid, EntryState.QUEUED, 2)
    # Suspended and resumed it is still the other's.
    cluster.patch("llmtask", "inherits", {"spec": {"suspend": True}})

    async def suspended() -> bool:
        return cluster.status("inherits").get("phase") == "Suspended"

    await until(suspended)
    assert cluster.status("inherits")["assignedModel"] == str(other)
    cluster.patch("llmtask", "inherits", {"spec": {"suspend": False}})
    await until(lambda: in_state(bus, other, uid, EntryState.QUEUED, 3))
    cluster.delete("llmtask", "inherits")

    async def gone() -> bool:
        return await bus.inspect(other, uid) is None

    await until(gone)


async def test_what_a_runner_hands_over_is_moved_uncharged_or_ends_as_it_was(
    operator: Operator, cluster: Cluster, bus: Bus, key: ModelKey, other: ModelKey
) -> None:
    cluster.model()
    cluster.model(name=OTHER)
    await serve(cluster, bus, key)
    uid = cluster.task("alone", fallback=HANDS_OVER)
    await until(lambda: in_state(bus, key, uid, EntryState.QUEUED, 1))
    (delivery,) = await bus.claim(key, worker="pod-a", count=1, lease_ms=30_000)
    assert delivery.envelope.payload["handOver"] == ["InvalidOutput"]
    assert await bus.fail(key, delivery.token, WRONG)
    status = await ended(cluster, "alone")
    assert (status["outcome"], status["reason"], status["message"]) == ("Failed", "InvalidOutput", WRONG.message)

    await serve(cluster, bus, other, "pod-b")
    uid = cluster.task("handed", fallback=HANDS_OVER)
    await until(lambda: in_state(bus, key, uid, EntryState.QUEUED, 1))
    (delivery,) = await bus.claim(key, worker="pod-a", count=1, lease_ms=30_000)
    assert await bus.fail(key, delivery.token, WRONG)
    await until(lambda: in_state(bus, other, uid, EntryState.QUEUED, 2))
    assert await bus.inspect(key, uid) is None
    status = cluster.status("handed")
    assert (status["retries"], records(status)) == (0, [(1, str(key), "FellBack")])
    (delivery,) = await bus.claim(other, worker="pod-b", count=1, lease_ms=30_000)
    assert "handOver" not in delivery.envelope.payload or delivery.envelope.payload["handOver"] == []


async def test_where_no_other_serves_it_waits_and_says_so(
    operator: Operator, cluster: Cluster, bus: Bus, key: ModelKey, other: ModelKey
) -> None:
    cluster.model()
    cluster.model(name=OTHER)
    models = [{"name": OTHER}, {"name": "absent"}]
    uid = cluster.task("stuck", fallback={**AFTER_A_SECOND, "models": models})
    await until(said(cluster, "stuck", "no fallback can take it"))
    message = cluster.status("stuck")["message"]
    assert f"{key.namespace}/absent: does not exist" in message
    assert f"{other}: " in message
    assert await in_state(bus, key, uid, EntryState.QUEUED, 1)
    assert "triedModels" not in cluster.status("stuck")
    await serve(cluster, bus, other)
    await until(lambda: in_state(bus, other, uid, EntryState.QUEUED, 2))


async def test_an_operator_killed_between_a_hand_outs_write_and_its_enqueue(
    start: StartOperator, cluster: Cluster, bus: Bus, key: ModelKey, other: ModelKey, redis: Redis
) -> None:
    first = start("operator-a")
    await until(first.leads)
    cluster.model()
    cluster.model(name=OTHER)
    await serve(cluster, bus, other)
    waits = {**AFTER_A_SECOND, "afterSeconds": 5}
    uid = cluster.task("killed", fallback=waits)
    await until(lambda: in_state(bus, key, uid, EntryState.QUEUED, 1))
    # A Redis without room takes back what is queued, and nothing in: the object is ahead of it.
    await redis.config_set("maxmemory", "1")

    async def written() -> bool:
        status = cluster.status("killed")
        return (status.get("phase"), status.get("assignedModel")) == ("Queued", str(other))

    await until(written)
    first.kill()
    assert await bus.inspect(key, uid) is None
    assert await bus.inspect(other, uid) is None
    await redis.config_set("maxmemory", "0")
    second = start("operator-b")
    await until(second.leads)
    await until(lambda: in_state(bus, other, uid, EntryState.QUEUED, 3))
    assert await bus.inspect(key, uid) is None
    status = cluster.status("killed")
    assert (status["assignedModel"], status["triedModels"], status["retries"]) == (str(other), [str(key)], 0)
    assert records(status) == [(1, str(key), "FellBack"), (2, str(other), "QueueStateLost")]


async def test_an_operator_killed_after_the_move_leaves_nothing_in_the_first_queue(
    start: StartOperator, cluster: Cluster, bus: Bus, key: ModelKey, other: ModelKey
) -> None:
    """What was handed over is removed after the write: a kill leaves it there."""
    first = start("operator-a")
    await until(first.leads)
    cluster.model()
    cluster.model(name=OTHER)
    await serve(cluster, bus, other)
    uid = cluster.task("between", fallback=HANDS_OVER)
    await until(lambda: in_state(bus, key, uid, EntryState.QUEUED, 1))
    (delivery,) = await bus.claim(key, worker="pod-a", count=1, lease_ms=30_000)
    first.kill()
    assert await bus.fail(key, delivery.token, WRONG)
    moved = {"phase": "Waiting", "reason": "FellBack", "attempt": 2, "assignedModel": str(other)}
    moved |= {"triedModels": [str(key)], "runner": None}
    cluster.patch("llmtask", "between", {"status": moved}, status=True)
    second = start("operator-b")
    await until(second.leads)
    await until(lambda: in_state(bus, other, uid, EntryState.QUEUED, 2))

    async def cleared() -> bool:
        return await bus.inspect(key, uid) is None

    await until(cleared)
    assert RUNNER not in cluster.status("between")["runner"]["serviceAccount"]
    assert (cluster.status("between")["attempt"], await bus.claim(key, worker="z", count=1, lease_ms=600)) == (2, [])
