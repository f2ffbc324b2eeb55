"""Budgets gate what is handed out, and who waits goes on by itself; likewise with the right to remote models."""

import json
from typing import Any

from cluster_world import MODEL, Cluster, StartOperator, until

from headrace_bus import Bus, Entry, EntryState, Failure, ModelKey
from headrace_crds.cost import Spend

QUOTA = "/apis/headrace.dev/v1alpha1/namespaces/{}/llmquotas"
PRICE = {"inputPerMillionTokens": "1", "outputPerMillionTokens": "1"}
# 15 characters are 5 tokens, 8 for the message, and the result's: 50 tokens, and as many micros.
TASK = {"prompt": "x" * 15, "parameters": {"maxTokens": 37}}


def quota(cluster: Cluster, **spec: Any) -> None:
    body = {"apiVersion": "headrace.dev/v1alpha1", "kind": "LLMQuota", "metadata": {"name": "default"}, "spec": spec}
    cluster.request("POST", QUOTA.format(cluster.namespace), json=body)


def change(cluster: Cluster, **spec: Any) -> None:
    path = QUOTA.format(cluster.namespace) + "/default"
    headers = {"Content-Type": "application/merge-patch+json"}
    assert cluster.request("PATCH", path, content=json.dumps({"spec": spec}), headers=headers) is not None


def budgets(cluster: Cluster) -> list[dict[str, Any]]:
    found = cluster.request("GET", QUOTA.format(cluster.namespace) + "/default")
    return list((found.get("status") or {}).get("budgets") or [])


async def phases(cluster: Cluster, *names: str) -> list[tuple[str | None, str | None]]:
    found = [cluster.status(name) for name in names]
    return [(status.get("phase"), status.get("reason")) for status in found]


async def is_in(cluster: Cluster, name: str, phase: str, reason: str) -> bool:
    return await phases(cluster, name) == [(phase, reason)]


async def queued(bus: Bus, key: ModelKey, uid: str, attempt: int = 1) -> bool:
    entry: Entry | None = await bus.inspect(key, uid)
    return entry is not None and (entry.state, entry.attempt) == (EntryState.QUEUED, attempt)


def spent(cluster: Cluster, tokens: int, micros: int, reserved: int) -> Any:
    async def told() -> bool:
        figures = [
            (each["tokensSpent"], each["costMicrosSpent"], each["tokensReserved"], each["costMicrosReserved"])
            for each in budgets(cluster)
        ]
        return figures == [(tokens, micros, reserved, reserved)]

    return told


async def claimed(bus: Bus, key: ModelKey) -> Any:
    async def one() -> Any:
        return await bus.claim(key, worker="pod-a", count=1, lease_ms=60_000)

    (delivery,) = await until(one)
    return delivery


def usage(tokens: int) -> dict[str, Any]:
    half = tokens // 2
    return {"promptTokens": tokens - half, "completionTokens": half, "costMicros": tokens, "currency": "USD"}


async def test_who_finds_no_room_waits_and_goes_on(
    start: StartOperator, cluster: Cluster, bus: Bus, redis: Any, key: ModelKey
) -> None:
    operator = start()
    await until(operator.leads, 60)
    quota(cluster, budgets=[{"window": "Monthly", "costMicros": 100}])
    cluster.model(price=PRICE)
    await until(lambda: _seen(cluster))
    first, second = (cluster.task(name, **TASK) for name in ("one", "two"))
    await until(lambda: queued(bus, key, first))
    await until(lambda: queued(bus, key, second))
    third = cluster.task("three", **TASK)
    await until(lambda: is_in(cluster, "three", "Waiting", "BudgetExhausted"))
    message, written = cluster.status("three")["message"], _version(cluster, "three")
    for word in (
        "Monthly budget",
        "0 micros of USD are spent and 100 reserved, of at most 100",
        "may take 50",
        "T00:00",
    ):
        assert word in message
    await until(spent(cluster, 0, 0, 100), 30)
    assert budgets(cluster)[0]["resetTime"].endswith("-01T00:00:00Z")
    assert _version(cluster, "three") == written, "who waits is not written about"

    # A claimed attempt goes out with the price.
    delivery = await claimed(bus, key)
    assert delivery.envelope.payload["price"] == {"currency": "USD", **PRICE}
    # It took ten: forty are left to spend beside the other's fifty, and that is not enough.
    cluster.commit(delivery.envelope.name, 1, usage=usage(10))
    await bus.complete(key, delivery.token)
    await until(spent(cluster, 10, 10, 50), 30)
    assert await phases(cluster, "three") == [("Waiting", "BudgetExhausted")]

    # A failed attempt takes something, too: its runner says how much, and the retry wants fifty again.
    delivery = await claimed(bus, key)
    assert await bus.fail(key, delivery.token, Failure("ProviderFailed", "no", spent=Spend(45, 45, "USD")))
    retried = delivery.envelope.name
    await until(lambda: is_in(cluster, retried, "Waiting", "BudgetExhausted"))
    assert (cluster.status(retried)["attempt"], cluster.status(retried)["retries"]) == (2, 1)
    await until(spent(cluster, 55, 55, 0), 30)

    # Redis forgets: the sum is the status's.
    await redis.execute_command("FLUSHALL")
    change(cluster, budgets=[{"window": "Monthly", "costMicros": 110}])
    await until(lambda: _either_queued(cluster, retried))
    await until(spent(cluster, 55, 55, 50), 30)
    change(cluster, budgets=[{"window": "Monthly", "costMicros": 1_000}])
    await until(lambda: queued(bus, key, third), 30)
    await until(spent(cluster, 55, 55, 100), 30)
    assert operator.process is not None
    assert operator.process.poll() is None


async def test_room_that_comes_back_is_used_and_a_kill_forgets_nothing(
    start: StartOperator, cluster: Cluster, bus: Bus, key: ModelKey
) -> None:
    operator = start(HEADRACE_ELECTION_LEASE_SECONDS="8")
    await until(operator.leads, 60)
    quota(cluster, budgets=[{"window": "Daily", "tokens": 70}])
    cluster.model()
    await until(lambda: _seen(cluster))
    first = cluster.task("one", **TASK)
    await until(lambda: queued(bus, key, first))
    second = cluster.task("two", **TASK)
    cluster.task("huge", prompt="x" * 15, parameters={"maxTokens": 1_000})
    await until(lambda: is_in(cluster, "two", "Waiting", "BudgetExhausted"))
    await until(lambda: is_in(cluster, "huge", "Waiting", "BudgetExhausted"))
    assert "lower spec.parameters.maxTokens" in cluster.status("huge")["message"]
    delivery = await claimed(bus, key)
    operator.kill()
    cluster.commit("one", 1, usage=usage(20))
    await bus.complete(key, delivery.token)
    operator = start("operator-1", HEADRACE_ELECTION_LEASE_SECONDS="8")
    await until(operator.leads, 60)
    # What nobody saw end is found, and makes room for the next: 20 spent, 50 wanted, of 70.
    await until(lambda: queued(bus, key, second), 60)

    async def told() -> bool:
        return [(each["tokensSpent"], each["tokensReserved"]) for each in budgets(cluster)] == [(20, 50)]

    await until(told, 30)
    # Cancelled in the queue it took nothing.
    cluster.patch("llmtask", "two", {"spec": {"cancel": True}})
    await until(lambda: is_in(cluster, "two", "Cancelled", "Cancelled"))

    async def free() -> bool:
        return [(each["tokensSpent"], each["tokensReserved"]) for each in budgets(cluster)] == [(20, 0)]

    await until(free, 30)


async def test_a_namespace_without_remote_models_waits_for_the_right(
    start: StartOperator, cluster: Cluster, bus: Bus, key: ModelKey
) -> None:
    operator = start()
    await until(operator.leads, 60)
    remote = {"provider": "OpenAICompatible", "baseURL": "https://llm.example.com/v1", "model": "m"}
    body = {"apiVersion": "headrace.dev/v1alpha1", "kind": "LLMModel", "metadata": {"name": MODEL}}
    cluster.create({**body, "spec": {"remote": remote}})
    early = cluster.task("early")
    await until(lambda: queued(bus, key, early))
    quota(cluster, remoteModels=False)
    await until(lambda: is_in(cluster, "early", "Waiting", "RemoteNotAllowed"))
    assert (cluster.status("early")["attempt"], cluster.status("early")["retries"]) == (2, 0)
    assert await bus.inspect(key, early) is None
    late = cluster.task("late")
    await until(lambda: is_in(cluster, "late", "Waiting", "RemoteNotAllowed"))
    assert "remoteModels is false" in cluster.status("late")["message"]
    change(cluster, remoteModels=True)
    await until(lambda: queued(bus, key, early, 2))
    await until(lambda: queued(bus, key, late))


def _version(cluster: Cluster, name: str) -> str:
    found = cluster.get("llmtask", name)
    assert found is not None
    return str(found["metadata"]["resourceVersion"])


async def _seen(cluster: Cluster) -> bool:
    return bool(budgets(cluster))


async def _either_queued(cluster: Cluster, retried: str) -> bool:
    return [phase for phase, _ in await phases(cluster, retried, "three")].count("Queued") == 1
