"""An attempt that was claimed at a known time."""

import pytest

from headrace_crds.outcome import text_result
from headrace_crds.task import Message, Outcome, Parameters, Role, Timings, Usage
from headrace_crds.work import Work
from headrace_runner.attempt import Attempt
from headrace_runner.verdict import Verdict

CLAIMED_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z


class Clock:
    """Seconds that pass only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def work() -> Work:
    return Work(
        model="ns/smol",
        generation=2,
        messages=[Message(role=Role.USER, content="hello")],
        parameters=Parameters(max_tokens=64, temperature="0"),
    )


@pytest.fixture
def attempt(clock: Clock, work: Work) -> Attempt:
    return Attempt(
        uid="u-1",
        namespace="ns",
        name="t",
        number=1,
        work=work,
        pod="p-0",
        claimed_ms=CLAIMED_MS,
        enqueued_ms=CLAIMED_MS - 250,
        claimed_at=clock(),
        monotonic=clock,
    )


@pytest.fixture
def verdict() -> Verdict:
    return Verdict(
        Outcome.COMPLETE,
        "Succeeded",
        "",
        text_result("hi", "Stop", None),
        Usage(prompt_tokens=3, completion_tokens=1),
        Timings(queued_millis=1, first_token_millis=2, generation_millis=3),
    )
