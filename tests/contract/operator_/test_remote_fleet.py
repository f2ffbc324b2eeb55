"""Remote models from the manifest to the outcome: operator, runners, gate and every provider's module, all real.

After every test nothing but its Secret has the key, and nothing but its task the prompt.
"""

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest
from cluster_world import Cluster, StartOperator, until
from redis.asyncio import Redis
from redis_server import RedisServer
from remote_fleet import PROMPT, Fleet
from remote_stands import KEY, SAID, Stand, all_serving

from tests.contract.runner_.pod_world import Engine

pytestmark = pytest.mark.contract

REMOTE: Final = ("openai", "anthropic", "compatible", "plain")
SCHEMA: Final = json.dumps(
    {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "green"]}},
        "required": ["colour"],
        "additionalProperties": False,
    }
)


@pytest.fixture
async def stands() -> AsyncIterator[dict[str, Stand]]:
    async with all_serving() as stands:
        yield stands


@pytest.fixture
async def fleet(
    stands: dict[str, Stand],
    start: StartOperator,
    cluster: Cluster,
    server: RedisServer,
    redis: Redis,
    tmp_path: Path,
) -> AsyncIterator[Fleet]:
    """All four models with a runner each."""
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "headrace-runner"},
    }
    rule = {"apiGroups": ["headrace.dev"], "resources": ["llmtasks/status"], "verbs": ["patch"]}
    cluster.create({**role, "rules": [rule]})
    operator = start(
        HEADRACE_REMOTE_ALLOWED_HOSTS=",".join(each.host for each in stands.values()),
        HEADRACE_RUNNER_REDIS_ADDRESS=server.url,
    )
    await until(operator.leads)
    fleet = Fleet(cluster, server, redis, tmp_path, operator)
    try:
        for each in stands.values():
            fleet.add(each)
        await asyncio.gather(*(fleet.start(name) for name in stands))
        await asyncio.gather(*(fleet.available(name) for name in stands))
        yield fleet
        # At the end of what became of an outcome nothing is on its way any more.
        assert await fleet.leaks() == []
    finally:
        for each in stands.values():
            each.free.set()
        fleet.end()
        cluster.delete("clusterrole", "headrace-runner")
        for log in fleet.logs[1:]:
            print(log.read_text())


async def test_one_manifest_runs_on_every_model(fleet: Fleet, stands: dict[str, Stand], tmp_path: Path) -> None:
    fleet.cluster.model()
    with tempfile.TemporaryDirectory(prefix="hr-fleet-") as folder:  # a socket's path is short
        engine = Engine(Path(folder), Path(os.environ["HEADRACE_TEST_MODEL"]))
        try:
            await until(engine.serving)
            await fleet.start("smol", engine)
            bounds = {"parameters": {"maxTokens": 24}}
            for name in ("smol", *REMOTE):
                fleet.task(f"text-{name}", name, **bounds)
                fleet.task(f"json-{name}", name, **bounds, output={"jsonSchema": SCHEMA})
            texts = {name: await fleet.status_when(f"text-{name}", phase="Complete") for name in ("smol", *REMOTE)}
            documents = {name: await fleet.status_when(f"json-{name}", phase="Complete") for name in ("smol", *REMOTE)}
        finally:
            engine.end()
    assert {name: documents[name]["result"]["enforcement"] for name in documents} == {
        "smol": "Grammar",
        "openai": "Provider",
        "anthropic": "Provider",
        "compatible": "ValidatedOnly",
        "plain": "Provider",
    }
    for name in REMOTE:
        assert texts[name]["result"]["text"] == "Good evening."
        assert "enforcement" not in texts[name]["result"]
    for status in documents.values():
        assert json.loads(status["result"]["text"])["colour"] in ("red", "green")
    for status in (*texts.values(), *documents.values()):
        assert status["usage"]["promptTokens"] > 0
        assert status["usage"]["completionTokens"] > 0
        assert (status["outcome"], status["reason"], status["attempt"]) == ("Complete", "Succeeded", 1)
        assert (status.get("retries", 0), [each["outcome"] for each in status["attempts"]]) == (0, ["Complete"])
        assert status["timings"]["generationMillis"] >= 0


async def test_what_a_provider_refuses_ends_the_task(fleet: Fleet) -> None:
    for name in REMOTE:
        fleet.task(f"refused-{name}", name, "refuse")
        fleet.task(f"cut-{name}", name, "cut", output={"jsonSchema": SCHEMA})
        fleet.task(f"long-{name}", name, "long")
        fleet.task(f"broken-{name}", name, "break", backoffLimit=0)
    for name in REMOTE:
        ended = {act: await fleet.status_when(f"{act}-{name}", phase="Failed") for act in ("refused", "cut", "long")}
        plain = name == "plain"
        assert {act: status["reason"] for act, status in ended.items()} == {
            "refused": "InvalidParameters" if plain else "ContentRefused",
            "cut": "OutputTruncated",
            "long": "InputTooLarge" if plain else "ContextLengthExceeded",
        }
        assert all(status["attempt"] == 1 for status in ended.values())
        assert "maxTokens" in ended["cut"]["message"]
        status = await fleet.status_when(f"broken-{name}", phase="Failed")
        assert status["reason"] == "BackoffLimitExceeded"
        assert "ProviderFailed" in json.dumps(status["attempts"])


async def test_what_hangs_is_ended_from_here(fleet: Fleet, stands: dict[str, Stand]) -> None:
    for name in REMOTE:
        for each in ("cancelled", "suspended"):
            fleet.task(f"{each}-{name}", name, "hang")
        fleet.task(f"late-{name}", name, "hang", activeDeadlineSeconds=6)
        fleet.task(f"slow-{name}", name, "hang", attemptTimeoutSeconds=1, backoffLimit=0)
    for name in REMOTE:
        for each in ("cancelled", "suspended"):
            await fleet.status_when(f"{each}-{name}", phase="Running")

    async def spoken() -> bool:
        return all(len(stand.asked) >= 4 for stand in stands.values())

    await until(spoken)
    for name in REMOTE:
        fleet.cluster.patch("llmtask", f"cancelled-{name}", {"spec": {"cancel": True}})
        fleet.cluster.patch("llmtask", f"suspended-{name}", {"spec": {"suspend": True}})
    for name in REMOTE:
        status = await fleet.status_when(f"cancelled-{name}", phase="Cancelled")
        assert (status["result"]["text"], status["result"]["partial"]) == ("".join(SAID), True)
        status = await fleet.status_when(f"suspended-{name}", phase="Suspended")
        assert (status.get("retries", 0), status["attempts"][-1]["outcome"]) == (0, "Released")
        fleet.cluster.patch("llmtask", f"suspended-{name}", {"spec": {"cancel": True}})
        status = await fleet.status_when(f"late-{name}", phase="Failed")
        assert status["reason"] == "DeadlineExceeded"
        status = await fleet.status_when(f"slow-{name}", phase="Failed")
        assert (status["reason"], status["attempts"][-1]["reason"]) == ("BackoffLimitExceeded", "AttemptTimeout")
        await fleet.status_when(f"suspended-{name}", phase="Cancelled")


async def test_a_runner_that_dies_in_the_middle(fleet: Fleet, stands: dict[str, Stand]) -> None:
    for name in REMOTE:
        fleet.task(f"lost-{name}", name, "hang")
        await fleet.status_when(f"lost-{name}", phase="Running")
        fleet.runners[name].process.kill()
    for stand in stands.values():
        stand.free.set()
    await asyncio.gather(*(fleet.start(name) for name in REMOTE))
    for name in REMOTE:
        status = await fleet.status_when(f"lost-{name}", phase="Complete")
        records = [(each["number"], each["outcome"]) for each in status["attempts"]]
        assert records == [(1, "Lost"), (2, "Complete")]
        assert (status["losses"], status["result"]["text"]) == (1, "".join(SAID))


async def test_a_storm_of_refusals_charges_nobody(fleet: Fleet, stands: dict[str, Stand]) -> None:
    for stand in stands.values():
        stand.storm = 9
    for name in REMOTE:
        for number in range(10):
            fleet.task(f"t{number}-{name}", name)

    async def told() -> bool:
        statuses = [fleet.cluster.status(name, "llmmodel").get("provider", {}) for name in REMOTE]
        return all(status.get("reason") == "RateLimited" for status in statuses)

    await until(told)
    for name in REMOTE:
        for number in range(10):
            status = await fleet.status_when(f"t{number}-{name}", phase="Complete")
            assert status.get("retries", 0) == 0
            assert {each["outcome"] for each in status["attempts"]} <= {"Released", "Complete"}


async def test_a_revoked_key_stops_the_model_until_there_is_another(fleet: Fleet, stands: dict[str, Stand]) -> None:
    for name, stand in stands.items():
        stand.good_keys.clear()
        stand.good_keys.add("sk-another")
        fleet.task(f"waits-{name}", name)
    for name in REMOTE:

        async def refused(name: str = name) -> bool:
            found = fleet.cluster.conditions(name=name)
            return found.get("Ready") == found.get("Available") == ("False", "CredentialsRefused")

        await until(refused)
        ready = next(c for c in fleet.cluster.status(name, "llmmodel")["conditions"] if c["type"] == "Ready")
        assert "Secret" in ready["message"]
        status = await fleet.status_when(f"waits-{name}", reason="CredentialsRefused")
        assert "outcome" not in status
        assert status.get("retries", 0) == 0
    assert await fleet.leaks() == []
    for name in REMOTE:
        fleet.key_file(name).write_text("sk-another")
    for name in REMOTE:
        status = await fleet.status_when(f"waits-{name}", phase="Complete")
        assert (status.get("retries", 0), status.get("losses", 0)) == (0, 0)
        await fleet.available(name)
        assert fleet.runners[name].process.poll() is None, "the same process"


async def another_model(fleet: Fleet, model: str, *, ready: bool) -> None:
    """The Deployment rolls, as its controller would do it."""
    fleet.cluster.patch("llmmodel", "openai", {"spec": {"remote": {"model": model}}})

    async def rolled() -> bool:
        return model in json.dumps(fleet.cluster.get("deployment", "headrace-openai"))

    await until(rolled)
    fleet.cluster.delete_pods()
    await fleet.start("openai", ready=ready)


async def test_a_model_that_the_provider_does_not_know(fleet: Fleet, stands: dict[str, Stand]) -> None:
    fleet.task("waits", "openai")
    await fleet.status_when("waits", phase="Complete")
    await another_model(fleet, "gpt-unheard-of", ready=False)
    fleet.task("waits-longer", "openai")

    async def told() -> bool:
        return fleet.cluster.conditions(name="openai").get("Ready") == ("False", "RemoteModelNotFound")

    await until(told)
    status = await fleet.status_when("waits-longer", reason="RemoteModelNotFound")
    assert "outcome" not in status
    # What is corrected is tried at once, whatever the breaker's time is.
    await another_model(fleet, stands["openai"].model, ready=True)
    status = await fleet.status_when("waits-longer", phase="Complete")
    assert status.get("retries", 0) == 0
    await fleet.available("openai")


def test_what_is_looked_for_is_found() -> None:
    from remote_fleet import _found

    assert len(_found("x", f"{KEY} and {PROMPT}")) == 2
