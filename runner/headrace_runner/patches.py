"""The JSON patches that a runner sends. Every one tests the uid; every one that writes also tests the attempt."""

from typing import Any

from headrace_crds.base import Condition, ConditionStatus
from headrace_crds.outcome import timestamp, with_condition
from headrace_crds.reasons import Reason
from headrace_crds.task import TaskPhase, derive_phase
from headrace_runner.attempt import Attempt
from headrace_runner.kube import Operation


def read(uid: str) -> list[Operation]:
    """Tests and writes nothing; the answer is the object. A runner may patch and not get."""
    return [{"op": "test", "path": "/metadata/uid", "value": uid}]


def commit(attempt: Attempt, terminal: dict[str, Any]) -> list[Operation]:
    """Sets everything that an outcome brings, conditions as a whole list."""
    return [*_fenced(attempt), *_started(attempt), *(_add(name, value) for name, value in terminal.items())]


def running(attempt: Attempt, status: dict[str, Any]) -> list[Operation]:
    """Says that the attempt runs; ``status`` is what the object holds, so that conditions keep their times."""
    now = timestamp(attempt.now_ms)
    conditions = [Condition.model_validate(each) for each in status.get("conditions") or []]
    for type_, value in (
        ("Finished", ConditionStatus.FALSE),
        ("Ready", ConditionStatus.FALSE),
        ("Running", ConditionStatus.TRUE),
    ):
        conditions = with_condition(
            conditions, type_, value, Reason.RUNNING, "", generation=attempt.work.generation, now=now
        )
    phase: TaskPhase = derive_phase(outcome=None, queued=False, running=True)
    return [
        *_fenced(attempt),
        *_started(attempt),
        _add("phase", phase.value),
        _add("reason", Reason.RUNNING.value),
        _add("message", ""),
        _add("conditions", [condition.dump() for condition in conditions]),
    ]


def _fenced(attempt: Attempt) -> list[Operation]:
    return [*read(attempt.uid), {"op": "test", "path": "/status/attempt", "value": attempt.number}]


def _started(attempt: Attempt) -> list[Operation]:
    operations = [_add("runner/pod", attempt.pod)]
    if not attempt.work.started:
        operations.append(_add("startTime", attempt.start_time))
    return operations


def _add(name: str, value: Any) -> Operation:
    return {"op": "add", "path": f"/status/{name}", "value": value}
