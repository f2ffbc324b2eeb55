"""A runner process from claim to outcome, and what it does when engine or object goes away."""

import hashlib
import json

import pytest
from pod_world import CONTEXT_TOKENS, ENDLESS, POD, Engine, Runner, Tasks, until

from headrace_bus import Bus, EntryState, Interruption, ModelKey, ReturnReason
from headrace_crds import ConditionStatus, Outcome
from headrace_crds.base import find_condition

pytestmark = pytest.mark.contract


async def fenced(runner: Runner) -> float:
    return await runner.metric("headrace_runner_fenced_commits_total")


async def test_a_task_ends_complete(tasks: Tasks, bus: Bus, runner: Runner, model: ModelKey) -> None:
    task = tasks.create("hello", parameters={"maxTokens": 12, "temperature": "0"})
    await tasks.enqueue(task)

    status = (await tasks.finished("hello")).status
    assert status is not None
    assert status.outcome is Outcome.COMPLETE
    assert (status.phase, status.reason, status.attempt) == ("Complete", "Succeeded", 1)
    assert status.result is not None
    assert status.result.text.strip()
    assert status.result.sha256 == hashlib.sha256(status.result.text.encode()).hexdigest()
    finished, ready = find_condition(status.conditions, "Finished"), find_condition(status.conditions, "Ready")
    assert finished is not None
    assert ready is not None
    assert finished.status == ready.status == ConditionStatus.TRUE
    assert finished.reason == "Succeeded"
    assert status.usage is not None
    assert 0 < status.usage.completion_tokens <= 12
    assert status.timings is not None
    assert status.timings.generation_millis >= status.timings.first_token_millis > 0
    assert status.start_time is not None
    assert status.runner is not None
    assert (status.runner.service_account, status.runner.pod) == (f"{model.namespace}/headrace-smol", POD)
    assert status.attempts is not None
    assert [(each.number, each.outcome, each.pod) for each in status.attempts] == [(1, "Complete", POD)]

    async def gone() -> bool:
        return await bus.inspect(model, task.metadata.uid) is None

    await until(gone)
    # It is kept a moment after the entry is gone.
    kept = await until(lambda: bus.result(model, task.metadata.uid))
    assert set(kept) == {"outcome", "reason", "text", "usage"}
    assert kept["text"] == status.result.text
    # Prompts and results never reach the log.
    assert status.result.text not in runner.log.read_text()
    assert "Say hello" not in runner.log.read_text()


async def test_a_document_fits_its_schema(tasks: Tasks, runner: Runner) -> None:
    schema = '{"type":"object","properties":{"answer":{"enum":["yes","no"]}},"required":["answer"]}'
    task = tasks.create("shaped", output={"jsonSchema": schema}, parameters={"maxTokens": 60, "temperature": "0"})
    await tasks.enqueue(task)
    status = (await tasks.finished("shaped")).status
    assert status is not None
    assert status.result is not None
    assert json.loads(status.result.text)["answer"] in ("yes", "no")
    assert status.result.enforcement == "Grammar"


async def test_a_document_that_is_cut_off_is_a_failure(tasks: Tasks, runner: Runner) -> None:
    schema = '{"type":"object","properties":{"essay":{"type":"string","minLength":400}},"required":["essay"]}'
    task = tasks.create("cut", output={"jsonSchema": schema}, parameters={"maxTokens": 5, "temperature": "0"})
    await tasks.enqueue(task)
    status = (await tasks.finished("cut")).status
    assert status is not None
    assert (status.outcome, status.reason) == (Outcome.FAILED, "OutputTruncated")
    assert "maxTokens (5)" in (status.message or "")
    assert status.result is None


async def test_a_refusal_of_the_engine_is_the_outcome(tasks: Tasks, runner: Runner) -> None:
    task = tasks.create("long", prompt="word " * (2 * CONTEXT_TOKENS))
    await tasks.enqueue(task)
    status = (await tasks.finished("long")).status
    assert status is not None
    assert (status.outcome, status.reason) == (Outcome.FAILED, "ContextLengthExceeded")


async def test_it_says_that_a_long_attempt_runs(tasks: Tasks, bus: Bus, runner: Runner, model: ModelKey) -> None:
    task = tasks.create("running", **ENDLESS)
    await tasks.enqueue(task)
    status = (await tasks.running("running")).status
    assert status is not None
    running = find_condition(status.conditions, "Running")
    finished = find_condition(status.conditions, "Finished")
    assert running is not None
    assert finished is not None
    assert (running.status, finished.status) == (ConditionStatus.TRUE, ConditionStatus.FALSE)
    # Finished was False before: its time stays.
    assert finished.last_transition_time == "2026-01-01T00:00:00Z"
    assert status.start_time is not None
    # The next test finds the sequence free.
    assert await bus.interrupt(model, task.metadata.uid, Interruption.CANCEL) is not None
    await tasks.finished("running")


async def test_a_stale_attempt_is_dropped(tasks: Tasks, bus: Bus, runner: Runner, model: ModelKey) -> None:
    task = tasks.create("stale", attempt=2, parameters={"maxTokens": 4})
    before, fenced_before = tasks.raw("stale"), await fenced(runner)
    await tasks.enqueue(task, attempt=1)

    async def returned() -> bool:
        entry = await bus.inspect(model, task.metadata.uid)
        return entry is not None and entry.state is EntryState.RETURNED

    await until(returned)
    assert tasks.raw("stale") == before
    assert await fenced(runner) == fenced_before + 1
    entry = await bus.inspect(model, task.metadata.uid)
    assert entry is not None
    assert entry.returned is not None
    assert entry.returned.reason is ReturnReason.RELEASED


async def test_a_deleted_object_is_dropped(tasks: Tasks, bus: Bus, runner: Runner, model: ModelKey) -> None:
    task = tasks.create("deleted", parameters={"maxTokens": 4})
    tasks.delete("deleted")
    fenced_before = await fenced(runner)
    await tasks.enqueue(task)

    async def dropped() -> bool:
        return await fenced(runner) == fenced_before + 1

    await until(dropped)

    async def gone() -> bool:
        return await bus.inspect(model, task.metadata.uid) is None

    await until(gone)


async def test_a_recreated_object_keeps_its_own_fate(tasks: Tasks, runner: Runner) -> None:
    old = tasks.create("again", parameters={"maxTokens": 4})
    tasks.delete("again")
    tasks.create("again")
    before, fenced_before = tasks.raw("again"), await fenced(runner)
    await tasks.enqueue(old)

    async def dropped() -> bool:
        return await fenced(runner) == fenced_before + 1

    await until(dropped)
    assert tasks.raw("again") == before


async def test_the_runner_outlives_its_engine(
    tasks: Tasks, bus: Bus, runner: Runner, engine: Engine, model: ModelKey
) -> None:
    task = tasks.create("killed", **ENDLESS)
    await tasks.enqueue(task)
    await tasks.running("killed")
    engine.kill_child()

    async def returned() -> bool:
        return bool(await bus.returned(model))

    await until(returned)
    (back,) = await bus.returned(model)
    assert back.reason is ReturnReason.FAILED
    assert back.failure is not None
    assert (back.failure.reason, back.failure.retryable) == ("EngineLost", True)

    after = tasks.create("after", parameters={"maxTokens": 4})
    await tasks.enqueue(after)
    status = (await tasks.finished("after")).status
    assert status is not None
    assert status.outcome is Outcome.COMPLETE
    assert runner.process.poll() is None


async def test_it_reports(bus: Bus, runner: Runner, model: ModelKey) -> None:
    async def serving() -> bool:
        return (await bus.reports(model)).get(POD, {}).get("state") == "Serving"

    await until(serving)
    report = (await bus.reports(model))[POD]
    assert set(report) == {
        *(
            "state",
            "reason",
            "message",
            "sinceMs",
            "restarts",
            "engine",
            "generation",
            "busy",
            "slots",
            "commitForbidden",
        )
    }
    assert (report["generation"], report["slots"]) == (3, 2)
    assert report["engine"]["architecture"] == "llama"
    assert (await runner.get("/healthz"))[0] == 200
