"""Results too large for the runner to commit: parked for the operator, with the lease held until there is room."""

import hashlib

import pytest
from pod_world import Engine, Runner, StartRunner, Tasks, until

from headrace_bus import PARKED_KEPT, Bus, EntryState, Envelope, ModelKey, Returned, ReturnReason, WorkClass
from headrace_crds import Outcome
from headrace_crds.inputs import KeyRef
from headrace_crds.outcome import text_result
from headrace_crds.parked import Parked
from headrace_crds.result import INLINE_RESULT_LIMIT_BYTES, LARGE_RESULT_LIMIT_BYTES
from tests.stub_engine.script import Script

pytestmark = pytest.mark.contract


@pytest.fixture
async def runner(start_runner: StartRunner, stub_engine: Engine) -> Runner:
    return await start_runner(engine=stub_engine)


def asking_for(size_bytes: int) -> dict[str, str]:
    return {"prompt": Script(pad_bytes=size_bytes).line()}


async def came_back(bus: Bus, model: ModelKey, uid: str) -> Returned:
    async def returned() -> Returned | None:
        return next((each for each in await bus.returned(model) if each.uid == uid), None)

    back = await until(returned)
    assert back is not None
    return back


async def test_a_large_result_waits_for_the_operator(tasks: Tasks, bus: Bus, runner: Runner, model: ModelKey) -> None:
    task = tasks.create("large", **asking_for(200_000))
    await tasks.enqueue(task)
    back = await came_back(bus, model, task.metadata.uid)
    assert (back.reason, back.failure) == (ReturnReason.PARKED, None)

    payload = await bus.parked(model, task.metadata.uid, 1)
    assert payload is not None
    parked = Parked.model_validate(payload)
    assert parked.text.endswith("x" * 200_000)
    assert parked.sha256 == hashlib.sha256(parked.text.encode()).hexdigest()
    assert (parked.outcome, parked.pod, parked.claimed_ms) == (Outcome.COMPLETE, "headrace-smol-0", back.claimed_ms)
    assert parked.claimed_ms <= parked.completed_ms <= await bus.server_time_ms()
    assert parked.usage.completion_tokens > 0
    # The operator's part: what it writes is taken.
    status = tasks.get("large").status
    assert status is not None
    assert status.outcome is None
    reference = KeyRef(name=f"headrace-{task.metadata.uid}-1", key="text")
    tasks.write_status(
        "large",
        outcome="Complete",
        phase="Complete",
        completionTime="2026-01-01T00:00:00Z",
        result=parked.result(reference).dump(),
    )
    assert await runner.metric('headrace_runner_tasks_total{outcome="Parked"') == 1
    assert "xxxx" not in runner.log.read_text()


async def test_what_just_fits_is_committed_by_the_runner(tasks: Tasks, runner: Runner) -> None:
    # The stub's text names its execution before the filler.
    size_bytes = INLINE_RESULT_LIMIT_BYTES - 200
    await tasks.enqueue(tasks.create("fits", **asking_for(size_bytes)))
    status = (await tasks.finished("fits")).status
    assert status is not None
    assert status.result is not None
    assert status.result.text is not None
    assert size_bytes < status.result.size_bytes <= INLINE_RESULT_LIMIT_BYTES
    assert status.result == text_result(status.result.text, "Stop", None)


async def test_what_is_too_large_to_park_fails(tasks: Tasks, runner: Runner) -> None:
    await tasks.enqueue(tasks.create("huge", **asking_for(LARGE_RESULT_LIMIT_BYTES)))
    status = (await tasks.finished("huge")).status
    assert status is not None
    assert (status.outcome, status.reason) == (Outcome.FAILED, "ResultTooLarge")
    assert str(LARGE_RESULT_LIMIT_BYTES) in (status.message or "")
    assert status.result is None
    assert status.usage is not None


async def test_while_there_is_no_room_the_lease_is_held(
    tasks: Tasks, bus: Bus, start_runner: StartRunner, stub_engine: Engine, model: ModelKey
) -> None:
    for number in range(PARKED_KEPT):
        await bus.enqueue(model, Envelope(f"u-{number}", WorkClass.TASK, model.namespace, "x", 1, 1, 0, 1, {}))
    held = await bus.claim(model, worker="another", count=PARKED_KEPT, lease_ms=30_000)
    for delivery in held:
        assert await bus.park(model, delivery.token, {})
    runner = await start_runner(engine=stub_engine)
    task = tasks.create("waits", **asking_for(40_000))
    await tasks.enqueue(task)

    async def waits() -> bool:
        return bool(runner.logged("result waits for room on the bus"))

    await until(waits)
    # Longer than the lease of two seconds.
    end_ms = await bus.server_time_ms() + 3000

    async def later() -> bool:
        return await bus.server_time_ms() > end_ms

    await until(later)
    await bus.reap(model)
    entry = await bus.inspect(model, task.metadata.uid)
    assert entry is not None
    assert entry.state is EntryState.LEASED
    assert await runner.metric("headrace_runner_generating") == 0
    await bus.remove(model, held[0].token.uid)
    assert (await came_back(bus, model, task.metadata.uid)).reason is ReturnReason.PARKED
