"""Runners that commit too late, or without the right to: one outcome, and no generation is lost for want of a right."""

import os
import signal
from typing import Any

import pytest
from pod_world import ENDLESS, POD, Gate, Runner, StartRunner, Tasks, until

from headrace_bus import Bus, EntryState, ModelKey
from headrace_crds import Outcome

pytestmark = pytest.mark.contract

SHORT = {"maxTokens": 4, "temperature": "0"}


async def taken_over(tasks: Tasks, bus: Bus, model: ModelKey, name: str) -> None:
    """The operator's part after a runner vanished: reap, say attempt 2, enqueue it."""
    task = tasks.get(name)

    async def returned() -> bool:
        await bus.reap(model)
        entry = await bus.inspect(model, task.metadata.uid)
        return entry is not None and entry.state is EntryState.RETURNED

    await until(returned)
    tasks.write_status(name, attempt=2)
    await tasks.enqueue(tasks.get(name), attempt=2)


async def test_a_runner_that_was_stopped_beyond_its_lease_cannot_commit_any_more(
    tasks: Tasks, bus: Bus, start_runner: StartRunner, gate: Gate, model: ModelKey
) -> None:
    late = await start_runner(gate.kubeconfig, "headrace-smol-late")
    await gate.shut()
    task = tasks.create("twice", parameters=SHORT)
    await tasks.enqueue(task)

    async def parked() -> bool:
        return await late.metric("headrace_runner_parked_commits") == 1

    await until(parked)
    os.kill(late.process.pid, signal.SIGSTOP)
    other = await start_runner(pod="headrace-smol-other")
    await taken_over(tasks, bus, model, "twice")
    await tasks.finished("twice")
    await until(lambda: _gone(bus, model, task.metadata.uid))
    before = tasks.raw("twice")

    os.kill(late.process.pid, signal.SIGCONT)
    await gate.open()

    async def dropped() -> bool:
        return await late.metric("headrace_runner_fenced_commits_total") == 1

    await until(dropped)
    assert tasks.raw("twice") == before
    status = tasks.get("twice").status
    assert status is not None
    assert (status.outcome, status.attempt) == (Outcome.COMPLETE, 2)
    assert status.attempts is not None
    assert [(each.number, each.pod) for each in status.attempts] == [(2, "headrace-smol-other")]
    assert await other.metric("headrace_runner_fenced_commits_total") == 0


async def test_a_runner_that_was_stopped_while_it_generates_gives_up(
    tasks: Tasks, bus: Bus, start_runner: StartRunner, model: ModelKey
) -> None:
    late = await start_runner(pod="headrace-smol-late")
    task = tasks.create("woken", **{**ENDLESS, "parameters": {"maxTokens": 1500, "temperature": "0"}})
    await tasks.enqueue(task)
    await tasks.running("woken")
    os.kill(late.process.pid, signal.SIGSTOP)
    await start_runner(pod="headrace-smol-other")
    await taken_over(tasks, bus, model, "woken")
    await tasks.finished("woken")
    before = tasks.raw("woken")
    os.kill(late.process.pid, signal.SIGCONT)

    async def over() -> bool:
        generating = await late.metric("headrace_runner_generating")
        return generating + await late.metric("headrace_runner_parked_commits") == 0

    await until(over)
    assert tasks.raw("woken") == before
    assert before["status"]["runner"]["pod"] == "headrace-smol-other"


async def test_a_commit_waits_for_its_right(
    tasks: Tasks, bus: Bus, runner: Runner, model: ModelKey, kubectl: Any, namespace: str
) -> None:
    kubectl.ok("delete", "rolebinding", "runner", "-n", namespace)
    task = tasks.create("forbidden", parameters=SHORT)

    async def no_right() -> bool:
        user = f"--as=system:serviceaccount:{namespace}:headrace-smol"
        can = kubectl.run("auth", "can-i", "patch", "llmtasks.headrace.dev/status", "-n", namespace, user)
        return bool(can.stdout.strip() == "no")

    await until(no_right)
    await tasks.enqueue(task)

    async def told() -> bool:
        return bool((await bus.reports(model)).get(POD, {}).get("commitForbidden"))

    await until(told)
    assert "RoleBinding" in (await bus.reports(model))[POD]["message"]
    assert await runner.metric("headrace_runner_parked_commits") == 1

    subject = f"--serviceaccount={namespace}:headrace-smol"
    kubectl.ok("create", "rolebinding", "runner", "--role=runner", subject, "-n", namespace)
    status = (await tasks.finished("forbidden")).status
    assert status is not None
    assert (status.outcome, status.attempt) == (Outcome.COMPLETE, 1)

    async def quiet() -> bool:
        return (await bus.reports(model)).get(POD, {}).get("commitForbidden") is False

    await until(quiet)
    assert len(runner.logged("commit waits for its right")) == 1


async def _gone(bus: Bus, model: ModelKey, uid: str) -> bool:
    return await bus.inspect(model, uid) is None
