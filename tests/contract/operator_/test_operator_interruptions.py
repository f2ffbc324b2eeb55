"""Cancel, suspend, deadlines and poison against a real API server and Redis; runners are played by hand."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from cluster_world import Cluster, Operator, Writes, in_state, until
from redis.asyncio import Redis

from headrace_bus import Bus, Delivery, EntryState, Interruption, ModelKey
from headrace_crds.outcome import timestamp

LEASE_MS = 600
LONG_MS = 60_000


class Tasks:
    """What the tests do to tasks and wait for."""

    def __init__(self, cluster: Cluster, bus: Bus, key: ModelKey) -> None:
        self.cluster, self.bus, self.key = cluster, bus, key
        self.uids: dict[str, str] = {}

    def make(self, name: str, **spec: Any) -> None:
        self.uids[name] = self.cluster.task(name, **spec)

    def edit(self, name: str, **spec: Any) -> None:
        self.cluster.patch("llmtask", name, {"spec": spec})

    async def queued(self, name: str, attempt: int = 1) -> None:
        await until(lambda: in_state(self.bus, self.key, self.uids[name], EntryState.QUEUED, attempt))

    async def claimed(self, name: str, attempt: int = 1, *, lease_ms: int = LONG_MS) -> Delivery:
        await self.queued(name, attempt)
        (delivery,) = await self.bus.claim(self.key, worker="pod-a", count=1, lease_ms=lease_ms)
        assert delivery.envelope.name == name
        return delivery

    async def phase(self, name: str, phase: str) -> dict[str, Any]:
        async def there() -> dict[str, Any] | None:
            status = self.cluster.status(name)
            return status if status.get("phase") == phase else None

        return await until(there) or {}

    async def forgotten(self, name: str) -> None:
        async def gone() -> bool:
            return await self.bus.inspect(self.key, self.uids[name]) is None

        await until(gone)

    async def told(self, name: str, word: Interruption) -> None:
        async def heard() -> bool:
            words = await self.bus.interruptions(self.key, "pod-a", timeout_s=1)
            return any((each.uid, each.word) == (self.uids[name], word) for each in words)

        await until(heard)

    @contextlib.asynccontextmanager
    async def renewed(self, delivery: Delivery) -> AsyncIterator[None]:
        """A runner that lives, hears nothing and says nothing."""

        async def renew() -> None:
            while True:
                await self.bus.renew(self.key, [delivery.token], lease_ms=LONG_MS)
                await asyncio.sleep(1)

        renewing = asyncio.create_task(renew())
        try:
            yield
        finally:
            renewing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await renewing


@pytest.fixture
def tasks(cluster: Cluster, bus: Bus, key: ModelKey) -> Tasks:
    return Tasks(cluster, bus, key)


def refused(cluster: Cluster, name: str, attempt: int) -> str:
    """What the API server says to a commit that comes too late."""
    with pytest.raises(AssertionError) as caught:
        cluster.commit(name, attempt)
    return str(caught.value)


async def test_what_nobody_works_on_is_cancelled_at_once(operator: Operator, cluster: Cluster, tasks: Tasks) -> None:
    writes = {name: Writes(cluster, "llmtask", name) for name in ("waits", "born", "stands")}
    tasks.make("waits")
    await tasks.phase("waits", "Waiting")
    tasks.edit("waits", cancel=True)
    status = await tasks.phase("waits", "Cancelled")
    assert (status["outcome"], status["reason"], status["attempt"]) == ("Cancelled", "Cancelled", 1)
    assert "result" not in status
    assert writes["waits"].count() == 3, "accept, the edit, the outcome"

    tasks.make("born", cancel=True)
    await tasks.phase("born", "Cancelled")
    assert writes["born"].count() == 1, "accepted and ended in one write"

    cluster.model()
    tasks.make("stands")
    await tasks.queued("stands")
    before = writes["stands"].count()
    tasks.edit("stands", cancel=True, suspend=True)
    status = await tasks.phase("stands", "Cancelled")
    assert status["attempts"] == [], "nobody was given it"
    await tasks.forgotten("stands")
    assert await tasks.bus.claim(tasks.key, worker="pod-a", count=9, lease_ms=LONG_MS) == []
    assert writes["stands"].count() == before + 2, "the edit, the outcome"
    assert "Cancelled" in cluster.reasons_of_events()


async def test_a_runner_is_told_and_its_silence_waited_for(operator: Operator, cluster: Cluster, tasks: Tasks) -> None:
    cluster.model()
    tasks.make("silent")
    silent = await tasks.claimed("silent")
    tasks.make("answers")
    answers = await tasks.claimed("answers")
    tasks.make("done")
    done = await tasks.claimed("done")
    cluster.commit("done", 1)
    writes = Writes(cluster, "llmtask", "silent")
    asked_ms = await tasks.bus.server_time_ms()
    async with tasks.renewed(silent):
        for name in ("answers", "done", "silent"):
            tasks.edit(name, cancel=True)
        await tasks.told("silent", Interruption.CANCEL)
        partial = {"text": "so f", "partial": True, "finishReason": "Cancelled", "sizeBytes": 4, "sha256": "0" * 64}
        cluster.commit("answers", 1, outcome="Cancelled", result=partial)
        assert await tasks.bus.complete(tasks.key, answers.token)
        assert await tasks.bus.complete(tasks.key, done.token)
        status = await tasks.phase("silent", "Cancelled")
        ended_ms = await tasks.bus.server_time_ms()
    assert status["reason"] == "CancelUnanswered"
    (record,) = status["attempts"]
    assert (record["number"], record["outcome"], record["reason"]) == (1, "Lost", "CancelUnanswered")
    assert ended_ms - asked_ms >= 10_000, "the runner had its time"
    assert writes.count() == 2, "the edit, the outcome"
    assert not await tasks.bus.complete(tasks.key, silent.token)
    assert "are final" in refused(cluster, "silent", 1)
    assert cluster.status("answers")["result"]["text"] == "so f"
    assert cluster.status("done")["outcome"] == "Complete", "committed before the cancel"


async def test_suspended_from_the_beginning_and_out_of_the_queue(
    operator: Operator, cluster: Cluster, tasks: Tasks
) -> None:
    cluster.model()
    writes = Writes(cluster, "llmtask", "born")
    tasks.make("born", suspend=True, queueDeadlineSeconds=1)
    status = await tasks.phase("born", "Suspended")
    assert (status["attempt"], status["reason"]) == (1, "Suspended")
    assert "runner" not in status
    assert writes.count() == 1
    tasks.make("stands")
    await tasks.queued("stands")
    tasks.edit("stands", suspend=True)
    status = await tasks.phase("stands", "Suspended")
    assert (status["attempt"], status["retries"]) == (2, 0)
    await tasks.forgotten("stands")
    assert cluster.conditions("llmtask", "stands")["Suspended"] == ("True", "Suspended")

    tasks.edit("stands", suspend=False)
    delivery = await tasks.claimed("stands", 2)
    status = cluster.status("stands")
    assert (status["phase"], "suspendTime" in status, status["suspendedSeconds"] >= 0) == ("Queued", False, True)
    assert cluster.conditions("llmtask", "stands")["Suspended"] == ("False", "Resumed")
    assert status["runner"]["serviceAccount"]
    cluster.commit("stands", 2)
    assert await tasks.bus.complete(tasks.key, delivery.token)

    # By now its queue deadline would have passed several times over.
    assert cluster.status("born")["phase"] == "Suspended"
    before = writes.count()
    tasks.edit("born", suspend=False)
    await tasks.claimed("born", 1)
    assert writes.count() == before + 2, "the edit, handed out"


async def test_suspended_off_its_runner_charges_nobody(operator: Operator, cluster: Cluster, tasks: Tasks) -> None:
    cluster.model()
    tasks.make("let-go")
    let_go = await tasks.claimed("let-go")
    tasks.make("vanished")
    await tasks.claimed("vanished", lease_ms=3_000)
    writes = Writes(cluster, "llmtask", "let-go")
    for name in ("let-go", "vanished"):
        tasks.edit(name, suspend=True)
    await tasks.told("let-go", Interruption.SUSPEND)
    assert cluster.status("let-go")["phase"] == "Queued", "nothing is written before it is let go"
    assert await tasks.bus.release(tasks.key, let_go.token, "Suspended")
    for name, outcome, reason in (("let-go", "Released", "Suspended"), ("vanished", "Lost", "LeaseExpired")):
        status = await tasks.phase(name, "Suspended")
        assert (status["attempt"], status["retries"], status.get("losses", 0)) == (2, 0, 0)
        assert [(r["number"], r["outcome"], r["reason"]) for r in status["attempts"]] == [(1, outcome, reason)]
    assert writes.count() == 2, "the edit, suspended"
    tasks.edit("let-go", suspend=False)
    await tasks.claimed("let-go", 2)
    tasks.edit("vanished", cancel=True)
    status = await tasks.phase("vanished", "Cancelled")
    assert "suspendTime" not in status


async def test_deadlines_end_what_waits_and_what_a_silent_runner_holds(
    operator: Operator, cluster: Cluster, tasks: Tasks
) -> None:
    writes = {name: Writes(cluster, "llmtask", name) for name in ("nobody", "nowhere", "held")}
    tasks.make("nowhere", activeDeadlineSeconds=1)
    status = await tasks.phase("nowhere", "Failed")
    assert status["reason"] == "DeadlineExceeded"
    assert writes["nowhere"].count() == 2, "accept, the outcome"

    cluster.model()
    tasks.make("held", activeDeadlineSeconds=2, queueDeadlineSeconds=1)
    held = await tasks.claimed("held")
    deadline_ms = held.envelope.payload["deadlineMs"]
    assert timestamp(deadline_ms - 3_000) == cluster.status("held")["acceptTime"]
    assert held.envelope.payload["attemptTimeoutMs"] == 300_000
    tasks.make("nobody", queueDeadlineSeconds=1)
    async with tasks.renewed(held):
        status = await tasks.phase("nobody", "Failed")
        assert (status["reason"], status["attempts"]) == ("QueueDeadlineExceeded", [])
        await tasks.forgotten("nobody")
        status = await tasks.phase("held", "Failed")
        ended_ms = await tasks.bus.server_time_ms()
        await tasks.told("held", Interruption.DROP)
    assert (status["reason"], status["attempts"][0]["outcome"]) == ("DeadlineExceeded", "Lost")
    assert ended_ms >= deadline_ms + 10_000, "its runner had the time to say how far it came"
    assert "are final" in refused(cluster, "held", 1)
    assert {"QueueDeadlineExceeded", "DeadlineExceeded"} <= cluster.reasons_of_events()


async def test_a_deadline_outlives_the_operator_that_knew_of_it(
    operator: Operator, cluster: Cluster, tasks: Tasks
) -> None:
    cluster.model()
    for name, seconds in (("meanwhile", 1), ("afterwards", 12)):
        tasks.make(name, queueDeadlineSeconds=seconds)
        await tasks.queued(name)
    operator.kill()
    operator.start()
    for name in ("meanwhile", "afterwards"):
        assert (await tasks.phase(name, "Failed"))["reason"] == "QueueDeadlineExceeded"


async def test_three_losses_are_poison_and_a_flush_forgives_none(
    operator: Operator, cluster: Cluster, tasks: Tasks, redis: Redis
) -> None:
    cluster.model()
    writes = Writes(cluster, "llmtask", "killer")
    tasks.make("killer", backoffLimit=10)
    await tasks.claimed("killer", 1, lease_ms=LEASE_MS)
    await tasks.claimed("killer", 2, lease_ms=LEASE_MS)
    await tasks.queued("killer", 3)
    assert (cluster.status("killer")["retries"], cluster.status("killer")["losses"]) == (2, 2)
    await redis.flushall()
    await tasks.claimed("killer", 4, lease_ms=LEASE_MS)
    status = await tasks.phase("killer", "Failed")
    assert (status["reason"], status["losses"], status["retries"], status["attempt"]) == ("Poison", 3, 2, 4)
    assert [each["outcome"] for each in status["attempts"]] == ["Lost", "Lost", "Released", "Lost"]
    assert status["message"].startswith("3 attempts ended with their runner or engine")
    await tasks.forgotten("killer")
    # accept, a write per further delivery, the outcome; and a waiting reason that changes from backoff to the model's
    assert writes.count() <= 5 + 2
