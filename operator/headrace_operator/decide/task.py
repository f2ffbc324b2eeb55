"""What to do about one task. The gates are asked in order; the first that finds its invariant broken makes the plan.

object              bus            plan
gone                anything       remove
any                 nonsense       remove, look again
finished            anything       remove, but leave a lease's holder time to complete
n                   parked n       Complete, with a ConfigMap: what was generated counts, whatever happened since
spec.cancel         no lease       Cancelled
spec.cancel         leased         tell its runner; Cancelled when it does not answer
not shared          anything       Failed/ModelNotShared, unless it was admitted less than an hour ago
no attempt          –              fail, wait, suspend, or hand out at 1
deadline passed     no lease       Failed; under a lease the runner does it, the operator when it does not
spec.suspend        no lease       Suspended, at n + 1 if it was handed out at n
spec.suspend        leased         tell its runner, which gives it back
not shared any more anything       Waiting, at n + 1 if it was handed out at n; Failed if n was its last and came back
no remote models    not leased     Waiting, at n + 1 if it was handed out at n
n                   returned n     attempt n + 1, or at n + 1 to another model, or Failed
n, nobody holds it  not leased     Waiting for another model at n + 1, where spec.fallback and that model allow it
n, Queued/Running   –              attempt n + 1 (the bus lost it), or Waiting if the model is gone
n, Waiting          –              hand out at n once there is a model
n, Suspended        –              resumed: as Waiting
n                   older than n   enqueue at n
n                   newer than n   attempt beyond the bus's
n                   queued at n    keep the explanation true
"""

from collections.abc import Callable
from typing import Final

from headrace_crds.reasons import Reason
from headrace_crds.task import LLMTask
from headrace_operator.decide import acceptance, task_status
from headrace_operator.decide.cancel import cancelled
from headrace_operator.decide.deadline import active_deadline_passed, queue_deadline_passed
from headrace_operator.decide.delivery import delivery_returned
from headrace_operator.decide.entries import entry_senseless, envelope_ahead, envelope_missing, envelope_outdated
from headrace_operator.decide.fallback import followed, waits_in_vain
from headrace_operator.decide.finished import finished
from headrace_operator.decide.handing_out import (
    clocks_not_begun,
    explanation_outdated,
    model_missing,
    not_handed_out,
    priority_edited,
)
from headrace_operator.decide.holder import may_commit, status_at_end
from headrace_operator.decide.large_result import parked_result
from headrace_operator.decide.plans import SETTLED, Announcement, TaskPlan
from headrace_operator.decide.remote_right import remote_not_allowed
from headrace_operator.decide.snapshots import TaskSnapshot
from headrace_operator.decide.suspend import suspended
from headrace_operator.decide.withdrawn import not_shared, sharing_withdrawn

HELD_LOOK_SECONDS: Final = 1.0
"""Until the next look at a task whose hand-out was refused while somebody works on it."""


def decide(s: TaskSnapshot) -> TaskPlan:
    """One plan; applied to what it was decided on, it leads to SETTLED or to a wait for somebody else."""
    if s.task is None:
        return TaskPlan("object is gone", remove=True)
    plan = next((plan for gate in GATES if (plan := gate(s, s.task)) is not None), SETTLED)
    return followed(plan, s, s.task)


def not_acceptable(s: TaskSnapshot, task: LLMTask) -> TaskPlan | None:
    if task_status.attempt_of(task) > 0:
        return None
    refusal = acceptance.refusal(task)
    if refusal is None:
        return None
    status = task_status.failed(task, refusal.reason, refusal.message, now_ms=s.now_ms, attempts=[])
    return TaskPlan(
        "refused at accept",
        status=status,
        remove=s.held is not None,
        announcement=Announcement("Warning", refusal.reason, refusal.message),
    )


def unacceptable(s: TaskSnapshot, task: LLMTask, reason: Reason, message: str) -> TaskPlan:
    """The queue refused the envelope for good: no further attempt would fare better."""
    if task.status is not None and task.status.outcome is not None:
        return decide(s)
    if may_commit(s, task):
        # What was claimed meanwhile was acceptable when it was handed out, and may be about to succeed.
        return TaskPlan("refused by the queue; its runner goes on", requeue_after_seconds=HELD_LOOK_SECONDS)
    return TaskPlan(
        "refused by the queue",
        status=status_at_end(s, task, reason, message),
        remove=s.held is not None,
        announcement=Announcement("Warning", reason, message),
    )


GATES: Final[tuple[Callable[[TaskSnapshot, LLMTask], TaskPlan | None], ...]] = (
    entry_senseless,
    finished,
    parked_result,
    cancelled,
    not_shared,
    not_acceptable,
    queue_deadline_passed,
    active_deadline_passed,
    suspended,
    sharing_withdrawn,
    remote_not_allowed,
    delivery_returned,
    waits_in_vain,
    model_missing,
    not_handed_out,
    envelope_missing,
    envelope_outdated,
    envelope_ahead,
    priority_edited,
    clocks_not_begun,
    explanation_outdated,
)
