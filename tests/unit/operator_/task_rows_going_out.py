"""A task until somebody works on it, one row per situation: what is seen, and what is to be done about it."""

from typing import Any

import pytest
from operator_cases import (
    LOADING,
    NAME_CONFLICT,
    NO_MODEL,
    SERVING,
    condition,
    held,
    model,
    queued,
    snapshot,
    task,
)
from operator_cases import (
    waiting as waiting_status,
)

from headrace_crds.task import INPUT_LIMIT_BYTES

BACKOFF = queued(2, reason="RetryBackoff", retries=1)
NOT_READY = model(condition("Ready", "False", "ChecksumMismatch", "a.gguf has another digest"))


def not_ready(message: str) -> dict[str, Any]:
    return queued(reason="ModelNotReady", message=message)


GOING_OUT: list[Any] = [
    # accept
    pytest.param(
        snapshot(task(), model=SERVING),
        {"phase": "Queued", "attempt": 1, "retries": 0, "reason": "Queued", "enqueue": 1},
        id="a new task of a serving model is queued and enqueued at attempt 1",
    ),
    pytest.param(
        snapshot(task(), model=LOADING),
        {"phase": "Queued", "attempt": 1, "retries": 0, "reason": "ModelLoading", "enqueue": 1},
        id="enqueueing does not wait for a model that loads",
    ),
    pytest.param(
        snapshot(task(), model=model()),
        {"phase": "Queued", "attempt": 1, "retries": 0, "reason": "ModelLoading", "enqueue": 1},
        id="a model without status yet counts as loading",
    ),
    pytest.param(
        snapshot(task(), model=model(replicas=0)),
        {"phase": "Queued", "attempt": 1, "retries": 0, "reason": "ModelScaledToZero", "enqueue": 1},
        id="at scale zero the task is queued and says so",
    ),
    pytest.param(
        snapshot(task(), model=NOT_READY),
        {"phase": "Queued", "attempt": 1, "retries": 0, "reason": "ModelNotReady", "enqueue": 1},
        id="a broken model may be repaired: queued",
    ),
    pytest.param(
        snapshot(task(), model=NO_MODEL),
        {"phase": "Waiting", "attempt": 1, "retries": 0, "reason": "ModelNotFound"},
        id="a task before its model waits and is not enqueued",
    ),
    pytest.param(
        snapshot(task(), model=NAME_CONFLICT),
        {"phase": "Waiting", "attempt": 1, "retries": 0, "reason": "ModelNotReady"},
        id="a model that never gets a runner is handed nothing",
    ),
    pytest.param(
        snapshot(task(prompt="ä" * (INPUT_LIMIT_BYTES // 2 + 1)), model=SERVING),
        {"phase": "Failed", "attempt": 1, "retries": 0, "reason": "InputTooLarge", "outcome": "Failed"},
        id="bytes count, not characters: too large at accept",
    ),
    pytest.param(
        snapshot(task(output={"jsonSchema": "{not json"}), model=NO_MODEL),
        {"phase": "Failed", "attempt": 1, "retries": 0, "reason": "InvalidSchema", "outcome": "Failed"},
        id="a schema that is no JSON fails at accept, model or not",
    ),
    pytest.param(
        snapshot(task(output={"jsonSchema": "{not json"}), model=NO_MODEL, held=held("Queued")),
        {"phase": "Failed", "attempt": 1, "retries": 0, "reason": "InvalidSchema", "outcome": "Failed", "remove": True},
        id="a refused task leaves nothing in the bus",
    ),
    pytest.param(
        snapshot(task(queued(), prompt="ä" * (INPUT_LIMIT_BYTES // 2 + 1)), held=held("Queued")),
        {},
        id="an accepted task is not judged again",
    ),
    # model appears, goes
    pytest.param(
        snapshot(task(waiting_status()), model=SERVING),
        {"phase": "Queued", "attempt": 1, "retries": 0, "reason": "Queued", "enqueue": 1},
        id="the model appears: handed out at the same attempt",
    ),
    pytest.param(
        snapshot(task(waiting_status(4)), model=LOADING),
        {"phase": "Queued", "attempt": 4, "retries": 0, "reason": "ModelLoading", "enqueue": 4},
        id="the model comes back: handed out at the attempt that was never delivered",
    ),
    pytest.param(
        snapshot(task(waiting_status(2)), model=SERVING, held=held("Queued", 2)),
        {"phase": "Queued", "attempt": 3, "retries": 0, "reason": "Queued", "enqueue": 3},
        id="an entry nobody accounts for at a waiting task's attempt is superseded",
    ),
    pytest.param(snapshot(task(waiting_status()), model=NO_MODEL), {}, id="still no model: nothing to write"),
    pytest.param(
        snapshot(task(waiting_status(reason="ModelNotReady")), model=NO_MODEL),
        {"reason": "ModelNotFound"},
        id="the conflicting model is deleted: only the reason changes",
    ),
    pytest.param(
        snapshot(task(waiting_status()), model=NAME_CONFLICT),
        {"reason": "ModelNotReady"},
        id="the model appears with a name conflict: still waiting, for another reason",
    ),
    pytest.param(
        snapshot(task(waiting_status()), model=NO_MODEL, held=held("Queued")),
        {"remove": True},
        id="a waiting task keeps no entry",
    ),
    pytest.param(
        snapshot(task(queued()), model=NO_MODEL, held=held("Queued")),
        {
            "phase": "Waiting",
            "attempt": 2,
            "retries": 0,
            "reason": "ModelNotFound",
            "remove": True,
            "record": (1, "Released", "ModelNotFound"),
        },
        id="the model is deleted under a queued task: back to waiting at attempt 2",
    ),
    pytest.param(
        snapshot(task(queued(phase="Running")), model=NO_MODEL, held=held("Leased")),
        {
            "phase": "Waiting",
            "attempt": 2,
            "retries": 0,
            "reason": "ModelNotFound",
            "remove": True,
            "record": (1, "Released", "ModelNotFound"),
        },
        id="the model is deleted under a running task: its runner is fenced",
    ),
    pytest.param(
        snapshot(task(queued()), model=NO_MODEL),
        {
            "phase": "Waiting",
            "attempt": 2,
            "retries": 0,
            "reason": "ModelNotFound",
            "record": (1, "Released", "ModelNotFound"),
        },
        id="the model is deleted and its queue purged already",
    ),
    # as it should be
    pytest.param(snapshot(task(queued()), held=held("Queued")), {}, id="queued here and there: settled"),
    pytest.param(snapshot(task(queued()), held=held("Leased")), {}, id="leased: the runner's turn"),
    pytest.param(
        snapshot(task(queued(reason="ModelLoading")), held=held("Leased")),
        {},
        id="leased: the explanation is not touched",
    ),
    pytest.param(snapshot(task(queued(phase="Running")), held=held("Leased")), {}, id="running under a lease: settled"),
    pytest.param(snapshot(task(BACKOFF), held=held("Delayed", 2)), {}, id="in backoff: settled"),
    # explanations
    pytest.param(
        snapshot(task(queued(reason="ModelLoading")), held=held("Queued")),
        {"reason": "Queued"},
        id="the model serves now: the reason follows",
    ),
    pytest.param(
        snapshot(task(queued()), model=LOADING, held=held("Queued")),
        {"reason": "ModelLoading"},
        id="the model restarts: the reason follows",
    ),
    pytest.param(
        snapshot(task(BACKOFF), held=held("Queued", 2)),
        {"reason": "Queued"},
        id="the backoff is over and nobody claimed: the reason follows",
    ),
    pytest.param(
        snapshot(task(not_ready("ChecksumMismatch: x")), model=NOT_READY, held=held("Queued")),
        {},
        id="the model's message changed, its reason did not: no write",
    ),
    pytest.param(
        snapshot(task(not_ready("ClaimNotFound: x")), model=NOT_READY, held=held("Queued")),
        {"reason": "ModelNotReady"},
        id="the model is not ready for another reason: told",
    ),
]
