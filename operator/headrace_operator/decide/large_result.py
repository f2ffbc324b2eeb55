"""A parked result: the operator commits it, as a ConfigMap that the task owns and a status that refers to it.

The ConfigMap's name holds the attempt, so that what an attempt left that was overtaken is never referred to; it is
collected with the task. Killed in between, the operator does the same again: the entry goes last.
"""

from dataclasses import replace
from typing import Any, Final

from headrace_crds.base import GROUP, VERSION
from headrace_crds.inputs import KeyRef
from headrace_crds.names import LABEL_MANAGED_BY, LABEL_PART_OF
from headrace_crds.outcome import notified_outcomes, terminal_status, timestamp
from headrace_crds.parked import Parked
from headrace_crds.reasons import Reason
from headrace_crds.task import HANDED_OUT, AttemptRecord, LLMTask, Outcome
from headrace_operator.decide import clocks, task_status
from headrace_operator.decide.next_attempt import first_start
from headrace_operator.decide.plans import TaskPlan
from headrace_operator.decide.snapshots import Held, TaskSnapshot

KEY: Final = "text"


def config_map_name(uid: str, attempt: int) -> str:
    return f"headrace-{uid}-{attempt}"


def is_parked(held: Held | None, task: LLMTask) -> bool:
    """Whether the attempt that the object says is handed out came back as parked."""
    return (
        held is not None
        and held.returned is not None
        and held.returned.how == "Parked"
        and held.attempt == task_status.attempt_of(task)
        and task_status.phase_of(task) in HANDED_OUT
    )


def parked_result(s: TaskSnapshot, task: LLMTask) -> TaskPlan | None:
    parked = s.parked
    if parked is None or s.held is None or not s.admitted or not is_parked(s.held, task):
        return None
    if parked.outcome is Outcome.CANCELLED and not task.spec.cancel:
        return None  # nobody asked for that: `delivery_returned` takes it for one that was given back
    attempt = s.held.attempt
    ref = KeyRef(name=config_map_name(task.metadata.uid, attempt), key=KEY)
    return TaskPlan(
        "parked result committed",
        create=config_map(task, ref, parked.text),
        status=_status(s, task, parked, ref),
        remove=True,
    )


def config_map(task: LLMTask, ref: KeyRef, text: str) -> dict[str, Any]:
    owner = {"apiVersion": f"{GROUP}/{VERSION}", "kind": "LLMTask", "name": task.metadata.name}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": ref.name,
            "namespace": task.metadata.namespace,
            "labels": {LABEL_MANAGED_BY: "headrace", LABEL_PART_OF: "headrace"},
            "ownerReferences": [{**owner, "uid": task.metadata.uid, "controller": True}],
        },
        "immutable": True,
        "data": {ref.key: text},
    }


def is_same(wanted: dict[str, Any], found: dict[str, Any]) -> bool:
    """Whether the object that stands under the name is the one that was to be made: an earlier try of ours."""
    owners = [owner.get("uid") for owner in found["metadata"].get("ownerReferences") or []]
    return found.get("data") == wanted["data"] and owners == [wanted["metadata"]["ownerReferences"][0]["uid"]]


def unwritable(s: TaskSnapshot, reason: Reason, message: str, retryable: bool | None) -> TaskSnapshot:
    """The snapshot as if the runner had said what the API server says of its result. `retryable` None: given back."""
    if s.held is None or s.held.returned is None:
        return replace(s, parked=None)
    how = s.held.returned.how if retryable is None else "Failed"
    returned = replace(s.held.returned, how=how, reason=reason, message=message, retryable=bool(retryable))
    return replace(s, parked=None, held=replace(s.held, returned=returned))


def _status(s: TaskSnapshot, task: LLMTask, parked: Parked, ref: KeyRef) -> dict[str, Any]:
    """Times are the runner's word: none of them lies ahead."""
    claimed_ms = min(parked.claimed_ms, s.now_ms)
    completed_ms = max(claimed_ms, min(parked.completed_ms, s.now_ms))
    record = AttemptRecord(
        number=task_status.attempt_of(task),
        model=str(s.ref.model),
        pod=parked.pod,
        start_time=timestamp(claimed_ms),
        completion_time=timestamp(completed_ms),
        outcome=parked.outcome.value,
        reason=parked.reason,
    )
    terminal = terminal_status(
        parked.outcome,
        reason=parked.reason.value,
        generation=task.metadata.generation,
        completed_ms=completed_ms,
        attempts=[*task_status.records_of(task), record],
        result=parked.result(ref),
        usage=parked.usage,
        timings=parked.timings,
        notify=notified_outcomes(task),
    )
    members = {**clocks.running(task, s.now_ms), **first_start(task, claimed_ms), "runner": {"pod": parked.pod}}
    return {**members, **terminal}
