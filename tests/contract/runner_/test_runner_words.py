"""Words to a runner that come late, or while Redis is away."""

import pytest
from pod_world import ENDLESS, Gate, Runner, StartRunner, Tasks, until
from redis_server import RedisServer

from headrace_bus import Bus, Interruption, ModelKey
from headrace_crds import Outcome

pytestmark = pytest.mark.contract


async def test_a_word_about_an_earlier_lease_ends_nothing(
    tasks: Tasks, bus: Bus, start_runner: StartRunner, model: ModelKey
) -> None:
    task = tasks.create("again", parameters={"maxTokens": 4})
    await tasks.enqueue(task)
    # Taken under the runner's name before it lives, told, and given back: the word waits for the runner.
    (delivery,) = await bus.claim(model, worker="headrace-smol-0", count=1, lease_ms=30_000)
    assert await bus.interrupt(model, task.metadata.uid, Interruption.CANCEL) == "headrace-smol-0"
    await bus.release(model, delivery.token, "RunnerStopped")
    tasks.write_status("again", attempt=2)
    await tasks.enqueue(tasks.get("again"), attempt=2)
    await start_runner()
    status = (await tasks.finished("again")).status
    assert status is not None
    assert (status.outcome, status.attempt) == (Outcome.COMPLETE, 2)


async def test_words_are_heard_again_after_redis_was_away(
    tasks: Tasks, bus: Bus, redis: RedisServer, runner: Runner, model: ModelKey
) -> None:
    redis.stop()

    async def deaf() -> bool:
        return bool(runner.logged("inbox not heard"))

    await until(deaf)
    redis.start()
    task = tasks.create("back", **ENDLESS)
    await tasks.enqueue(task)
    await tasks.running("back")
    assert await bus.interrupt(model, task.metadata.uid, Interruption.CANCEL) is not None
    assert (await tasks.finished("back")).status.outcome is Outcome.CANCELLED  # type: ignore[union-attr]  # it finished


async def test_results_on_their_way_stay_complete_whatever_the_operator_says(
    tasks: Tasks, bus: Bus, start_runner: StartRunner, gate: Gate, model: ModelKey
) -> None:
    runner = await start_runner(gate.kubeconfig)
    await gate.shut()
    named = {word: tasks.create(word.value.lower(), parameters={"maxTokens": 4}) for word in Interruption}
    for task in named.values():
        await tasks.enqueue(task)

    async def parked() -> bool:
        return await runner.metric("headrace_runner_parked_commits") == len(named)

    await until(parked)
    for word, task in named.items():
        assert await bus.interrupt(model, task.metadata.uid, word) is not None

    async def heard() -> bool:
        return len(runner.logged("attempt interrupted")) == len(named)

    await until(heard)
    await gate.open()
    for task in named.values():
        status = (await tasks.finished(task.metadata.name)).status
        assert status is not None
        assert status.outcome is Outcome.COMPLETE
