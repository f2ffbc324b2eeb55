"""Interruptions, deadlines and poison by a real operator and a real runner; the engine generates nothing, slowly."""

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cluster_world import Cluster, Operator, Writes, until
from redis_server import RedisServer

from headrace_bus import ModelKey
from tests.contract.runner_.pod_world import Engine, Runner
from tests.stub_engine.script import Script

ENDLESS = Script(ms=600_000).line()


@pytest.fixture
async def runner(
    operator: Operator, cluster: Cluster, server: RedisServer, key: ModelKey, kubeconfig: str, tmp_path: Path
) -> AsyncIterator[Runner]:
    """One that serves, with two slots."""
    cluster.model()
    with tempfile.TemporaryDirectory(prefix="hr-stub-") as folder:  # a socket's path is short
        weights = Path(folder) / "model.gguf"
        weights.write_bytes(b"GGUF")
        engine = Engine(Path(folder), weights, "tests.stub_engine.supervisor")
        runner = Runner(tmp_path, server, engine, key, Path(kubeconfig))
        try:
            await until(engine.serving)
            await until(runner.ready)
            yield runner
        finally:
            runner.end()
            engine.end()


async def ends(cluster: Cluster, name: str, phase: str) -> dict[str, Any]:
    async def there() -> dict[str, Any] | None:
        status = cluster.status(name)
        return status if status.get("phase") == phase else None

    return await until(there, 60) or {}


def records(status: dict[str, Any]) -> list[tuple[int, str, str]]:
    return [(each["number"], each["outcome"], each["reason"]) for each in status["attempts"]]


async def test_a_runner_answers_cancel_and_suspend(runner: Runner, cluster: Cluster) -> None:
    writes = Writes(cluster, "llmtask", "cancelled")
    for name in ("cancelled", "suspended"):
        cluster.task(name, prompt=ENDLESS)
    await ends(cluster, "cancelled", "Running")
    cluster.patch("llmtask", "cancelled", {"spec": {"cancel": True}})
    status = await ends(cluster, "cancelled", "Cancelled")
    assert (status["reason"], status["attempt"]) == ("Cancelled", 1), "by the runner, not for its silence"
    # accept, Running, the edit, the outcome, and at most one change of the waiting reason
    assert writes.count() <= 5

    await ends(cluster, "suspended", "Running")
    cluster.patch("llmtask", "suspended", {"spec": {"suspend": True}})
    status = await ends(cluster, "suspended", "Suspended")
    assert (status["attempt"], status["retries"]) == (2, 0)
    assert records(status) == [(1, "Released", "Suspended")]
    assert await until(runner.idle)
    cluster.patch("llmtask", "suspended", {"spec": {"suspend": False}})
    status = await ends(cluster, "suspended", "Running")
    assert status["attempt"] == 2
    cluster.patch("llmtask", "suspended", {"spec": {"cancel": True}})
    await ends(cluster, "suspended", "Cancelled")
    cluster.task("deleted", prompt=ENDLESS)
    await ends(cluster, "deleted", "Running")
    cluster.delete("llmtask", "deleted")
    assert await until(runner.idle), "nobody generates for a task that is gone"


async def test_a_runner_ends_what_takes_too_long(runner: Runner, cluster: Cluster) -> None:
    cluster.task("late", prompt=ENDLESS, activeDeadlineSeconds=2)
    cluster.task("slow", prompt=ENDLESS, attemptTimeoutSeconds=1, backoffLimit=1)
    status = await ends(cluster, "late", "Failed")
    assert status["reason"] == "DeadlineExceeded"
    assert records(status) == [(1, "Failed", "DeadlineExceeded")], "by the runner, not for its silence"
    status = await ends(cluster, "slow", "Failed")
    assert (status["reason"], status["retries"], status.get("losses", 0)) == ("BackoffLimitExceeded", 1, 0)
    assert records(status) == [(1, "Failed", "AttemptTimeout"), (2, "Failed", "AttemptTimeout")]


async def test_what_takes_three_engines_down_is_poison(runner: Runner, cluster: Cluster) -> None:
    cluster.task("killer", prompt=Script(ending="crash").line(), backoffLimit=10)
    status = await ends(cluster, "killer", "Failed")
    assert (status["reason"], status["losses"], status["attempt"]) == ("Poison", 3, 3)
    assert records(status) == [(n, "Failed", "EngineLost") for n in (1, 2, 3)]
    cluster.task("harmless", prompt=Script().line())
    assert (await ends(cluster, "harmless", "Complete"))["outcome"] == "Complete"
