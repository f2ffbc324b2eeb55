"""Inputs out of ConfigMaps and results into them, by a real operator under its own rights; runners are by hand."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from cluster_world import MODEL, Cluster, Operator, StartOperator, Writes, until
from redis.asyncio import Redis

from headrace_bus import Bus, Delivery, EntryState, ModelKey
from headrace_crds.parked import Parked
from headrace_crds.result import LARGE_RESULT_LIMIT_BYTES, Timings, Usage

pytestmark = pytest.mark.contract

LABEL = {"headrace.dev/input": "true"}
BOOK = {"configMapKeyRef": {"name": "book", "key": "text"}}


def config_map(text: str, labels: dict[str, str] | None = None, name: str = "book") -> dict[str, Any]:
    metadata = {"name": name, "labels": LABEL if labels is None else labels}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"text": text}}


def said(cluster: Cluster, name: str, **members: Any) -> Callable[[], Awaitable[bool]]:
    """The status has these members; `message` in part."""

    async def is_so() -> bool:
        status = cluster.status(name)
        words = members.get("message", "")
        rest = {key: status.get(key) for key in members if key != "message"}
        return words in status.get("message", "") and rest == {k: v for k, v in members.items() if k != "message"}

    return is_so


def in_state(bus: Bus, key: ModelKey, uid: str, state: EntryState | None) -> Callable[[], Awaitable[bool]]:
    async def is_so() -> bool:
        entry = await bus.inspect(key, uid)
        return (entry.state if entry is not None else None) == state

    return is_so


async def claimed(bus: Bus, key: ModelKey) -> Delivery:
    found: list[Delivery] = []

    async def one() -> bool:
        found.extend(await bus.claim(key, worker="headrace-smol-0", count=1, lease_ms=60_000))
        return bool(found)

    await until(one)
    return found[0]


def input_task(cluster: Cluster, name: str, **spec: Any) -> str:
    body = {
        "apiVersion": "headrace.dev/v1alpha1",
        "kind": "LLMTask",
        "metadata": {"name": name},
        "spec": {"modelRef": {"name": MODEL}, "inputFrom": BOOK, **spec},
    }
    uid: str = cluster.create(body)["metadata"]["uid"]
    return uid


def parked(text: str) -> dict[str, Any]:
    """What a runner leaves."""
    return Parked.of(
        text,
        "Stop",
        None,
        Usage(prompt_tokens=3, completion_tokens=9),
        Timings(queued_millis=1, first_token_millis=2, generation_millis=3),
        claimed_ms=1_767_225_600_000,
        completed_ms=1_767_225_601_000,
        pod="headrace-smol-0",
    ).dump()


async def test_a_large_input_is_handed_out_whole_and_waits_while_it_is_missing(
    operator: Operator, cluster: Cluster, bus: Bus, key: ModelKey
) -> None:
    cluster.model()
    writes = Writes(cluster, "llmtask", "reads")
    uid = input_task(cluster, "reads")
    await until(said(cluster, "reads", phase="Waiting", reason="InputNotFound", attempt=1, message="does not exist"))
    message = cluster.status("reads")["message"]
    assert "'book'" in message
    assert "'text'" in message
    assert "headrace.dev/input" in message
    assert await bus.inspect(key, uid) is None
    text = "prologue " + "ü\n" * 200_000
    cluster.create(config_map(text, labels={}))
    # An edit is looked at before the ten seconds are over.
    cluster.patch("llmtask", "reads", {"spec": {"priority": 1}})
    await until(said(cluster, "reads", reason="InputNotFound", message="lacks the label"))
    cluster.patch("configmap", "book", {"metadata": {"labels": LABEL}})
    delivery = await claimed(bus, key)
    assert delivery.envelope.payload["messages"] == [{"role": "user", "content": text}]
    assert delivery.envelope.attempt == 1
    assert writes.count() <= 5, "accept, two explanations, handed out, the model's reason"


async def test_a_new_priority_counts_though_the_input_is_gone(
    operator: Operator, cluster: Cluster, bus: Bus, key: ModelKey
) -> None:
    cluster.model()
    cluster.create(config_map("as it was"))
    cluster.task("first")
    await until(said(cluster, "first", phase="Queued"))
    input_task(cluster, "last")
    await until(said(cluster, "last", phase="Queued"))
    cluster.delete("configmap", "book")
    cluster.patch("llmtask", "last", {"spec": {"priority": 50}})
    await until(said(cluster, "last", observedGeneration=2))
    delivery = await claimed(bus, key)
    assert delivery.envelope.name == "last"
    assert delivery.envelope.payload["messages"][0]["content"] == "as it was"


async def test_it_is_read_at_every_hand_out(operator: Operator, cluster: Cluster, bus: Bus, key: ModelKey) -> None:
    cluster.model()
    cluster.create(config_map("first"))
    uid = input_task(cluster, "reread")
    delivery = await claimed(bus, key)
    assert delivery.envelope.payload["messages"][0]["content"] == "first"
    cluster.delete("configmap", "book")
    assert await bus.release(key, delivery.token, "RunnerStopped")
    await until(said(cluster, "reread", phase="Waiting", reason="InputNotFound", attempt=2))
    await until(in_state(bus, key, uid, None))
    assert "runner" not in cluster.status("reread")
    cluster.create(config_map("second"))
    delivery = await claimed(bus, key)
    assert (delivery.envelope.attempt, delivery.envelope.payload["messages"][0]["content"]) == (2, "second")


@pytest.mark.parametrize(("text", "words"), [("a" * 921_601, "921601 bytes"), ("\x01" * 200_000, "as JSON")])
async def test_an_input_that_is_too_large_ends_the_task(
    operator: Operator, cluster: Cluster, text: str, words: str
) -> None:
    cluster.model()
    cluster.create(config_map(text))
    input_task(cluster, "large")
    await until(said(cluster, "large", outcome="Failed", reason="InputTooLarge", message=words))


async def test_a_parked_result_becomes_a_config_map_and_one_outcome(
    operator: Operator, cluster: Cluster, bus: Bus, key: ModelKey, redis: Redis
) -> None:
    cluster.model()
    uid = cluster.task("long")
    delivery = await claimed(bus, key)
    writes = Writes(cluster, "llmtask", "long")
    text = ("ü\n" * LARGE_RESULT_LIMIT_BYTES)[: LARGE_RESULT_LIMIT_BYTES // 2]
    assert await bus.park(key, delivery.token, parked(text))
    await until(said(cluster, "long", outcome="Complete", phase="Complete", reason="Succeeded"))
    name = f"headrace-{uid}-1"
    status = cluster.status("long")
    assert status["result"]["configMapRef"] == {"name": name, "key": "text"}
    assert status["result"]["sizeBytes"] == len(text.encode())
    assert "text" not in status["result"]
    assert [each["outcome"] for each in status["attempts"]] == ["Complete"]
    made = cluster.get("configmap", name)
    assert made is not None
    assert made["data"] == {"text": text}
    (owner,) = made["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("LLMTask", "long", uid)
    await until(in_state(bus, key, uid, None))
    assert not [each for each in await redis.keys("headrace:{*") if uid in each]
    assert writes.count() == 1


async def test_escapes_that_the_api_server_does_not_take_end_the_task(
    operator: Operator, cluster: Cluster, bus: Bus, key: ModelKey
) -> None:
    cluster.model()
    uid = cluster.task("escapes")
    delivery = await claimed(bus, key)
    assert await bus.park(key, delivery.token, parked("\x01" * LARGE_RESULT_LIMIT_BYTES))
    await until(said(cluster, "escapes", outcome="Failed", reason="ResultTooLarge", message="too large"))
    assert cluster.get("configmap", f"headrace-{uid}-1") is None
    await until(in_state(bus, key, uid, None))


async def test_another_config_map_of_that_name_is_not_overwritten(
    operator: Operator, cluster: Cluster, bus: Bus, key: ModelKey
) -> None:
    cluster.model()
    uid = cluster.task("taken")
    delivery = await claimed(bus, key)
    cluster.create(config_map("somebody's", name=f"headrace-{uid}-1"))
    assert await bus.park(key, delivery.token, parked("x" * 40_000))
    delivery = await claimed(bus, key)
    assert delivery.envelope.attempt == 2
    (record,) = cluster.status("taken")["attempts"]
    assert (record["outcome"], record["reason"]) == ("Released", "NameConflict")
    assert await bus.park(key, delivery.token, parked("y" * 40_000))
    await until(said(cluster, "taken", outcome="Complete", retries=0))
    assert cluster.status("taken")["result"]["configMapRef"]["name"] == f"headrace-{uid}-2"
    theirs = cluster.get("configmap", f"headrace-{uid}-1")
    assert theirs is not None
    assert theirs["data"] == {"text": "somebody's"}


async def test_nonsense_is_not_committed(
    operator: Operator, cluster: Cluster, bus: Bus, key: ModelKey, redis: Redis
) -> None:
    cluster.model()
    uid = cluster.task("forged")
    for payload in ({"text": "x"}, {**parked("x" * 40_000), "sha256": "0" * 64}):
        delivery = await claimed(bus, key)
        assert await bus.park(key, delivery.token, payload)
    delivery = await claimed(bus, key)
    assert delivery.envelope.attempt == 3
    records = cluster.status("forged")["attempts"]
    assert [(each["outcome"], each["reason"]) for each in records] == [("Released", "RunnerError")] * 2
    assert cluster.get("configmap", f"headrace-{uid}-1") is None
    assert await bus.park(key, delivery.token, parked("x" * 40_000))
    await until(said(cluster, "forged", outcome="Complete"))


@pytest.mark.parametrize("moment", ["before anything", "config map made", "status written"])
async def test_an_operator_that_is_killed_in_between_leads_to_one_outcome(
    start: StartOperator, cluster: Cluster, bus: Bus, key: ModelKey, redis: Redis, moment: str
) -> None:
    """What the first one had done when it was killed is made by hand: its writes, in its order."""
    first = start()
    await until(first.leads)
    cluster.model()
    uid = cluster.task("killed")
    delivery = await claimed(bus, key)
    first.kill()
    text = "z" * 40_000
    assert await bus.park(key, delivery.token, parked(text))
    name = f"headrace-{uid}-1"
    if moment != "before anything":
        owner = {"apiVersion": "headrace.dev/v1alpha1", "kind": "LLMTask", "name": "killed", "uid": uid}
        made = config_map(text, {}, name)
        made["metadata"]["ownerReferences"] = [{**owner, "controller": True}]
        cluster.create(made)
    if moment == "status written":
        cluster.commit("killed", 1)
    before = cluster.status("killed") if moment == "status written" else None
    second = start("operator-1")
    await until(second.leads)
    await until(said(cluster, "killed", outcome="Complete"))
    await until(in_state(bus, key, uid, None))
    if before is not None:
        assert cluster.status("killed") == before, "a second outcome is never written"
    else:
        assert cluster.status("killed")["result"]["configMapRef"]["name"] == name
    assert cluster.status("killed")["attempt"] == 1
