"""A result on its way to the operator: what the bus answers, and how long a runner stays with it."""

from collections.abc import Sequence
from typing import Any

import pytest

from headrace_bus import BusDenied, BusError, BusOutOfMemory, BusUnavailable, PayloadTooLarge, TooManyParked
from headrace_crds.parked import Parked
from headrace_crds.task import Outcome, Timings, Usage
from headrace_runner.attempt import Attempt
from headrace_runner.parking import Parker, Parking
from headrace_runner.verdict import LargeText, Verdict

TEXT = "a long text\n" * 5000


class Entry:
    """Answers in turn; the last answer is given again and again."""

    def __init__(self, answers: Sequence[bool | BusError]) -> None:
        self.keys: dict[str, Any] = {"task": "t"}
        self.payloads: list[dict[str, Any]] = []
        self._answers = list(answers)

    async def park(self, payload: dict[str, Any]) -> bool:
        self.payloads.append(payload)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, BusError):
            raise answer
        return answer


@pytest.fixture
def large() -> Verdict:
    return Verdict(
        Outcome.COMPLETE,
        "Succeeded",
        usage=Usage(prompt_tokens=3, completion_tokens=9),
        timings=Timings(queued_millis=1, first_token_millis=2, generation_millis=3),
        large=LargeText(TEXT, "Length", None),
    )


async def parked(entry: Entry, attempt: Attempt, verdict: Verdict, clock: Any) -> Parking:
    parker = Parker(patience_seconds=60, sleep=clock.sleep, monotonic=clock)
    return await parker.park(entry, attempt, verdict)  # type: ignore[arg-type]  # stands in for the entry


async def test_the_operator_can_read_what_is_parked(attempt: Attempt, large: Verdict, clock: Any) -> None:
    clock.now += 1.5
    entry = Entry([True])
    assert await parked(entry, attempt, large, clock) is Parking.PARKED
    (payload,) = entry.payloads
    read = Parked.model_validate(payload)
    assert (read.text, read.finish_reason, read.pod) == (TEXT, "Length", "p-0")
    assert (read.claimed_ms, read.completed_ms) == (attempt.claimed_ms, attempt.claimed_ms + 1500)
    assert (read.usage, read.timings) == (large.usage, large.timings)


async def test_it_waits_for_room_with_the_same_payload(attempt: Attempt, large: Verdict, clock: Any) -> None:
    entry = Entry([TooManyParked("full"), BusOutOfMemory("OOM"), BusUnavailable("away"), BusDenied("no"), True])
    assert await parked(entry, attempt, large, clock) is Parking.PARKED
    assert len(entry.payloads) == 5
    assert all(payload == entry.payloads[0] for payload in entry.payloads)
    assert len(clock.slept) == 4


@pytest.mark.parametrize(
    ("answer", "parking"),
    [
        (False, Parking.LOST),
        (PayloadTooLarge("parked payload", 2, 1), Parking.TOO_LARGE),
        (TooManyParked("full"), Parking.NO_ROOM),
    ],
)
async def test_every_other_end(
    attempt: Attempt, large: Verdict, clock: Any, answer: bool | BusError, parking: Parking
) -> None:
    entry = Entry([answer])
    began = clock.now
    assert await parked(entry, attempt, large, clock) is parking
    if parking is Parking.NO_ROOM:
        assert 60 <= clock.now - began < 70
    else:
        assert len(entry.payloads) == 1
