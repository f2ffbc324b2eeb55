"""A Failed that another model may spare the task goes back to the operator instead of into the object."""

from dataclasses import replace
from typing import Any

import pytest

from headrace_bus import Failure
from headrace_crds.task import Outcome
from headrace_crds.work import Work
from headrace_runner.attempt import Attempt
from headrace_runner.metrics import Metrics
from headrace_runner.pod_sink import PodSink
from headrace_runner.slots import Slots
from headrace_runner.verdict import Setback, Verdict, failed, handed_over

WRONG = failed("InvalidOutput", "the result lacks a member (asked 3 times)")


class Entry:
    """The words that end it."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {"task": "t"}
        self.said: list[Failure] = []

    async def fail(self, failure: Failure) -> None:
        self.said.append(failure)


@pytest.mark.parametrize(
    ("verdict", "reasons", "handed"),
    [
        (WRONG, ["InvalidOutput"], True),
        (WRONG, ["ContentRefused"], False),
        (WRONG, [], False),
        (failed("ContentRefused", "the provider refused it"), ["ContentRefused", "InvalidOutput"], True),
        (failed("OutputTruncated", "cut off"), ["ContentRefused", "InvalidOutput"], False),
        (Verdict(Outcome.COMPLETE, "InvalidOutput"), ["InvalidOutput"], False),
    ],
)
def test_what_is_handed_over(work: Work, verdict: Verdict, reasons: list[str], handed: bool) -> None:
    found = handed_over(verdict, work.model_copy(update={"hand_over": reasons}))
    assert found == (Setback(verdict.reason, verdict.message, retryable=False) if handed else None)


@pytest.mark.parametrize("stopping", [False, True], ids=["serving", "stopping"])
async def test_the_sink_commits_nothing_and_fails_the_entry_for_good(attempt: Attempt, stopping: bool) -> None:
    """Also while the runner stops: a generation that is over is not made again by the model that failed it."""
    attempt = replace(attempt, work=attempt.work.model_copy(update={"hand_over": ["InvalidOutput"]}))
    entry = Entry()
    # No committer: the object is not touched.
    sink = PodSink(attempt, entry, None, Slots(1), Metrics())  # type: ignore[arg-type]  # stand-ins
    sink.stopping = stopping
    await sink.conclude(WRONG)
    assert entry.said == [Failure("InvalidOutput", WRONG.message, retryable=False)]
