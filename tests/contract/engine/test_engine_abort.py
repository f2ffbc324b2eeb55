"""What an abort leaves: the text so far, and a free sequence before the next decode step."""

import asyncio
import threading
import time
from collections.abc import Callable

import pytest

from headrace_runner.engine.client import EngineClient
from headrace_runner.engine.loop import DecodeLoop
from headrace_runner.engine.model import LoadedModel
from headrace_runner.engine.protocol import Event, Generate, GenerationResult, Message, Parameters
from headrace_runner.engine.sequence import Job

pytestmark = pytest.mark.contract

STORY = "Tell a long story about a mill."


class Steps:
    """In the place of the heartbeat: calls back before every decode step, with its number."""

    def __init__(self, before: Callable[[int], None]) -> None:
        self.count = 0
        self._before = before

    def busy(self) -> None:
        self.count += 1
        self._before(self.count)

    def idle(self) -> None:
        pass


def aborted_before_step(model: LoadedModel, number: int, tokens: list[int], **parameters: object) -> GenerationResult:
    """Abort while the step of this number runs."""
    events: list[Event] = []
    ended = threading.Event()

    def emit(event: Event) -> None:
        events.append(event)
        if isinstance(event, GenerationResult):
            ended.set()

    steps = Steps(lambda count: loop.abort("key") if count == number else None)
    loop = DecodeLoop(model, steps)  # type: ignore[arg-type]  # stands in for the heartbeat
    given = Parameters(temperature=0.0, **parameters)  # type: ignore[arg-type]  # passed through
    loop.submit(Job("key", "1", tokens, given, None, emit, time.monotonic()))
    thread = threading.Thread(target=loop.run)
    thread.start()
    assert ended.wait(60)
    loop.stop()
    thread.join()
    assert steps.count == number
    result = events[-1]
    assert isinstance(result, GenerationResult)
    return result


def test_no_step_follows_an_abort_and_the_text_so_far_is_given(model: LoadedModel) -> None:
    tokens = model.tokenize(["Once upon a time there was a mill"])
    result = aborted_before_step(model, 9, tokens)
    assert (result.finish_reason, result.usage.completion_tokens) == ("Cancelled", 9)
    assert result.usage.prompt_tokens == len(tokens)
    longer = aborted_before_step(model, 14, tokens)
    assert result.text
    assert longer.text.startswith(result.text)
    assert len(longer.text) > len(result.text)
    assert result.timings.generation_ms >= result.timings.first_token_ms > 0


def test_an_end_that_may_become_a_stop_string_is_left_out(model: LoadedModel) -> None:
    tokens = model.tokenize(["Once upon a time there was a mill"])
    free = aborted_before_step(model, 9, tokens).text
    held = aborted_before_step(model, 9, tokens, stop=(free[-3:] + "\x00",)).text
    assert held == free[:-3]


def test_in_the_middle_of_a_prompt_there_is_no_text(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace_runner.engine.loop.BATCH_TOKENS", 8)
    tokens = model.tokenize(["Once upon a time there was a mill by a river"])
    assert len(tokens) > 8
    result = aborted_before_step(model, 1, tokens)
    assert (result.text, result.usage.completion_tokens, result.usage.prompt_tokens) == ("", 0, len(tokens))


class Watched:
    """A generation that tells how far it is."""

    def __init__(self, client: EngineClient, request: Generate) -> None:
        self._progress = asyncio.Event()
        self.task = asyncio.create_task(client.generate(request, on_progress=lambda tokens: self._progress.set()))

    async def goes_on(self) -> None:
        """Wait until it says that it decodes."""
        self._progress.clear()
        waiter = asyncio.create_task(self._progress.wait())
        await asyncio.wait([self.task, waiter], return_when=asyncio.FIRST_COMPLETED)
        waiter.cancel()
        assert not self.task.done(), self.task


def ask(generation_id: str, content: str = STORY) -> Generate:
    # The runner sends messages; a schema without an end, so that the model cannot end it early.
    schema = '{"type": "string", "minLength": 5000}'
    parameters = Parameters(temperature=0.0, max_tokens=450)
    return Generate(generation_id, messages=(Message("user", content),), json_schema=schema, parameters=parameters)


async def test_generate_gives_the_partial_and_the_neighbour_goes_on(client: EngineClient) -> None:
    one, neighbour = Watched(client, ask("1")), Watched(client, ask("2"))
    await one.goes_on()
    await client.abort("1")
    partial = await one.task
    assert (partial.id, partial.finish_reason, partial.enforcement) == ("1", "Cancelled", "Grammar")
    assert partial.text.startswith('"')
    assert partial.usage.completion_tokens > 0
    assert partial.usage.prompt_tokens > 0
    await neighbour.goes_on()
    neighbour.task.cancel()
    await asyncio.gather(neighbour.task, return_exceptions=True)


async def test_who_waits_for_a_sequence_or_is_being_prepared_has_no_text(client: EngineClient) -> None:
    busy = [Watched(client, ask(str(number))) for number in (1, 2)]
    for each in busy:
        await each.goes_on()
    waiting = Watched(client, ask("3"))
    await busy[0].goes_on()
    await client.abort("3")
    partial = await waiting.task
    assert (partial.finish_reason, partial.text, partial.usage.completion_tokens) == ("Cancelled", "", 0)
    assert partial.usage.prompt_tokens > 0
    assert partial.timings.queued_ms > 0
    prompt_tokens = []
    for number in range(4, 14):
        prepared = Watched(client, ask(str(number)))
        await asyncio.sleep(0)
        await client.abort(str(number))
        partial = await prepared.task
        assert (partial.finish_reason, partial.text, partial.usage.completion_tokens) == ("Cancelled", "", 0)
        prompt_tokens.append(partial.usage.prompt_tokens)
    # Abort and request arrive in one read, mostly: preparation has not ended, and nothing was counted.
    assert 0 in prompt_tokens
    for each in busy:
        assert not each.task.done()
        each.task.cancel()
    await asyncio.gather(*(each.task for each in busy), return_exceptions=True)


async def test_what_has_ended_is_not_cancelled(client: EngineClient) -> None:
    request = Generate("1", prompt="hi", parameters=Parameters(temperature=0.0, max_tokens=3))
    result = await client.generate(request)
    await client.abort("1")
    assert result.finish_reason == "Length"
    assert (await client.generate(request)).text == result.text
