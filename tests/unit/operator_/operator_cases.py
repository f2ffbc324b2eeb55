"""Builders for the operator's decision tests, with defaults for what a test is not about; and an applier in memory."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from headrace_crds.model import LLMModel, LLMModelSpec
from headrace_crds.outcome import timestamp
from headrace_crds.parked import Parked
from headrace_crds.task import LLMTask, Timings, Usage
from headrace_operator.decide.plans import TakeBack, TaskPlan
from headrace_operator.decide.snapshots import (
    DeploymentView,
    Held,
    ModelSnapshot,
    Place,
    PodView,
    Report,
    ReturnedDelivery,
    RunnerSettings,
    TaskSnapshot,
)
from headrace_operator.decide.task_status import SUSPENDED
from headrace_operator.refs import ModelRef, TaskRef

NOW_MS = 1_800_000_000_000
MODEL = ModelRef("team-a", "qwen")
TASK = TaskRef("team-a", "summary", "uid-1", MODEL)
NO_MODEL = object()

SCHEDULER_SAYS_GPU = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu. preemption: not helpful"


def condition(type_: str, status: str, reason: str, message: str = "", generation: int = 1) -> dict[str, Any]:
    return {
        "type": type_,
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": generation,
        "lastTransitionTime": "2027-01-15T08:00:00Z",
    }


def model(*conditions: dict[str, Any], replicas: int = 1, generation: int = 1, **status: Any) -> LLMModel:
    spec: dict[str, Any] = {
        "local": {"source": {"persistentVolumeClaim": {"claimName": "models", "path": "qwen.gguf"}}},
        "replicas": replicas,
    }
    spec["local"].update(status.pop("local", {}))
    return LLMModel.model_validate(
        {
            "metadata": {
                "name": MODEL.name,
                "namespace": MODEL.namespace,
                "uid": "model-uid",
                "resourceVersion": "7",
                "generation": generation,
            },
            "spec": spec,
            "status": {"conditions": list(conditions), **status} if conditions or status else None,
        }
    )


def gpu_model(*conditions: dict[str, Any], count: int = 1, **more: Any) -> LLMModel:
    return model(*conditions, local={"gpu": {"count": count}}, **more)


SERVING = model(condition("Ready", "True", "Serving"), condition("Available", "True", "Serving"))
LOADING = model(condition("Ready", "False", "LoadingWeights"), condition("Available", "False", "LoadingWeights"))
REMOTE = SERVING.model_copy(
    update={
        "spec": LLMModelSpec.model_validate(
            {"remote": {"provider": "OpenAICompatible", "model": "m", "baseURL": "https://llm.example.com/v1"}}
        )
    }
)
NAME_CONFLICT = model(condition("Ready", "False", "NameConflict", "Secret 'headrace-qwen' exists"))


def task_body(status: dict[str, Any] | None = None, *, generation: int = 1, **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": TASK.name,
            "namespace": TASK.namespace,
            "uid": TASK.uid,
            "resourceVersion": "100",
            "generation": generation,
            "creationTimestamp": "2027-01-15T07:59:00Z",
        },
        "spec": {"modelRef": {"name": MODEL.name}, "prompt": "a prompt", **spec},
        **({"status": status} if status is not None else {}),
    }


def task(status: dict[str, Any] | None = None, **more: Any) -> LLMTask:
    return LLMTask.model_validate(task_body(status, **more))


def queued(attempt: int = 1, *, reason: str = "Queued", phase: str = "Queued", **more: Any) -> dict[str, Any]:
    message = more.pop("message", f"queued for LLMModel {MODEL.name!r}")
    return {
        "phase": phase,
        "attempt": attempt,
        "retries": 0,
        "attempts": [],
        "reason": reason,
        "message": message,
        "observedGeneration": 1,
        "acceptTime": timestamp(NOW_MS - 60_000),
        "assignedModel": str(MODEL),
        "runner": {"serviceAccount": "team-a/headrace-qwen"},
        "conditions": [condition("Finished", "False", reason), condition("Ready", "False", reason)],
        **more,
    }


def waiting(attempt: int = 1, reason: str = "ModelNotFound") -> dict[str, Any]:
    status = queued(attempt, phase="Waiting", reason=reason)
    del status["assignedModel"], status["runner"]
    return status


def suspended(attempt: int = 1, *, since_seconds: int = 10, before: int = 0, **more: Any) -> dict[str, Any]:
    """Since so many seconds, after so many in earlier suspensions."""
    status = queued(attempt, phase="Suspended", reason="Suspended", message=SUSPENDED.message, **more)
    del status["assignedModel"], status["runner"]
    status["conditions"].append(condition("Suspended", "True", "Suspended", SUSPENDED.message))
    return {**status, "suspendTime": timestamp(NOW_MS - since_seconds * 1000), "suspendedSeconds": before}


def finished(attempt: int = 1, outcome: str = "Complete") -> dict[str, Any]:
    return {
        **queued(attempt, phase=outcome),
        "outcome": outcome,
        "completionTime": "2027-01-15T08:00:00Z",
        "reason": "Succeeded",
    }


def held(place: str, attempt: int = 1, returned: ReturnedDelivery | None = None) -> Held:
    return Held(attempt, Place(place), NOW_MS - 5_000, returned)


def came_back(how: str, attempt: int = 1, **more: Any) -> Held:
    delivery = {"worker": "headrace-qwen-abc", "claimed_ms": NOW_MS - 9_000, "returned_ms": NOW_MS - 100, **more}
    if how == "Failed":
        delivery = {"reason": "EngineError", "message": "decode failed", **delivery}
    return held("Returned", attempt, ReturnedDelivery(how=how, **delivery))  # type: ignore[arg-type]


def parked(text: str = "a long answer", finish_reason: Any = "Stop", **more: int) -> Parked:
    return Parked.of(
        text,
        finish_reason,
        None,
        Usage(prompt_tokens=3, completion_tokens=9),
        Timings(queued_millis=1, first_token_millis=2, generation_millis=3),
        claimed_ms=more.get("claimed_ms", NOW_MS - 9_000),
        completed_ms=more.get("completed_ms", NOW_MS - 1_000),
        pod="headrace-qwen-abc",
    )


def snapshot(
    task_: LLMTask | None, *, model: Any = SERVING, held: Held | None = None, jitter: float = 0.5, **more: Any
) -> TaskSnapshot:
    return TaskSnapshot(
        ref=TASK,
        now_ms=NOW_MS,
        task=task_,
        model=None if model is NO_MODEL else model,
        held=held,
        jitter=jitter,
        **more,
    )


def merged(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


@dataclass
class World:
    """Object and bus as the operator's writes leave them."""

    body: dict[str, Any] | None
    held: Held | None = None
    status_writes: int = 0
    enqueued: list[int] = field(default_factory=list)
    interrupted: list[str] = field(default_factory=list)
    created: list[str] = field(default_factory=list)
    placed_generation: int = 1
    """Of the object, by which the entry has its place in the queue."""
    answers: bool = False
    """Whether the holder of a lease gives it back when it is told to."""

    def snapshot(self, **more: Any) -> TaskSnapshot:
        if self.held is not None and self.held.returned is not None and self.held.returned.how == "Parked":
            more.setdefault("parked", parked())
        return snapshot(LLMTask.model_validate(self.body) if self.body is not None else None, held=self.held, **more)

    def apply(self, plan: TaskPlan, *, dies: bool = False) -> None:
        """As `apply_task` does, without resourceVersion: what a plan does twice it does here twice. `dies`: after the
        first of its writes.
        """
        for write in self._writes(plan):
            before = self.copy()
            write(plan)
            if dies and before != self:
                return

    def _writes(self, plan: TaskPlan) -> list[Callable[[TaskPlan], None]]:
        back = plan.take_back
        if back is not None and self._kept(back):
            return [self._create]
        status_first = [self._write_status, self._interrupt, self._enqueue]
        queue_first = [self._enqueue, self._write_status, self._interrupt]
        return [
            self._create,
            self._take_back,
            *(queue_first if plan.enqueue_first else status_first),
            self._remove,
        ]

    def _kept(self, back: TakeBack) -> bool:
        """As `withdraw` of the bus."""
        held = self.held
        if held is None or held.attempt < back.attempt:
            return False
        if back.from_holder:
            return (held.place, held.attempt) != (Place.LEASED, back.attempt)
        parked = held.returned is not None and held.returned.how == "Parked"
        return held.place is Place.LEASED or (parked and not (back.came_back and held.attempt == back.attempt))

    def _create(self, plan: TaskPlan) -> None:
        if plan.create is not None:
            self.created.append(plan.create["metadata"]["name"])

    def _take_back(self, plan: TaskPlan) -> None:
        if plan.take_back is not None:
            self.held = None

    def _write_status(self, plan: TaskPlan) -> None:
        if plan.status is not None and self.body is not None:
            self.body = {**self.body, "status": merged(self.body.get("status") or {}, plan.status)}
            self.status_writes += 1

    def _interrupt(self, plan: TaskPlan) -> None:
        if plan.interrupt is not None and self.held is not None and self.held.place is Place.LEASED:
            self.interrupted.append(plan.interrupt)
            if self.answers:
                self.held = came_back("Released", self.held.attempt, reason="Suspended")

    def _enqueue(self, plan: TaskPlan) -> None:
        wanted, waits = plan.enqueue, (Place.QUEUED, Place.DELAYED)
        if wanted is None:
            return
        if self.held is not None and self.held.attempt == wanted.attempt and self.held.place in waits:
            self.placed_generation = self.generation
        if self.held is None or self.held.attempt < wanted.attempt:
            place = (
                Place.DELAYED if wanted.not_before_ms is not None and wanted.not_before_ms > NOW_MS else Place.QUEUED
            )
            self.held = Held(wanted.attempt, place, NOW_MS)
            self.enqueued.append(wanted.attempt)
            self.placed_generation = self.generation

    def _remove(self, plan: TaskPlan) -> None:
        if plan.remove:
            self.held = None

    @property
    def generation(self) -> int:
        return int(self.body["metadata"]["generation"]) if self.body is not None else 0

    @property
    def attempt(self) -> int:
        return int(((self.body or {}).get("status") or {}).get("attempt") or 0)

    @property
    def status(self) -> dict[str, Any]:
        return (self.body or {}).get("status") or {}

    def copy(self) -> "World":
        return copy.deepcopy(self)


# Models

RUNNER = RunnerSettings(
    namespace="headrace-system",
    image="registry/headrace-runner:1",
    redis_address="redis://headrace-redis.headrace-system.svc:6379/0",
    resources={"engine": {"limits": {"memory": "4Gi"}}},
)


def pod(name: str = "pod-a", *, generation: int = 1, scheduled: bool | None = True, **more: Any) -> PodView:
    return PodView(
        name=name,
        namespace=MODEL.namespace,
        spec_generation=generation,
        phase=more.pop("phase", "Running" if scheduled else "Pending"),
        created_ms=NOW_MS - 60_000,
        scheduled=scheduled,
        scheduled_changed_ms=NOW_MS - 50_000,
        **more,
    )


def deployment(of: LLMModel, *, generation: int = 1, **more: Any) -> DeploymentView:
    from headrace_operator.decide.children import spec_hash

    return DeploymentView(
        name="headrace-qwen",
        namespace=MODEL.namespace,
        generation=1,
        owner_uid="model-uid",
        spec_hash=more.pop("spec_hash", spec_hash(of)),
        spec_generation=generation,
        **more,
    )


ENGINE = {"architecture": "llama", "contextTokens": 4096, "quantization": "Q4_1", "sizeBytes": 98_000_000}


def report(state: str, reason: str = "", message: str = "", **more: Any) -> Report:
    from headrace_crds.model import EngineInfo

    engine = EngineInfo.model_validate(ENGINE) if state == "Serving" else None
    return Report(
        state, reason, message, since_ms=NOW_MS - 4_000, generation=more.pop("generation", 1), engine=engine, **more
    )


def model_snapshot(of: LLMModel | None, **more: Any) -> ModelSnapshot:
    if of is not None:
        more.setdefault("deployment", deployment(of))
    return ModelSnapshot(ref=MODEL, now_ms=NOW_MS, model=of, runner=RUNNER, redis_password="s3cret", **more)


def summary(plan: TaskPlan) -> dict[str, Any]:
    """What a row of a decision table may state; the rest is checked by tests of its own."""
    status = plan.status or {}
    told: dict[str, Any] = {
        key: status[key] for key in ("phase", "attempt", "retries", "losses", "reason", "outcome") if key in status
    }
    if plan.take_back is not None:
        told["take_back"] = "from holder" if plan.take_back.from_holder else "unless leased"
    if plan.interrupt is not None:
        told["interrupt"] = plan.interrupt
    if plan.enqueue is not None:
        told["enqueue"] = plan.enqueue.attempt
        if plan.enqueue.not_before_ms is not None:
            told["delay"] = plan.enqueue.not_before_ms - NOW_MS
    if plan.remove:
        told["remove"] = True
    if status.get("attempts"):
        record = status["attempts"][-1]
        told["record"] = (record["number"], record["outcome"], record["reason"])
    return told


def conditions_of(status: Any) -> dict[str, tuple[str, str]]:
    return {c["type"]: (c["status"], c["reason"]) for c in (status or {}).get("conditions") or []}
