"""Text that a runner streams: what its engine adds, over the bus, to the reader that the work names."""

import json
from typing import Any

import pytest
from pod_world import Runner, Tasks, until

from headrace_bus import FIRST, Bus, Envelope, ModelKey, Token, WorkClass
from headrace_crds import LLMTask, Outcome

pytestmark = pytest.mark.contract

READER = "facade-7d9c-x1"


async def streamed(tasks: Tasks, bus: Bus, model: ModelKey, task: LLMTask, **work: Any) -> list[Token]:
    """Hand it out with a reader; gives the events up to the last."""
    envelope = Envelope(
        uid=task.metadata.uid,
        kind=WorkClass.TASK,
        namespace=model.namespace,
        name=task.metadata.name,
        attempt=1,
        created_ms=1_700_000_000_000,
        priority=0,
        cost_tokens=100,
        payload={**tasks.work(task), "streamTo": READER, **work},
    )
    await bus.enqueue(model, envelope)
    found: list[Token] = []
    after = FIRST

    async def ended() -> bool:
        nonlocal after
        read = await bus.tokens(READER, {model: after}, timeout_s=1)
        if model in read:
            after, tokens = read[model]
            found.extend(token for token in tokens if token.uid == task.metadata.uid)
        return bool(found) and "outcome" in found[-1].event

    await until(ended)
    return found


async def test_the_text_streams_as_it_grows_and_is_the_result(
    tasks: Tasks, bus: Bus, runner: Runner, model: ModelKey
) -> None:
    before = await runner.metric("headrace_runner_first_append_seconds_count")
    task = tasks.create("streamed", prompt="Count from one to ten.", parameters={"maxTokens": 48, "temperature": "0"})
    tokens = await streamed(tasks, bus, model, task)
    status = (await tasks.finished("streamed")).status
    assert status is not None
    assert status.result is not None
    events = [token.event for token in tokens]
    assert "".join(event.get("text", "") for event in events) == status.result.text
    assert len(events) > 3
    assert {event["attempt"] for event in events} == {1}
    counts = [event["tokens"] for event in events if "tokens" in event]
    assert counts == sorted(counts)
    assert events[-1] == {"attempt": 1, "outcome": Outcome.COMPLETE.value, "reason": "Succeeded"}
    assert [token.before for token in tokens] == [FIRST, *(token.id for token in tokens[:-1])]
    assert await bus.replay(model, task.metadata.uid) == tokens
    assert await runner.metric("headrace_runner_first_append_seconds_count") == before + 1
    assert await runner.metric("headrace_runner_first_token_seconds_count") > 0
    # Prompts and results never reach the log.
    assert json.dumps(status.result.text)[1:-1] not in runner.log.read_text()


async def test_without_a_reader_nothing_is_streamed(tasks: Tasks, bus: Bus, runner: Runner, model: ModelKey) -> None:
    task = tasks.create("quiet", parameters={"maxTokens": 4, "temperature": "0"})
    await tasks.enqueue(task)
    await tasks.finished("quiet")
    assert await bus.replay(model, task.metadata.uid) == []
