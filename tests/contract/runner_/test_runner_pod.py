"""What a runner does when its lease, Redis, the API server or its pod goes away."""

import asyncio
import signal

import pytest
from pod_world import ENDLESS, Gate, Runner, StartRunner, Tasks, until
from redis_server import RedisServer

from headrace_bus import Bus, EntryState, ModelKey, ReturnReason
from headrace_crds import Outcome

pytestmark = pytest.mark.contract


async def test_a_lost_lease_aborts_the_generation(tasks: Tasks, redis: RedisServer, runner: Runner) -> None:
    task = tasks.create("lost", **ENDLESS)
    await tasks.enqueue(task)
    await tasks.running("lost")
    # Redis forgets everything, and so tells nobody.
    redis.stop()
    redis.start()

    async def idle() -> bool:
        return await runner.metric("headrace_runner_generating") == 0

    await until(idle, 5)
    assert await runner.metric("headrace_runner_leases_lost_total") == 1
    assert tasks.get("lost").status.outcome is None  # type: ignore[union-attr]  # it was accepted


async def test_a_stopping_runner_gives_back(tasks: Tasks, bus: Bus, runner: Runner, model: ModelKey) -> None:
    task = tasks.create("released", **ENDLESS)
    await tasks.enqueue(task)
    await tasks.running("released")
    runner.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(runner.process.wait, 25) == 0
    (back,) = await bus.returned(model)
    assert back.reason is ReturnReason.RELEASED
    assert back.failure is not None
    assert back.failure.reason == "RunnerStopped"
    assert tasks.get("released").status.outcome is None  # type: ignore[union-attr]  # it was accepted


async def test_a_short_task_finishes_while_the_runner_stops(tasks: Tasks, runner: Runner) -> None:
    task = tasks.create("short", prompt="Count to ten.", parameters={"maxTokens": 40, "temperature": "0"})
    await tasks.enqueue(task)

    async def claimed() -> bool:
        return await runner.metric("headrace_runner_generating") == 1

    await until(claimed)
    runner.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(runner.process.wait, 25) == 0
    status = tasks.get("short").status
    assert status is not None
    assert status.outcome is Outcome.COMPLETE


async def test_it_generates_and_commits_without_redis(tasks: Tasks, redis: RedisServer, runner: Runner) -> None:
    task = tasks.create("alone", prompt="Count to ten.", parameters={"maxTokens": 60, "temperature": "0"})
    await tasks.enqueue(task)

    async def claimed() -> bool:
        return await runner.metric("headrace_runner_generating") == 1

    await until(claimed)
    redis.stop()
    status = (await tasks.finished("alone")).status
    assert status is not None
    assert status.outcome is Outcome.COMPLETE
    assert runner.process.poll() is None


async def test_a_commit_waits_for_the_api_server(
    tasks: Tasks, bus: Bus, start_runner: StartRunner, gate: Gate, model: ModelKey
) -> None:
    runner = await start_runner(gate.kubeconfig)
    await gate.shut()
    task = tasks.create("parked", parameters={"maxTokens": 4})
    await tasks.enqueue(task)

    async def parked() -> bool:
        return await runner.metric("headrace_runner_parked_commits") == 1

    await until(parked)
    assert await runner.metric("headrace_runner_generating") == 0
    # The lease of two seconds is renewed as long as the commit is parked.
    end = await bus.server_time_ms() + 3000

    async def later() -> bool:
        return await bus.server_time_ms() > end

    await until(later)
    entry = await bus.inspect(model, task.metadata.uid)
    assert entry is not None
    assert entry.state is EntryState.LEASED
    await bus.reap(model)
    assert await bus.returned(model) == []

    await gate.open()
    status = (await tasks.finished("parked")).status
    assert status is not None
    assert status.outcome is Outcome.COMPLETE
