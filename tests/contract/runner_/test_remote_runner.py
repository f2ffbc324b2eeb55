"""A runner process whose model is somebody's API: real bus, real API server, a provider from another distribution."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from pod_world import Runner, Tasks, until
from redis_server import RedisServer
from remote_world import RETRY_AFTER_SECONDS, ChatApi, remote_settings

from headrace_bus import Bus, BusReader, Interruption, ModelKey, ReturnReason
from headrace_crds import Outcome
from headrace_crds.task import LLMTaskStatus

pytestmark = pytest.mark.contract

StartRemote = Callable[..., Awaitable[Runner]]


@pytest.fixture
async def api() -> AsyncIterator[ChatApi]:
    async with ChatApi().serving() as api:
        yield api


@pytest.fixture
async def start_remote(
    tmp_path: Path, redis: RedisServer, model: ModelKey, runner_kubeconfig: Path, api: ChatApi
) -> AsyncIterator[StartRemote]:
    runners: list[Runner] = []

    async def start(**spec: Any) -> Runner:
        settings = remote_settings(tmp_path / "remote", api, **spec)
        runners.append(Runner(tmp_path, redis, None, model, runner_kubeconfig, settings=settings))
        return runners[-1]

    yield start
    for runner in runners:
        runner.end()
        print(runner.log.read_text())


async def status_of(tasks: Tasks, name: str) -> LLMTaskStatus:
    status = (await tasks.finished(name)).status
    assert status is not None
    return status


async def test_a_task_completes_with_its_usage_and_the_key_is_read_anew(
    tasks: Tasks, start_remote: StartRemote, api: ChatApi, tmp_path: Path
) -> None:
    await until((await start_remote()).ready)
    await tasks.enqueue(tasks.create("hello", prompt="Say hello."))
    status = await status_of(tasks, "hello")
    assert (status.outcome, status.reason) == (Outcome.COMPLETE, "Succeeded")
    assert status.result is not None
    assert status.usage is not None
    assert (status.result.text, status.result.finish_reason) == ("Hello.", "Stop")
    assert (status.usage.prompt_tokens, status.usage.completion_tokens) == (11, 2)
    api.valid = {"sk-two"}
    (tmp_path / "remote" / "key").write_text("sk-two")
    await tasks.enqueue(tasks.create("again", prompt="Say hello."))
    assert (await status_of(tasks, "again")).outcome is Outcome.COMPLETE
    assert api.keys == ["sk-one", "sk-two"]


async def test_a_cancelled_task_keeps_its_text_and_ends_the_call(
    tasks: Tasks, bus: Bus, start_remote: StartRemote, api: ChatApi, model: ModelKey
) -> None:
    await start_remote()
    task = tasks.create("cut", prompt="hang")
    await tasks.enqueue(task)
    await tasks.running("cut")
    await api.spoke.wait()
    assert await bus.interrupt(model, task.metadata.uid, Interruption.CANCEL) is not None
    status = await status_of(tasks, "cut")
    assert status.outcome is Outcome.CANCELLED
    assert status.result is not None
    assert (status.result.text, status.result.partial) == ("so far", True)
    assert status.usage is not None
    assert status.usage.completion_tokens == 2
    await api.left.wait()


async def test_a_rate_limit_charges_nobody_and_the_model_waits(
    tasks: Tasks, bus: Bus, start_remote: StartRemote, api: ChatApi, model: ModelKey
) -> None:
    runner = await start_remote()
    await tasks.enqueue(tasks.create("limited", prompt="busy"))

    async def back() -> bool:
        return bool(await bus.returned(model))

    await until(back)
    (returned,) = await bus.returned(model)
    assert returned.reason is ReturnReason.RELEASED
    assert returned.failure is not None
    assert returned.failure.reason == "RateLimited"

    async def told() -> bool:
        report = await report_of(bus, model)
        return report.get("provider", {}).get("reason") == "RateLimited"

    await until(told)
    # What the operator does with a released attempt: another one at once, no retry counted.
    tasks.write_status("limited", attempt=2)
    await tasks.enqueue(tasks.get("limited"), attempt=2)
    status = await status_of(tasks, "limited")
    assert (status.outcome, status.retries) == (Outcome.COMPLETE, 0)
    first, second = api.asked_at["busy"]
    assert second - first >= RETRY_AFTER_SECONDS
    assert await runner.metric('headrace_runner_tasks_total{outcome="Setback"') == 0
    assert await runner.metric('headrace_runner_tasks_total{outcome="Released",reason="RateLimited"') == 1


async def test_a_key_that_was_refused_shows_before_any_task_comes(
    bus: Bus, start_remote: StartRemote, api: ChatApi, model: ModelKey
) -> None:
    api.valid = set()
    await start_remote()

    async def told() -> dict[str, Any] | None:
        report = await report_of(bus, model)
        return report if report.get("provider", {}).get("reason") else None

    report = await until(told)
    assert report is not None
    assert (report["state"], report["engine"], report["generation"]) == ("Serving", None, 3)
    assert report["provider"]["reason"] == "CredentialsRefused"
    assert report["provider"]["message"] == "the provider refuses the key"


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"provider": "Nobody"}, "ProviderNotFound.*OpenAICompatible.*Loopback"),
        ({"extraBody": '{"x": 1}'}, "InvalidSettings.*spec.remote.extraBody"),
    ],
)
async def test_a_spec_that_nobody_can_serve_is_told(start_remote: StartRemote, spec: dict[str, str], says: str) -> None:
    runner = await start_remote(**spec)

    async def failed() -> bool:
        status, text = await runner.get("/readyz")
        return status == 503 and "Starting" not in text

    await until(failed)
    _, text = await runner.get("/readyz")
    assert all(part in text for part in says.split(".*")), text


async def report_of(bus: BusReader, model: ModelKey) -> dict[str, Any]:
    """The only runner's; empty before its first."""
    return next(iter((await bus.reports(model)).values()), {})
