"""One call's attempts in virtual time, against a bus that is played."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from headrace_bus import EntryState, Envelope, ModelKey, WorkClass
from headrace_crds import LLMModel
from headrace_crds.inputs import Parameters
from headrace_crds.work import CallOptions, Count
from headrace_facade.bounds import Bounds
from headrace_facade.calls import hub as hubs
from headrace_facade.calls.contract import CallEvent, Delta, Ended, Waiting
from headrace_facade.calls.failures import (
    CallBroken,
    ContentRefused,
    ModelNotFound,
    ModelNotReady,
    ModelUnavailable,
    OutputInvalid,
    TimedOut,
    TooManyCalls,
)
from headrace_facade.calls.hub import Hub
from headrace_facade.calls.service import Calls
from headrace_facade.rates import Rates
from tests.fake_calls.played import (
    OTHER,
    PLAIN,
    SMALL,
    STREAMED,
    Directory,
    FakeBus,
    Queues,
    bus_of_last_run,
    ending,
    failed,
    model,
    run,
    streamed_ending,
)
from tests.fake_calls.service import CALLER
from tests.virtual_time import VirtualLoop


async def answers(bus: FakeBus, model: ModelKey, envelope: Envelope) -> None:
    bus.end(model, envelope, ending())


def text_of(events: list[CallEvent]) -> str:
    assert isinstance(events[-1], Ended)
    return events[-1].result.choices[0].text


def test_a_call_is_queued_with_its_work_and_answered() -> None:
    events, bus = run(answers)
    assert text_of(events) == "Hello"
    (((key, envelope)),) = bus.queued
    assert (key, envelope.attempt, envelope.namespace, envelope.kind.value) == (SMALL, 1, "team-a", "Call")
    assert envelope.payload["streamTo"] == "facade-1"
    assert envelope.payload["messages"] == [{"role": "user", "content": "Hello?"}]
    assert not bus.hung_up


def test_an_end_in_slices_is_one_end() -> None:
    async def plays(bus: FakeBus, model: ModelKey, envelope: Envelope) -> None:
        text = json.dumps(ending("A long one"))
        for first in range(0, len(text), 40):
            more = {"more": True} if first + 40 < len(text) else {}
            bus.tell(model, envelope.uid, {"attempt": 1, "end": text[first : first + 40], **more})

    assert text_of(run(plays)[0]) == "A long one"


def test_what_grows_is_passed_on_and_is_the_text() -> None:
    async def plays(bus: FakeBus, model: ModelKey, envelope: Envelope) -> None:
        for piece in ("Hel", "lo"):
            bus.tell(model, envelope.uid, {"attempt": 1, "text": piece, "tokens": 1})
            await asyncio.sleep(0.1)
        bus.end(model, envelope, streamed_ending("Hello"))

    events, _ = run(plays, STREAMED)
    assert [event.text for event in events if isinstance(event, Delta)] == ["Hel", "lo"]
    assert text_of(events) == "Hello"


def test_a_text_that_is_not_the_one_told_is_no_answer() -> None:
    async def plays(bus: FakeBus, model: ModelKey, envelope: Envelope) -> None:
        bus.tell(model, envelope.uid, {"attempt": 1, "text": "Help", "tokens": 1})
        bus.end(model, envelope, streamed_ending("Hello"))

    with pytest.raises(CallBroken):
        run(plays, STREAMED)


@pytest.mark.parametrize("reason", ["LeaseExpired", "Released", "Failed"])
def test_what_came_back_is_queued_again(reason: str) -> None:
    async def plays(bus: FakeBus, model: ModelKey, envelope: Envelope) -> None:
        if envelope.attempt < 3:
            failure = '{"reason": "EngineLost", "message": "m", "retryable": true}' if reason == "Failed" else ""
            bus.tell(model, envelope.uid, {"attempt": envelope.attempt, "returned": reason, "failure": failure})
        else:
            bus.end(model, envelope, ending())

    events, bus = run(plays)
    assert text_of(events) == "Hello"
    assert [envelope.attempt for _, envelope in bus.queued] == [1, 2, 3]


def test_three_attempts_are_all() -> None:
    async def plays(bus: FakeBus, model: ModelKey, envelope: Envelope) -> None:
        bus.end(model, envelope, failed("DecodeFailed", retryable=True))

    with pytest.raises(CallBroken, match="DecodeFailed: why"):
        run(plays)
    assert len(bus_of_last_run().queued) == 3


@pytest.mark.parametrize(
    ("document", "error"),
    [
        (failed("InvalidOutput"), OutputInvalid),
        (failed("ContentRefused"), ContentRefused),
        (failed("AttemptTimeout", retryable=True), TimedOut),
    ],
    ids=["output", "content", "timeout"],
)
def test_what_no_other_attempt_mends_is_told_at_once(document: dict[str, Any], error: type[Exception]) -> None:
    async def plays(bus: FakeBus, model: ModelKey, envelope: Envelope) -> None:
        bus.end(model, envelope, document)

    with pytest.raises(error):
        run(plays)
    assert len(bus_of_last_run().queued) == 1
    assert not bus_of_last_run().hung_up


def test_after_the_first_text_nothing_is_tried_again() -> None:
    async def plays(bus: FakeBus, model: ModelKey, envelope: Envelope) -> None:
        bus.tell(model, envelope.uid, {"attempt": 1, "text": "Hel", "tokens": 1})
        bus.tell(model, envelope.uid, {"attempt": 1, "returned": "LeaseExpired", "failure": ""})

    with pytest.raises(ModelUnavailable, match="LeaseExpired"):
        run(plays, STREAMED)
    assert len(bus_of_last_run().queued) == 1


def test_a_restart_voids_what_nobody_has_seen_and_ends_what_somebody_has() -> None:
    async def plays(bus: FakeBus, model: ModelKey, envelope: Envelope) -> None:
        bus.tell(model, envelope.uid, {"attempt": 1, "text": "Hel", "tokens": 1})
        bus.tell(model, envelope.uid, {"attempt": 1, "restart": True})
        bus.tell(model, envelope.uid, {"attempt": 1, "text": "Hello", "tokens": 1})
        bus.end(model, envelope, streamed_ending("Hello"))

    with pytest.raises(ModelUnavailable, match="in the middle"):
        run(plays, STREAMED)
    assert bus_of_last_run().hung_up
    assert text_of(run(plays)[0]) == "Hello"


def test_a_gap_is_filled_from_the_replay() -> None:
    async def plays(bus: FakeBus, model: ModelKey, envelope: Envelope) -> None:
        for number, piece in enumerate("Hello"):
            bus.tell(model, envelope.uid, {"attempt": 1, "text": piece, "tokens": 1}, lost=number in (1, 2))
        bus.end(model, envelope, streamed_ending("Hello"))

    events, _ = run(plays, STREAMED)
    assert [event.text for event in events if isinstance(event, Delta)] == list("Hello")


def test_an_end_that_the_inbox_lost_is_found_in_the_replay() -> None:
    async def plays(bus: FakeBus, model: ModelKey, envelope: Envelope) -> None:
        bus.end(model, envelope, ending(), lost=True)

    events, bus = run(plays)
    assert text_of(events) == "Hello"
    assert len(bus.queued) == 1


def test_what_the_bus_forgot_is_queued_again() -> None:
    async def plays(bus: FakeBus, model: ModelKey, envelope: Envelope) -> None:
        if envelope.attempt == 1:
            bus.states.clear()
        else:
            bus.end(model, envelope, ending())

    events, bus = run(plays)
    assert text_of(events) == "Hello"
    assert [envelope.attempt for _, envelope in bus.queued] == [1, 2]


def test_what_an_earlier_attempt_says_late_is_passed_over() -> None:
    async def plays(bus: FakeBus, model: ModelKey, envelope: Envelope) -> None:
        if envelope.attempt == 1:
            bus.tell(model, envelope.uid, {"attempt": 1, "returned": "Released", "failure": ""})
        else:
            bus.tell(model, envelope.uid, {"attempt": 1, "end": json.dumps(ending("late"))})
            bus.end(model, envelope, ending())

    assert text_of(run(plays)[0]) == "Hello"


async def nobody(bus: FakeBus, model: ModelKey, envelope: Envelope) -> None:
    """Takes it never."""


def test_nobody_is_waited_for_longer_than_the_hold() -> None:
    with pytest.raises(ModelNotReady, match="20 s"):
        run(nobody, hold=20)
    assert bus_of_last_run().hung_up


def test_a_runner_that_says_nothing_is_not_waited_for_for_ever() -> None:
    async def takes(bus: FakeBus, model: ModelKey, envelope: Envelope) -> None:
        bus.states[envelope.uid] = EntryState.LEASED

    with pytest.raises(TimedOut):
        run(takes)
    assert bus_of_last_run().hung_up


def test_who_waits_is_told_every_few_seconds() -> None:
    async def late(bus: FakeBus, model: ModelKey, envelope: Envelope) -> None:
        await asyncio.sleep(18)
        bus.end(model, envelope, ending())

    events, _ = run(late)
    told = [event for event in events if isinstance(event, Waiting)]
    assert len(told) == 3
    assert told[0] == Waiting("Queued", "queued for LLMModel 'team-a/small'", 7)


def falls(*when: str) -> tuple[LLMModel, LLMModel]:
    fallback = {"policy": "List", "models": [{"name": "other"}], "when": list(when), "afterSeconds": 10}
    return model(SMALL, fallback=fallback), model(OTHER)


@pytest.mark.parametrize(
    ("when", "document"),
    [("Refused", failed("ContentRefused")), ("InvalidOutput", failed("InvalidOutput"))],
    ids=["refused", "output"],
)
def test_another_model_answers_what_this_one_cannot(when: str, document: dict[str, Any]) -> None:
    async def plays(bus: FakeBus, model: ModelKey, envelope: Envelope) -> None:
        bus.end(model, envelope, document if model == SMALL else ending("other"))

    events, bus = run(plays, PLAIN, *falls(when))
    assert text_of(events) == "other"
    assert isinstance(events[-1], Ended)
    assert events[-1].result.model == "team-a/other"
    assert [(key, envelope.attempt) for key, envelope in bus.queued] == [(SMALL, 1), (OTHER, 2)]
    with pytest.raises((ContentRefused, OutputInvalid)):
        run(plays, PLAIN, *falls("RateLimited"))


def test_another_model_answers_where_nobody_takes_it() -> None:
    async def plays(bus: FakeBus, model: ModelKey, envelope: Envelope) -> None:
        if model == OTHER:
            bus.end(model, envelope, ending("other"))

    events, bus = run(plays, PLAIN, *falls("Unavailable"))
    assert text_of(events) == "other"
    assert bus.hung_up == [bus.queued[0][1].uid]


@pytest.mark.parametrize("kind", Count)
def test_a_count_stays_at_its_model_and_asks_for_as_little_as_can_be(kind: Count) -> None:
    """Also where its runner does not know counts, and generates."""

    async def refuses(bus: FakeBus, model: ModelKey, envelope: Envelope) -> None:
        bus.end(model, envelope, failed("ContentRefused"))

    asked = replace(PLAIN, options=CallOptions(count=kind), parameters=Parameters(max_tokens=500))
    caching = {"ttlSeconds": 60, "maxEntries": 10}
    fallback = {"policy": "List", "models": [{"name": "other"}], "when": ["Refused"], "afterSeconds": 10}
    models = (model(SMALL, fallback=fallback, cache=caching), model(OTHER))
    with pytest.raises(ContentRefused):
        run(refuses, asked, *models)
    (((key, envelope)),) = bus_of_last_run().queued
    assert key == SMALL
    assert envelope.payload["call"]["count"] == kind
    assert envelope.payload["parameters"]["maxTokens"] == 1
    assert "cache" not in envelope.payload
    run(answers, PLAIN, *models)
    assert "cache" in bus_of_last_run().queued[0][1].payload


def test_a_client_that_reads_nothing_is_hung_up_on() -> None:
    async def floods(bus: FakeBus, model: ModelKey, envelope: Envelope) -> None:
        for _ in range(2 * hubs.PENDING_MOST):
            bus.tell(model, envelope.uid, {"attempt": 1, "text": "x", "tokens": 1})

    async def main() -> None:
        loop = asyncio.get_running_loop()
        bus = FakeBus(floods)
        hub = Hub(bus, "facade-1", loop.time)
        line = hub.join(SMALL, "call-1")
        reading = asyncio.create_task(hub.read())
        await bus.call(SMALL, _envelope("call-1"), reader="facade-1", lease_ms=1)
        await asyncio.sleep(1)
        assert line.overrun
        reading.cancel()
        await asyncio.gather(reading, *bus.playing, return_exceptions=True)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())


def _envelope(uid: str) -> Envelope:
    return Envelope(uid, WorkClass.CALL, "team-a", uid, 1, 1, 0, 1, {})


def test_a_model_that_is_not_there_and_too_many_calls() -> None:
    with pytest.raises(ModelNotFound):
        run(answers, replace(PLAIN, model="none"))

    async def main() -> None:
        calls = Calls(
            Hub(FakeBus(nobody), "facade-1"),
            Directory(model(SMALL)),  # type: ignore[arg-type]
            Rates(None, 0, 0),
            Queues(),  # type: ignore[arg-type]
            bounds=Bounds(),
            hold_seconds=1,
            calls_limit=1,
        )
        async with calls.call(CALLER, PLAIN):
            with pytest.raises(TooManyCalls):
                async with calls.call(CALLER, PLAIN):
                    raise AssertionError
        await calls.aclose()

    asyncio.run(main())


@pytest.mark.parametrize(
    "event",
    [
        {"attempt": 1, "end": 7},
        {"attempt": 1, "end": "{"},
        {"attempt": 1, "end": "[]"},
        {"attempt": 1, "end": '{"outcome": "Complete"}'},
        {"attempt": 1, "text": 7},
        {"attempt": 1, "text": "x", "index": -1},
        {"attempt": 1, "toolCall": {"id": 7}},
        {"attempt": 1, "returned": 7},
        {
            "attempt": 1,
            "end": json.dumps(
                ending(embeddings='{"dtype": "float32", "encoding": "base64", "shape": [9, 9], "data": ""}')
            ),
        },
    ],
    ids=["number", "cut", "list", "empty", "text", "index", "call", "returned", "vectors"],
)
def test_nonsense_of_a_runner_ends_its_call_alone(event: dict[str, Any]) -> None:
    async def plays(bus: FakeBus, model: ModelKey, envelope: Envelope) -> None:
        bus.tell(model, envelope.uid, event)

    with pytest.raises(CallBroken):
        run(plays, STREAMED)
