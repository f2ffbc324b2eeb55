"""When a task ended, where whoever says so may be hostile."""

import pytest
from operator_cases import NOW_MS, finished, held, snapshot, task

from headrace_operator.decide.ended import AHEAD_MS, ended_ms
from headrace_operator.decide.task import decide

ACCEPTED_MS = NOW_MS - 60_000


@pytest.mark.parametrize(
    ("completed_ms", "accepted_ms", "believed_ms"),
    [
        (NOW_MS - 1_000, ACCEPTED_MS, NOW_MS - 1_000),
        (NOW_MS + 1, ACCEPTED_MS, NOW_MS),
        (NOW_MS + AHEAD_MS, ACCEPTED_MS, NOW_MS),
        (NOW_MS + AHEAD_MS + 1, ACCEPTED_MS, ACCEPTED_MS),
        (4_102_444_800_000, ACCEPTED_MS, ACCEPTED_MS),
        (ACCEPTED_MS - 1, ACCEPTED_MS, ACCEPTED_MS),
        (0, 0, 0),
        (NOW_MS - 1_000, NOW_MS + 1, NOW_MS - 1_000),
        (4_102_444_800_000, 4_102_444_800_000, 0),
    ],
)
def test_an_end_lies_between_acceptance_and_now(completed_ms: int, accepted_ms: int, believed_ms: int) -> None:
    assert ended_ms(completed_ms, accepted_ms, NOW_MS) == believed_ms


def test_an_end_far_ahead_does_not_keep_the_entry() -> None:
    plan = decide(snapshot(task({**finished(), "completionTime": "2100-01-01T00:00:00Z"}), held=held("Leased")))
    assert plan.requeue_after_seconds is not None
    assert plan.requeue_after_seconds <= 15.0, "it counts from the claim, five seconds ago, as it does for everybody"
