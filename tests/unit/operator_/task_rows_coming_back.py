"""A task that came back, moved or ended, one row per situation: what is seen, and what is to be done about it."""

from typing import Any

import pytest
from operator_cases import (
    NO_MODEL,
    NOW_MS,
    came_back,
    finished,
    held,
    queued,
    snapshot,
    task,
)
from task_rows_going_out import BACKOFF

from headrace_crds.outcome import timestamp
from headrace_operator.decide.snapshots import Held, Place

COMMITTED = timestamp(NOW_MS - 3_000)
AN_OLD_LEASE = Held(1, Place.LEASED, NOW_MS - 600_000)

COMING_BACK: list[Any] = [
    # deliveries that came back
    pytest.param(
        snapshot(task(queued()), held=came_back("Failed")),
        {
            "phase": "Queued",
            "attempt": 2,
            "retries": 1,
            "reason": "RetryBackoff",
            "enqueue": 2,
            "delay": 500,
            "record": (1, "Failed", "EngineError"),
        },
        id="a retryable failure is charged and backs off",
    ),
    pytest.param(
        snapshot(task(queued(phase="Running")), held=came_back("LeaseExpired")),
        {
            "phase": "Queued",
            "attempt": 2,
            "retries": 1,
            "losses": 1,
            "reason": "RetryBackoff",
            "enqueue": 2,
            "delay": 500,
            "record": (1, "Lost", "LeaseExpired"),
        },
        id="a vanished runner is charged and recorded as lost",
    ),
    pytest.param(
        snapshot(task(queued(phase="Running")), held=came_back("Released", reason="RunnerStopped")),
        {
            "phase": "Queued",
            "attempt": 2,
            "retries": 0,
            "reason": "Queued",
            "enqueue": 2,
            "record": (1, "Released", "RunnerStopped"),
        },
        id="a stopping runner charges nobody and costs no time",
    ),
    pytest.param(
        snapshot(task(queued(3, retries=3)), held=came_back("Failed", 3)),
        {
            "phase": "Failed",
            "attempt": 3,
            "retries": 3,
            "reason": "BackoffLimitExceeded",
            "outcome": "Failed",
            "remove": True,
            "record": (3, "Failed", "EngineError"),
        },
        id="the backoff limit is used up",
    ),
    pytest.param(
        snapshot(task(queued(), backoffLimit=0), held=came_back("LeaseExpired")),
        {
            "phase": "Failed",
            "attempt": 1,
            "retries": 0,
            "losses": 1,
            "reason": "BackoffLimitExceeded",
            "outcome": "Failed",
            "remove": True,
            "record": (1, "Lost", "LeaseExpired"),
        },
        id="backoffLimit 0: the first loss is the end",
    ),
    pytest.param(
        snapshot(task(queued()), held=came_back("Failed", reason="EnvelopeInvalid", retryable=False)),
        {
            "phase": "Failed",
            "attempt": 1,
            "retries": 0,
            "reason": "EnvelopeInvalid",
            "outcome": "Failed",
            "remove": True,
            "record": (1, "Failed", "EnvelopeInvalid"),
        },
        id="a failure that cannot be cured ends the task for its own reason",
    ),
    pytest.param(
        snapshot(task(queued()), model=NO_MODEL, held=came_back("Failed")),
        {
            "phase": "Waiting",
            "attempt": 2,
            "retries": 1,
            "reason": "ModelNotFound",
            "remove": True,
            "record": (1, "Failed", "EngineError"),
        },
        id="it failed and the model is gone: charged, then waiting",
    ),
    pytest.param(
        snapshot(task(queued(2)), held=came_back("Failed", 1)),
        {"enqueue": 2},
        id="the object moved on before a crash: the older copy is superseded, nothing is charged twice",
    ),
    # the bus knows less, or more
    pytest.param(
        snapshot(task(queued())),
        {
            "phase": "Queued",
            "attempt": 2,
            "retries": 0,
            "reason": "Queued",
            "enqueue": 2,
            "record": (1, "Released", "QueueStateLost"),
        },
        id="redis was flushed under a queued task: rebuilt at attempt 2",
    ),
    pytest.param(
        snapshot(task(queued(5, phase="Running", runner={"serviceAccount": "x", "pod": "pod-a"}))),
        {
            "phase": "Queued",
            "attempt": 6,
            "retries": 0,
            "reason": "Queued",
            "enqueue": 6,
            "record": (5, "Released", "QueueStateLost"),
        },
        id="redis was flushed under a running task: its runner is fenced",
    ),
    pytest.param(
        snapshot(task(queued()), model_replaced=True),
        {
            "phase": "Queued",
            "attempt": 2,
            "retries": 0,
            "reason": "Queued",
            "enqueue": 2,
            "record": (1, "Released", "ModelReplaced"),
        },
        id="the model was deleted and made again: another attempt, for that reason",
    ),
    pytest.param(
        snapshot(task(queued()), refused_attempt=1), {"enqueue": 1}, id="redis refused it whole: offered again as it is"
    ),
    pytest.param(
        snapshot(task(BACKOFF), refused_attempt=2),
        {"enqueue": 2, "delay": 500},
        id="refused whole while in backoff: offered again with a backoff",
    ),
    pytest.param(
        snapshot(task(queued(3)), refused_attempt=2),
        {
            "phase": "Queued",
            "attempt": 4,
            "retries": 0,
            "reason": "Queued",
            "enqueue": 4,
            "record": (3, "Released", "QueueStateLost"),
        },
        id="an older attempt's refusal says nothing about this one",
    ),
    pytest.param(snapshot(task(queued(2)), held=held("Queued", 1)), {"enqueue": 2}, id="the bus is behind: enqueue"),
    pytest.param(snapshot(task(queued(2)), held=held("Leased", 1)), {"enqueue": 2}, id="an older lease is superseded"),
    pytest.param(
        snapshot(task(BACKOFF), held=came_back("Failed", 1)),
        {"enqueue": 2, "delay": 500},
        id="a crash between write and enqueue keeps the backoff",
    ),
    pytest.param(
        snapshot(task(queued(2)), held=held("Queued", 7)),
        {"phase": "Queued", "attempt": 8, "retries": 0, "reason": "Queued", "enqueue": 8},
        id="an object from a backup: beyond what the bus has seen",
    ),
    # priority
    pytest.param(
        snapshot(task(queued(), generation=2, priority=9), held=held("Queued")),
        {"reason": "Queued", "enqueue": 1},
        id="priority edited while queued: offered again at the same attempt",
    ),
    pytest.param(
        snapshot(task(queued(), generation=2, priority=9), held=held("Leased")),
        {},
        id="priority edited while it runs: nothing",
    ),
    # the end
    pytest.param(snapshot(task(finished())), {}, id="finished and gone from the bus: settled"),
    pytest.param(
        snapshot(task({**finished(), "completionTime": COMMITTED}), held=held("Leased")),
        {},
        id="its runner is just completing: left alone",
    ),
    pytest.param(
        snapshot(task({**finished(), "completionTime": timestamp(NOW_MS - 21_000)}), held=AN_OLD_LEASE),
        {"remove": True},
        id="its runner had its time to complete: removed",
    ),
    pytest.param(
        snapshot(task({**finished(), "completionTime": COMMITTED}), held=AN_OLD_LEASE),
        {},
        id="a long run that was just committed: its runner has its time",
    ),
    # nonsense in Redis
    pytest.param(snapshot(task(queued()), senseless=True), {"remove": True}, id="an entry that does not read goes"),
    pytest.param(
        snapshot(task(queued()), held=held("Queued", 10**15)), {"remove": True}, id="an attempt nobody gave is not met"
    ),
    pytest.param(
        snapshot(task(finished()), held=held("Queued", 10**15)), {"remove": True}, id="not even by a finished task"
    ),
    pytest.param(
        snapshot(task(finished(2)), held=held("Leased", 1)), {"remove": True}, id="finished, an older lease stays"
    ),
    pytest.param(
        snapshot(task(finished()), held=held("Queued")), {"remove": True}, id="finished, an entry stays: removed"
    ),
    pytest.param(
        snapshot(task(finished()), held=came_back("LeaseExpired")),
        {"remove": True},
        id="committed, but its runner died before complete: nothing runs again",
    ),
    pytest.param(
        snapshot(task(finished(outcome="Failed")), model=NO_MODEL, held=came_back("Failed")),
        {"remove": True},
        id="finished outlives its model",
    ),
    pytest.param(snapshot(None), {"remove": True}, id="deleted: whatever is left goes, results too"),
    pytest.param(snapshot(None, model=NO_MODEL, held=held("Leased")), {"remove": True}, id="deleted while running"),
]
