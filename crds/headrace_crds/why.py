"""Why a task is where it is: the chain of causes, task → quota → window → model → placement.

Pure: facade and command line read the objects with their caller's rights and ask here, so that both say the same. Where
a right is missing the chain says so and goes on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Generic, Self, TypeVar

from headrace_crds.base import Condition, ConditionStatus, ObjectMeta, find_condition
from headrace_crds.model import LLMModel
from headrace_crds.names import assigned_model
from headrace_crds.quota import QUOTA_NAME, LLMQuota
from headrace_crds.reasons import Reason
from headrace_crds.scaling import NO_GPU
from headrace_crds.task import LLMTaskStatus, Outcome, TaskPhase

T = TypeVar("T")


class About(StrEnum):
    TASK = "task"
    QUOTA = "quota"
    WINDOW = "window"
    MODEL = "model"
    PLACEMENT = "placement"


@dataclass(frozen=True)
class Link:
    """One part of the way to a runner. `holds` tells whether it keeps the task from running; None: cannot be told."""

    about: About
    name: str
    reason: str
    message: str
    remedy: str = ""
    holds: bool | None = False


@dataclass(frozen=True)
class Seen(Generic[T]):
    """What the asker could read. Without an object `unread` says why; where that is empty, there is none."""

    object: T | None = None
    unread: str = ""


@dataclass(frozen=True)
class TaskFacts:
    """Read from the body member by member: a spec of a later version must not keep the rest from being told."""

    namespace: str
    name: str
    uid: str
    model_namespace: str
    model_name: str
    suspend: bool
    cancel: bool
    created: str | None
    status: LLMTaskStatus
    input_name: str = ""
    """The ConfigMap of spec.inputFrom, and its key."""
    input_key: str = ""

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Self:
        metadata, spec = ObjectMeta.model_validate(body["metadata"]), body.get("spec") or {}
        ref = spec.get("modelRef") or {}
        given = (spec.get("inputFrom") or {}).get("configMapKeyRef") or {}
        status = LLMTaskStatus.model_validate(body.get("status") or {})
        assigned = assigned_model(status.assigned_model)
        return cls(
            namespace=metadata.namespace,
            name=metadata.name,
            uid=metadata.uid,
            model_namespace=assigned[0] if assigned else ref.get("namespace") or metadata.namespace,
            model_name=assigned[1] if assigned else ref.get("name") or "",
            suspend=spec.get("suspend") is True,
            cancel=spec.get("cancel") is True,
            created=metadata.creation_timestamp,
            status=status,
            input_name=given.get("name") or "",
            input_key=given.get("key") or "",
        )

    @property
    def model(self) -> str:
        return f"{self.model_namespace}/{self.model_name}"

    @property
    def settled(self) -> bool:
        """Ended, running or suspended: nothing beyond the task itself keeps it."""
        return self.status.outcome is not None or self.status.phase in (TaskPhase.RUNNING, TaskPhase.SUSPENDED)


REMEDIES: Final[Mapping[str, str]] = {
    Reason.MODEL_NOT_FOUND: "create the LLMModel and the task goes on; for another model create another task",
    Reason.MODEL_NOT_READY: "kubectl describe llmmodel {model_name} -n {model_namespace} tells more",
    Reason.MODEL_LOADING: "wait: its conditions tell how far it is",
    Reason.MODEL_SCALED_TO_ZERO: "kubectl scale llmmodel {model_name} -n {model_namespace} --replicas=1",
    Reason.MODEL_NOT_SHARED: "have spec.sharing of LLMModel {model_name} in {model_namespace} admit {namespace}",
    Reason.QUEUED: "wait; more replicas of the model or a higher spec.priority shorten it",
    Reason.RETRY_BACKOFF: "wait; status.attempts tells what went wrong",
    Reason.QUEUE_FULL: "wait: room is given by itself, oldest first; more replicas of the model shorten it",
    Reason.FELL_BACK: "wait: it is about to be handed to the other model",
    Reason.QUOTA_EXCEEDED: "wait until tasks of this namespace end, or have an admin raise its LLMQuota",
    Reason.BUDGET_EXHAUSTED: "wait until the budget begins anew, or have an admin raise it in the namespace's LLMQuota",
    Reason.REMOTE_NOT_ALLOWED: "have an admin set remoteModels in the LLMQuota of {namespace}, or name a local model",
    Reason.SUSPENDED: "headrace resume {name} -n {namespace}, or set spec.suspend to false",
    Reason.CIRCUIT_OPEN: "wait: the model tries its provider again by itself",
    Reason.RATE_LIMITED: "wait: requests go on when the provider's limit allows; see spec.remote.limits",
    Reason.PROVIDER_OVERLOADED: "wait: the model tries its provider again by itself",
    Reason.PROVIDER_UNREACHABLE: "wait; if it lasts look at the provider, its DNS name and the network's way to it",
    Reason.PROVIDER_QUOTA_EXHAUSTED: "raise the budget at the provider; the task goes on by itself",
    Reason.CREDENTIALS_REFUSED: "put a valid key into the Secret of LLMModel {model_name} in {model_namespace}",
    Reason.CREDENTIALS_NOT_FOUND: "create the Secret of LLMModel {model_name} in {model_namespace}, with a key in it",
    Reason.HOST_NOT_ALLOWED: "do what the condition Ready of LLMModel {model_name} in {model_namespace} says",
    Reason.REMOTE_MODEL_NOT_FOUND: "create an LLMModel with a spec.remote.model that the provider knows",
    Reason.WAITING_FOR_GPU: "free a GPU or add a node that has one",
}

_ELSEWHERE: Final = (
    "create the LLMModel with a spec.sharing that admits namespace {namespace}; the chart's sharing.modelNamespaces "
    "has to name {model_namespace} before that, or the task fails as ModelNotShared"
)
_LABEL: Final = "kubectl label --overwrite configmap {input_name} -n {namespace} headrace.dev/input=true"
_INPUTS: Final = (
    (
        "does not exist",
        "kubectl create configmap {input_name} -n {namespace} --from-file={input_key}=FILE, then " + _LABEL,
    ),
    ("lacks the label", _LABEL),
    ("holds no text", "kubectl edit configmap {input_name} -n {namespace}: put the text under data.{input_key}"),
)
"""By what the operator's message says is missing."""
_LOOK_NOW: Final = (
    "; it is looked for again within 5 minutes, and at once when the task is edited, for example to another priority: "
    'kubectl patch llmtask {name} -n {namespace} --type merge -p \'{{"spec": {{"priority": 1}}}}\''
)


def explain(task: TaskFacts, model: Seen[LLMModel], quota: Seen[LLMQuota]) -> list[Link]:
    """The chain; of a task that ended, runs or is suspended the first link alone."""
    first = _task(task)
    if task.settled:
        return [first]
    links = [first, _quota(task, quota), _window(task, model), _model(task, model), _placement(task, model)]
    return [link for link in links if link is not None]


def since(task: TaskFacts) -> str | None:
    """Since when the task is where it is, as far as its object tells."""
    status = task.status
    if status.outcome is not None:
        return status.completion_time
    if status.phase is TaskPhase.SUSPENDED:
        return status.suspend_time
    if status.phase is TaskPhase.RUNNING:
        running = find_condition(status.conditions, "Running")
        return running.last_transition_time if running is not None else status.start_time
    return status.accept_time or task.created


def _link(task: TaskFacts, about: About, name: str, reason: str, message: str, holds: bool | None) -> Link:
    # A model's own reasons come with what to do; where to look for more is the same for all.
    usual = REMEDIES[Reason.MODEL_NOT_READY] if about in (About.MODEL, About.PLACEMENT) else ""
    remedy = (_special(task, reason, message) or REMEDIES.get(reason, usual)) if holds else ""
    return Link(about, name, str(reason), message, remedy.format_map(vars(task)), holds)


def _special(task: TaskFacts, reason: str, message: str) -> str:
    """What depends on more than the reason."""
    if reason == Reason.MODEL_NOT_FOUND and task.model_namespace != task.namespace:
        return _ELSEWHERE
    if reason == Reason.INPUT_NOT_FOUND:
        return next((remedy for words, remedy in _INPUTS if words in message), _INPUTS[0][1]) + _LOOK_NOW
    return ""


def _task(task: TaskFacts) -> Link:
    status, name = task.status, f"{task.namespace}/{task.name}"
    reason, message = status.reason or "", status.message or ""
    if status.outcome is not None:
        failed = status.outcome is Outcome.FAILED
        remedy = f"headrace dlq show {task.name} -n {task.namespace}" if failed else ""
        return Link(About.TASK, name, reason or status.outcome, message or f"ended as {status.outcome}", remedy)
    if status.attempt is None:
        told = "the operator has not looked at it yet"
        remedy = "if this lasts: does the operator run, and does it serve this namespace (operator.watchNamespaces)?"
        return Link(About.TASK, name, "NotAccepted", told, remedy, True)
    if task.cancel:
        return Link(About.TASK, name, reason, "cancellation is under way", holds=False)
    if status.phase is TaskPhase.RUNNING:
        pod = status.runner.pod if status.runner is not None else None
        return Link(About.TASK, name, Reason.RUNNING, f"attempt {status.attempt} runs" + (f" on {pod}" if pod else ""))
    if status.phase is TaskPhase.SUSPENDED:
        return _link(task, About.TASK, name, Reason.SUSPENDED, message or "spec.suspend is true", True)
    return _link(task, About.TASK, name, reason or str(status.phase), message, True)


def _quota(task: TaskFacts, quota: Seen[LLMQuota]) -> Link:
    name, exceeded = f"{task.namespace}/{QUOTA_NAME}", task.status.reason == Reason.QUOTA_EXCEEDED
    if task.status.reason in (Reason.BUDGET_EXHAUSTED, Reason.REMOTE_NOT_ALLOWED):
        return _link(task, About.QUOTA, name, task.status.reason, task.status.message or "", True)
    if quota.object is None:
        if exceeded:
            told = task.status.message or quota.unread or "the chart's default is used up"
            return _link(task, About.QUOTA, name, Reason.QUOTA_EXCEEDED, told, True)
        if quota.unread:
            return _link(task, About.QUOTA, name, "NotReadable", quota.unread, None)
        told = "the namespace has no LLMQuota: the chart's bounds count"
        return Link(About.QUOTA, name, "NoQuota", told)
    spec, status = quota.object.spec, quota.object.status
    used = [
        f"{what} {'?' if n is None else n}" + (f" of {most}" if most is not None else "")
        for what, n, most in (
            (
                "handed out",
                None if status is None else (status.queued or 0) + (status.running or 0),
                spec.max_queued_tasks,
            ),
            ("running", None if status is None else status.running or 0, spec.max_running_tasks),
        )
    ]
    reason = Reason.QUOTA_EXCEEDED if exceeded else "WithinQuota"
    return _link(task, About.QUOTA, name, reason, ", ".join(used), exceeded)


def _window(task: TaskFacts, model: Seen[LLMModel]) -> Link:
    status = task.status
    if status.reason == Reason.QUEUE_FULL:
        return _link(task, About.WINDOW, task.model, Reason.QUEUE_FULL, status.message or "the queue is full", True)
    if status.phase is not TaskPhase.QUEUED:
        return Link(About.WINDOW, task.model, "NotHandedOut", "it is not in the model's queue", holds=None)
    if status.reason == Reason.RETRY_BACKOFF:
        told = f"attempt {status.attempt} waits for its time after a failed one"
        return _link(task, About.WINDOW, task.model, Reason.RETRY_BACKOFF, told, True)
    serves = None if model.object is None else _is_available(model.object)
    return _link(
        task, About.WINDOW, task.model, Reason.QUEUED, f"attempt {status.attempt} is in the model's queue", serves
    )


def _model(task: TaskFacts, seen: Seen[LLMModel]) -> Link:
    model = seen.object
    if model is None:
        if seen.unread:
            return _link(task, About.MODEL, task.model, "NotReadable", seen.unread, None)
        return _link(task, About.MODEL, task.model, Reason.MODEL_NOT_FOUND, "there is no such LLMModel", True)
    if model.wanted_replicas == 0:
        return _at_zero(task, model)
    available, ready = _condition(model, "Available"), _condition(model, "Ready")
    if available is not None and available.status is ConditionStatus.TRUE:
        replicas = model.status.ready_replicas if model.status is not None else None
        return Link(
            About.MODEL, task.model, available.reason, f"{replicas or '?'} of {model.wanted_replicas} runners serve"
        )
    # A model that has served stays Ready; then Available says what keeps it.
    telling = available if ready is None or ready.status is ConditionStatus.TRUE else ready
    if telling is None:
        return _link(task, About.MODEL, task.model, Reason.MODEL_LOADING, "the operator has not looked at it yet", True)
    return _link(task, About.MODEL, task.model, telling.reason, telling.message, True)


def _at_zero(task: TaskFacts, model: LLMModel) -> Link:
    if not model.spec.scales_itself:
        return _link(task, About.MODEL, task.model, Reason.MODEL_SCALED_TO_ZERO, "spec.replicas is 0", True)
    planned = model.status.scaling if model.status is not None else None
    if planned is not None and planned.reason in NO_GPU:
        return _link(task, About.MODEL, task.model, Reason.WAITING_FOR_GPU, planned.message, True)
    return _link(
        task, About.MODEL, task.model, Reason.MODEL_LOADING, "it is at zero replicas, and is being started", True
    )


def _placement(task: TaskFacts, seen: Seen[LLMModel]) -> Link | None:
    if seen.object is None:
        return None
    placed = _condition(seen.object, "Placed")
    if placed is None:
        return Link(About.PLACEMENT, task.model, "NoPods", "the model has no runner pods at the moment", holds=None)
    # One pod that finds no node keeps nothing, while another one serves.
    holds = placed.status is ConditionStatus.FALSE and not _is_available(seen.object)
    return _link(task, About.PLACEMENT, task.model, placed.reason, placed.message, holds)


def _is_available(model: LLMModel) -> bool:
    condition = _condition(model, "Available")
    return condition is not None and condition.status is ConditionStatus.TRUE


def _condition(model: LLMModel, type_: str) -> Condition | None:
    return find_condition(model.status.conditions, type_) if model.status is not None else None
