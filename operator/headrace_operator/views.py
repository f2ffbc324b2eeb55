"""Bodies from the API server and reports from the bus, read into what decisions look at.

Only what is needed is kept: prompts, schemas and results stay in the body, which nobody holds on to.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from headrace_bus import ENVELOPE_MAX_BYTES
from headrace_crds.base import GROUP, ApiModel
from headrace_crds.cost import Spend, spend_of
from headrace_crds.model import Breaker, EngineInfo, LLMModel
from headrace_crds.names import LABEL_COMPONENT, LABEL_MODEL, WEIGHTS_COMPONENT, assigned_model
from headrace_crds.quota import LLMQuota
from headrace_crds.result import Usage
from headrace_crds.task import LLMTask
from headrace_operator.decide import untrusted, webhook
from headrace_operator.decide.acceptance import escaped_bytes
from headrace_operator.decide.children import ANNOTATION_SPEC_GENERATION, ANNOTATION_SPEC_HASH
from headrace_operator.decide.clocks import milliseconds
from headrace_operator.decide.nodes import NodeView, Taint
from headrace_operator.decide.pod import WEIGHTS_VOLUME
from headrace_operator.decide.snapshots import (
    ContainerView,
    DeploymentView,
    FetchView,
    JobView,
    Ownership,
    PodView,
    ProviderView,
    Report,
)
from headrace_operator.decide.weights_job import ANNOTATION_WEIGHTS, ANNOTATION_WEIGHTS_TRIES
from headrace_operator.errors import ObjectInvalid
from headrace_operator.refs import ModelRef, TaskRef, version_of

T = TypeVar("T", bound=ApiModel)
_MODEL_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?")
"""As the LLMModel's rules have it."""
INTEGER_DIGITS: Final = 18
"""Of a number in an annotation: it fits 64 bits, and Python converts no number of more than 4,300 digits."""
_SOURCES: Final = frozenset({"persistentVolumeClaim", "hostPath", "image"})
"""Of a volume of weights."""
ENTRY_OVERHEAD_BYTES: Final = 1024
"""What Redis keeps of a task besides its input: ids, parameters, its places in the queue's indexes."""


@dataclass(frozen=True, slots=True)
class TaskView:
    """What is remembered of a task between two looks: a few hundred bytes."""

    ref: TaskRef
    resource_version: str
    phase: str
    attempt: int
    """0 while the task is not accepted."""
    reason: str
    message: str
    finished: bool
    behind: bool
    """Finished, and edited after the generation that the status tells of."""
    deleting: bool
    completed_ms: int = 0
    """When it ended; 0 while it is open."""
    accepted_ms: int = 0
    """Of a finished task; 0 where that is not to be read."""
    ttl_seconds: int | None = None
    """Of a finished task: how long it is kept."""
    owes: str = ""
    """The host that its webhook is still to reach; empty: none."""
    spent: Spend | None = None
    """Of a finished task: what its final attempt took; None where the object tells no usage."""
    created_ms: int = 0
    priority: int = 0
    input_bytes: int = 0
    """What it takes in Redis, as far as the object tells: what comes from elsewhere counts as large as it may be."""

    @property
    def version(self) -> int:
        return version_of(self.resource_version)


def task_ref(body: Mapping[str, Any]) -> TaskRef:
    """By the model that the task is for at present: it changes when the task falls back."""
    metadata = body["metadata"]
    namespace, named = metadata["namespace"], (body.get("spec") or {}).get("modelRef") or {}
    model = str(named.get("namespace") or namespace), str(named.get("name", ""))
    assigned = assigned_model(str((body.get("status") or {}).get("assignedModel") or ""))
    return TaskRef(namespace, metadata["name"], metadata["uid"], ModelRef(*(assigned or model)))


def task_view(body: Mapping[str, Any]) -> TaskView:
    metadata, status = body["metadata"], body.get("status") or {}
    finished = status.get("outcome") is not None
    return TaskView(
        ref=task_ref(body),
        resource_version=metadata["resourceVersion"],
        phase=status.get("phase") or "",
        attempt=status.get("attempt") or 0,
        reason="" if finished else status.get("reason") or "",
        message="" if finished else status.get("message") or "",
        finished=finished,
        behind=finished and (status.get("observedGeneration") or 0) < (metadata.get("generation") or 0),
        deleting=metadata.get("deletionTimestamp") is not None,
        completed_ms=milliseconds(status.get("completionTime")) or 0 if finished else 0,
        accepted_ms=milliseconds(status.get("acceptTime")) or 0 if finished else 0,
        ttl_seconds=(body.get("spec") or {}).get("ttlSecondsAfterFinished") if finished else None,
        owes=webhook.owes(body),
        spent=_spent(status.get("usage")) if finished else None,
        created_ms=milliseconds(metadata.get("creationTimestamp")) or 0,
        priority=(body.get("spec") or {}).get("priority") or 0,
        input_bytes=0 if finished else _input_bytes(body.get("spec") or {}),
    )


def _spent(usage: Any) -> Spend | None:
    """None where it does not read."""
    try:
        return None if usage is None else spend_of(Usage.model_validate(usage))
    except ValidationError:
        return None


def _input_bytes(spec: Mapping[str, Any]) -> int:
    if spec.get("inputFrom") is not None:
        return ENVELOPE_MAX_BYTES + ENTRY_OVERHEAD_BYTES
    output = spec.get("output") or {}
    texts = [spec.get("prompt"), *(output.get(name) for name in ("jsonSchema", "grammar", "regex"))]
    texts += output.get("choice") or []
    texts += (spec.get("embed") or {}).get("input") or []
    for message in spec.get("messages") or []:
        texts.append(message.get("content"))
        texts += [part.get("text") for part in message.get("contentParts") or []]
        texts += [call.get("arguments") for call in message.get("toolCalls") or []]
    texts += [tool.get(name) for tool in spec.get("tools") or [] for name in ("description", "parameters")]
    return ENTRY_OVERHEAD_BYTES + escaped_bytes([str(text) for text in texts if text])


def parse_task(body: Mapping[str, Any]) -> LLMTask:
    """Raises ObjectInvalid."""
    return _parse(LLMTask, body)


def parse_quota(body: Mapping[str, Any]) -> LLMQuota:
    """Raises ObjectInvalid."""
    return _parse(LLMQuota, body)


def parse_model(body: Mapping[str, Any]) -> LLMModel:
    """Raises ObjectInvalid."""
    return _parse(LLMModel, body)


def _parse(kind: type[T], body: Mapping[str, Any]) -> T:
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        places = ", ".join(".".join(str(part) for part in each["loc"]) for each in error.errors(include_input=False))
        raise ObjectInvalid(f"{kind.__name__} does not read: {places}"[:500]) from None


def labels_of(body: Mapping[str, Any]) -> dict[str, str]:
    return dict(body["metadata"].get("labels") or {})


def model_of(body: Mapping[str, Any]) -> ModelRef | None:
    """The model that a runner object belongs to, by its label; None when no model can have that name."""
    metadata = body["metadata"]
    name = str((metadata.get("labels") or {}).get(LABEL_MODEL, ""))
    return ModelRef(metadata["namespace"], name) if _MODEL_NAME.fullmatch(name) else None


def is_owned_by(body: Mapping[str, Any], ref: ModelRef) -> bool:
    """Whether its controller is a model of that name, in whatever incarnation."""
    owners = body["metadata"].get("ownerReferences") or []
    return any(
        owner.get("controller")
        and str(owner.get("apiVersion", "")).startswith(f"{GROUP}/")
        and (owner.get("kind"), owner.get("name")) == ("LLMModel", ref.name)
        for owner in owners
    )


def deployment_view(body: Mapping[str, Any]) -> DeploymentView:
    metadata = body["metadata"]
    annotations = metadata.get("annotations") or {}
    conditions = (body.get("status") or {}).get("conditions") or []
    refused = [c for c in conditions if c.get("type") == "ReplicaFailure" and c.get("status") == "True"]
    return DeploymentView(
        name=metadata["name"],
        namespace=metadata["namespace"],
        generation=int(metadata.get("generation") or 0),
        owner_uid=controller_uid(metadata),
        spec_hash=annotations.get(ANNOTATION_SPEC_HASH, ""),
        spec_generation=_integer(annotations.get(ANNOTATION_SPEC_GENERATION)),
        replicas=int((body.get("spec") or {}).get("replicas") or 0),
        replica_failure=str(refused[0].get("message", "")) if refused else "",
        weights_dropped=_weights_dropped(body),
    )


def _weights_dropped(body: Mapping[str, Any]) -> bool:
    """There is an engine, and no volume for its weights."""
    pod = ((body.get("spec") or {}).get("template") or {}).get("spec") or {}
    mounted = any(v.get("name") == WEIGHTS_VOLUME and _SOURCES & set(v) for v in pod.get("volumes") or [])
    return not mounted and any(c.get("name") == "engine" for c in pod.get("containers") or [])


def controller_uid(metadata: Mapping[str, Any]) -> str:
    return next((str(o.get("uid")) for o in metadata.get("ownerReferences") or [] if o.get("controller")), "")


def pod_view(body: Mapping[str, Any]) -> PodView:
    metadata, status = body["metadata"], body.get("status") or {}
    conditions = {c.get("type"): c for c in status.get("conditions") or []}
    placed = conditions.get("PodScheduled")
    return PodView(
        name=metadata["name"],
        namespace=metadata["namespace"],
        spec_generation=_integer((metadata.get("annotations") or {}).get(ANNOTATION_SPEC_GENERATION)),
        phase=status.get("phase") or "Pending",
        created_ms=milliseconds(metadata.get("creationTimestamp")) or 0,
        scheduled=None if placed is None else placed.get("status") == "True",
        scheduling_message=(placed or {}).get("message") or "",
        scheduled_changed_ms=milliseconds((placed or {}).get("lastTransitionTime")),
        ready=(conditions.get("Ready") or {}).get("status") == "True",
        ready_changed_ms=milliseconds((conditions.get("Ready") or {}).get("lastTransitionTime")),
        terminating=metadata.get("deletionTimestamp") is not None,
        terminating_ms=milliseconds(metadata.get("deletionTimestamp")),
        node=str((body.get("spec") or {}).get("nodeName") or ""),
        message=" ".join(part for part in (status.get("reason"), status.get("message")) if part),
        containers=tuple(_container(each) for each in status.get("containerStatuses") or []),
        owner_uid=controller_uid(metadata),
        fetches=labels_of(body).get(LABEL_COMPONENT) == WEIGHTS_COMPONENT,
    )


def _container(status: Mapping[str, Any]) -> ContainerView:
    state = status.get("state") or {}
    waits = state.get("waiting") or {}
    return ContainerView(
        name=str(status.get("name", "")),
        waiting_reason=waits.get("reason") or "",
        waiting_message=waits.get("message") or "",
        started_ms=milliseconds((state.get("running") or {}).get("startedAt")),
        restarts=int(status.get("restartCount") or 0),
        last_words=str((state.get("terminated") or {}).get("message") or ""),
    )


def job_view(body: Mapping[str, Any], ownership: Ownership) -> JobView:
    metadata, status = body["metadata"], body.get("status") or {}
    annotations = metadata.get("annotations") or {}
    ended = {c.get("type"): c for c in status.get("conditions") or [] if c.get("status") == "True"}
    end = ended.get("Complete") or ended.get("Failed") or {}
    return JobView(
        uid=metadata["uid"],
        ownership=ownership,
        made_of=annotations.get(ANNOTATION_WEIGHTS, ""),
        tries=_integer(annotations.get(ANNOTATION_WEIGHTS_TRIES)),
        created_ms=milliseconds(metadata.get("creationTimestamp")) or 0,
        complete="Complete" in ended,
        failed="Failed" in ended,
        ended_ms=milliseconds(end.get("lastTransitionTime")) or 0,
        deleting=metadata.get("deletionTimestamp") is not None,
    )


def report(document: Mapping[str, Any]) -> Report | None:
    """A runner's report; None when it is none: whoever holds a runner's credentials may write anything."""
    try:
        engine, reason = document.get("engine"), document.get("reason")
        return Report(
            state=str(document["state"]),
            reason=untrusted.reason(str(reason)) if reason else "",
            message=untrusted.message(str(document.get("message") or "")),
            since_ms=untrusted.milliseconds(document["sinceMs"]) if document.get("sinceMs") else None,
            restarts=untrusted.number(document.get("restarts") or 0),
            generation=untrusted.number(document.get("generation") or 0),
            busy=untrusted.number(document.get("busy") or 0),
            engine=_engine(engine) if engine else None,
            provider=_provider(document.get("provider")),
            fetch=_fetch(document.get("weights")),
            commit_forbidden=document.get("commitForbidden") is True,
        )
    except (KeyError, TypeError, ValueError, RecursionError):
        return None


def _engine(document: Mapping[str, Any]) -> EngineInfo:
    """Raises ValueError. The numbers must fit the API server's 64 bits."""
    found = EngineInfo.model_validate(document)
    harmless = {name: _harmless(value) for name, value in found if value is not None}
    return found.model_copy(update=harmless)


def _provider(document: object) -> ProviderView | None:
    """What does not read tells nothing: a report is worth its state all the same."""
    if not isinstance(document, Mapping):
        return None
    reason, wait, concurrency = (document.get(name) for name in ("reason", "retryInSeconds", "concurrency"))
    try:
        return ProviderView(
            breaker=Breaker(str(document.get("breaker"))),
            reason=untrusted.reason(str(reason)) if reason else "",
            message=untrusted.message(str(document.get("message") or "")),
            retry_seconds=untrusted.number(wait) if wait is not None else 0,
            concurrency=untrusted.number(concurrency) if concurrency is not None else None,
        )
    except ValueError:
        return None


def _fetch(document: object) -> FetchView | None:
    """As `_provider`."""
    if not isinstance(document, Mapping):
        return None

    def optional(name: str) -> int | None:
        return None if document.get(name) is None else untrusted.number(document[name])

    try:
        return FetchView(
            done_bytes=untrusted.number(document.get("doneBytes")),
            total_bytes=optional("totalBytes"),
            bytes_per_second=optional("bytesPerSecond"),
            eta_seconds=optional("etaSeconds"),
        )
    except ValueError:
        return None


def _harmless(value: int | str | list[str]) -> int | str | list[str]:
    if isinstance(value, list):
        return [untrusted.message(each) for each in value]
    return untrusted.number(value) if isinstance(value, int) else untrusted.message(value)


def _integer(text: str | None) -> int:
    return int(text) if text and len(text) <= INTEGER_DIGITS and text.isascii() and text.isdigit() else 0


def node_view(body: Mapping[str, Any]) -> NodeView:
    metadata, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in status.get("conditions") or [])
    taints = [
        Taint(str(t.get("key")), str(t.get("value") or ""), str(t.get("effect"))) for t in spec.get("taints") or []
    ]
    return NodeView(
        name=metadata["name"],
        labels=labels_of(body),
        taints=tuple(taints),
        takes_pods=ready and not spec.get("unschedulable"),
        allocatable=_extended(status.get("allocatable") or {}),
    )


def taken_resources(body: Mapping[str, Any]) -> dict[str, int]:
    """The extended resources that a pod takes; nothing once it has ended. They have no init containers' overlap to
    speak of: what those ask for beyond the others counts, too.
    """
    if (body.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        return {}
    spec, taken, first = body.get("spec") or {}, Counter[str](), Counter[str]()
    for container in spec.get("containers") or []:
        taken.update(_extended((container.get("resources") or {}).get("requests") or {}))
    for container in spec.get("initContainers") or []:
        first |= Counter(_extended((container.get("resources") or {}).get("requests") or {}))
    return dict(taken | first)


def _extended(amounts: Mapping[str, Any]) -> dict[str, int]:
    """Those with a domain in their name, which are whole numbers; hugepages and Kubernetes' own have none."""
    return {name: _integer(str(amount)) for name, amount in amounts.items() if "/" in name}
