"""`LLMQuota.spec.remoteModels: false`: the namespace's tasks wait instead of going to a remote model.

Nothing is lost by it: an admin can grant it later.
"""

from headrace_crds.quota import QUOTA_NAME
from headrace_crds.reasons import Reason
from headrace_crds.task import HANDED_OUT, LLMTask, TaskPhase
from headrace_operator.decide import retry, task_status
from headrace_operator.decide.delivery import judged
from headrace_operator.decide.holder import records_at_end, start_at_end, taken_back
from headrace_operator.decide.next_attempt import explain
from headrace_operator.decide.plans import TaskPlan
from headrace_operator.decide.snapshots import Place, TaskSnapshot
from headrace_operator.decide.waiting import Waiting


def remote_not_allowed(s: TaskSnapshot, task: LLMTask) -> TaskPlan | None:
    """Also out of the queue; what is claimed goes on. Charged is only what had come back by itself."""
    if s.model is None or s.model.spec.remote is None or s.remote_allowed:
        return None
    message = (
        f"LLMModel {s.ref.model.name!r} is a remote model, and remoteModels is false in LLMQuota {QUOTA_NAME!r} of "
        f"namespace {s.ref.namespace!r} or in the chart's quota.default: goes on once an admin allows it"
    )
    why = Waiting(Reason.REMOTE_NOT_ALLOWED, message)
    attempt, phase = task_status.attempt_of(task), task_status.phase_of(task)
    if phase is TaskPhase.WAITING:
        return explain(s, task, why, remove=s.held is not None)
    if phase not in HANDED_OUT:
        status = task_status.waiting(task, why, attempt=max(1, attempt), now_ms=s.now_ms)
        return TaskPlan("waits; no remote models", status=status, remove=s.held is not None)
    if s.held is not None and s.held.place is Place.LEASED:
        return None
    found = judged(s, task)
    if found is not None and (task.spec.suspend or isinstance(found[0], retry.GiveUp)):
        return None
    raised = found[1] if found is not None else {}
    number = max(attempt, s.held.attempt if s.held is not None else 0) + 1
    records = records_at_end(s, task, Reason.REMOTE_NOT_ALLOWED, "the namespace may not use remote models any more")
    members = {"attempts": task_status.kept(records), **start_at_end(s, task), **raised}
    return TaskPlan(
        "no remote models any more; waits",
        take_back=taken_back(s, task),
        status=task_status.waiting(task, why, attempt=number, now_ms=s.now_ms, **members),
    )
