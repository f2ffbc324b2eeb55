"""Deletion of finished tasks by a real operator with exactly its documented rights."""

import time
from typing import Any

from cluster_world import Cluster, StartOperator, until

OFTEN = {"HEADRACE_RETENTION_SECONDS": "0.2"}


def ends(cluster: Cluster, name: str, *, ago_seconds: int = 0, notified: str | None = None, **spec: Any) -> None:
    """A task that ended so long ago."""
    cluster.task(name, **spec)
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - ago_seconds))
    conditions = [{"type": "Finished", "status": "True", "reason": "Succeeded", "lastTransitionTime": now}]
    if notified is not None:
        conditions.append({**conditions[0], "type": "Notified", "status": notified, "reason": "NotDelivered"})
    status = {"attempt": 1, "outcome": "Complete", "phase": "Complete", "completionTime": now, "reason": "Succeeded"}
    cluster.patch("llmtask", name, {"status": {**status, "conditions": conditions}}, status=True)


def names(cluster: Cluster) -> set[str]:
    return {item["metadata"]["name"] for item in cluster.request("GET", cluster.path("llmtask"))["items"]}


async def stay(cluster: Cluster, wanted: set[str]) -> None:
    async def there() -> bool:
        return names(cluster) == wanted

    await until(there)


async def test_finished_tasks_go_after_their_time_and_open_ones_never(start: StartOperator, cluster: Cluster) -> None:
    webhook = {"url": "https://hooks.invalid/x", "secretRef": {"name": "none", "key": "key"}}
    ends(cluster, "expired", ago_seconds=60, ttlSecondsAfterFinished=30)
    ends(cluster, "at-once", ttlSecondsAfterFinished=0)
    ends(cluster, "young", ttlSecondsAfterFinished=3600)
    ends(cluster, "for-ever", ago_seconds=10**6)
    ends(cluster, "owing", ago_seconds=60, notified="False", ttlSecondsAfterFinished=30, webhook=webhook)
    ends(cluster, "given-up", ago_seconds=90_000, notified="False", ttlSecondsAfterFinished=30, webhook=webhook)
    ends(cluster, "told", ago_seconds=60, notified="True", ttlSecondsAfterFinished=30, webhook=webhook)
    cluster.task("open", ttlSecondsAfterFinished=0)
    operator = start(**OFTEN)
    await stay(cluster, {"young", "for-ever", "owing", "open"})
    cluster.patch("llmtask", "young", {"spec": {"ttlSecondsAfterFinished": 0}})
    await stay(cluster, {"for-ever", "owing", "open"})
    answer = await operator.http("/metrics")
    assert answer is not None
    assert 'headrace_tasks_deleted_total{because="TTL"} 5.0' in answer.text
    assert 'headrace_tasks_waiting{reason="ModelNotFound"} 1.0' in answer.text


async def test_the_oldest_go_when_there_are_too_many(start: StartOperator, cluster: Cluster) -> None:
    for n in range(8):
        ends(cluster, f"ended-{n}", ago_seconds=100 - n)
    cluster.task("open")
    start(HEADRACE_RETENTION_PER_NAMESPACE="3", **OFTEN)
    await stay(cluster, {"ended-5", "ended-6", "ended-7", "open"})
    ends(cluster, "ended-8")
    await stay(cluster, {"ended-6", "ended-7", "ended-8", "open"})
