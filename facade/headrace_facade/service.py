"""Tasks between HTTP and objects: translates both ways and decides nothing about execution."""

import json
import re
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, Final

from pydantic.alias_generators import to_camel, to_snake

from headrace_crds import GROUP, VERSION, LLMTask
from headrace_crds.base import ObjectMeta
from headrace_crds.task import LLMTaskStatus, Outcome, TaskPhase
from headrace_facade.chunks import Cursor, Lists, pages
from headrace_facade.errors import FieldProblem, Invalid, NotFound
from headrace_facade.kube import KubeClient, KubeObject, Token
from headrace_facade.schema import (
    CreateTask,
    SamplingParameters,
    Task,
    TaskList,
    TaskResult,
    TaskStatus,
    TaskSummary,
    TaskTimings,
    TaskUsage,
)

_ID: Final = re.compile(r"([a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?)\.([a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?)")
_SIX_DECIMALS: Final = Decimal("0.000001")
_OUTCOMES: Final = {
    Outcome.COMPLETE: TaskStatus.COMPLETED,
    Outcome.FAILED: TaskStatus.FAILED,
    Outcome.CANCELLED: TaskStatus.CANCELLED,
}
_PHASES: Final = {
    TaskPhase.SUSPENDED: TaskStatus.CREATED,
    TaskPhase.WAITING: TaskStatus.CREATED,
    TaskPhase.QUEUED: TaskStatus.QUEUED,
    TaskPhase.RUNNING: TaskStatus.PROCESSING,
    TaskPhase.COMPLETE: TaskStatus.COMPLETED,
    TaskPhase.FAILED: TaskStatus.FAILED,
    TaskPhase.CANCELLED: TaskStatus.CANCELLED,
}
# Where a request's field went in the object, longest first; what is not here has the same name in camelCase.
_PLACES: Final = (
    ("spec.modelRef.name", "model"),
    ("spec.modelRef", "model"),
    ("spec.output.jsonSchema", "json_schema"),
    ("spec.output", "json_schema"),
    ("metadata.generateName", "name"),
    ("metadata.name", "name"),
    ("metadata.namespace", "namespace"),
)


class TaskService:
    """Raises FacadeError."""

    def __init__(self, kube: KubeClient, default_namespace: str) -> None:
        self._kube = kube
        self._default_namespace = default_namespace
        self._lists = Lists()

    async def create(self, request: CreateTask, token: Token) -> Task:
        namespace = request.namespace or self._default_namespace
        try:
            return to_task(await self._kube.create_task(namespace, manifest(request), token))
        except Invalid as error:
            raise in_request_words(error) from error

    async def get(self, task_id: str, token: Token) -> Task:
        """Raises NotFound for what cannot be an id, too: it names no task."""
        match = _ID.fullmatch(task_id)
        if match is None:
            raise NotFound("no such task: an id looks like namespace.name, as POST /api/v1/tasks returns it")
        return to_task(await self._kube.get_task(match[1], match[2], token))

    async def list(self, namespace: str | None, limit: int, continue_: str | None, token: Token) -> TaskList:
        cursor, summaries = Cursor(limit, continue_), []
        async with self._lists.slot():
            async for page in pages(self._kube, namespace or self._default_namespace, cursor, token):
                summaries += [to_summary(item) for item in page]
        return TaskList.model_validate(
            {"items": summaries, "continue": cursor.continue_, "remaining": cursor.remaining}
        )


def decimal_text(number: float) -> str:
    """A JSON number as the API's decimal string: 0.7 → "0.7", 1e-05 → "0.00001", 1.0 → "1"."""
    rounded = Decimal(repr(number)).quantize(_SIX_DECIMALS, ROUND_HALF_EVEN).normalize()
    return format(rounded if rounded else abs(rounded), "f")


def schema_text(schema: str | dict[str, Any]) -> str:
    """The schema as the JSON text that the object holds. Raises Invalid for what JSON cannot say."""
    if isinstance(schema, str):
        return schema
    try:
        text = json.dumps(schema, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        text.encode()
    except (ValueError, RecursionError) as error:
        reason = "is no JSON: it holds NaN, Infinity or half of a surrogate pair, or is nested too deeply"
        raise Invalid.of([FieldProblem("json_schema", reason)]) from error
    return text


def manifest(request: CreateTask) -> KubeObject:
    """The LLMTask that a request asks for."""
    spec: dict[str, Any] = {"modelRef": {"name": request.model}}
    if request.prompt is not None:
        spec["prompt"] = request.prompt
    if request.messages is not None:
        spec["messages"] = [{"role": m.role, "content": m.content} for m in request.messages]
    if request.parameters is not None:
        spec["parameters"] = _parameters(request.parameters)
    if request.json_schema is not None:
        spec["output"] = {"jsonSchema": schema_text(request.json_schema)}
    if request.priority is not None:
        spec["priority"] = request.priority
    # The API server completes a prefix; it refuses an empty name.
    metadata = {"generateName": "task-"} if request.name is None else {"name": request.name}
    return {"apiVersion": f"{GROUP}/{VERSION}", "kind": LLMTask.__name__, "metadata": metadata, "spec": spec}


def _parameters(parameters: SamplingParameters) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name, value in parameters.model_dump(exclude_none=True).items():
        if name == "stop":
            members[name] = [value] if isinstance(value, str) else value
        else:
            members[to_camel(name)] = decimal_text(value) if isinstance(value, float) else value
    return members


def request_field(path: str) -> str:
    """The request's word for a path in the object: spec.parameters.topP → parameters.top_p."""
    for place, field in _PLACES:
        if path == place or path.startswith((f"{place}.", f"{place}[")):
            return field
    if path in ("", "<nil>", "spec"):
        return ""
    return ".".join(to_snake(part) for part in path.removeprefix("spec.").split("."))


def in_request_words(error: Invalid) -> Invalid:
    """What the API server says of the object's fields, said of the request's."""
    problems = dict.fromkeys(FieldProblem(request_field(p.field), p.message) for p in error.problems)
    return Invalid.of(list(problems)) if problems else error


def task_status(status: LLMTaskStatus) -> TaskStatus:
    """The outcome decides; before it the phase; before that nobody has looked at the task."""
    if status.outcome is not None:
        return _OUTCOMES[status.outcome]
    return TaskStatus.CREATED if status.phase is None else _PHASES[status.phase]


def _summary(item: KubeObject, metadata: ObjectMeta, status: LLMTaskStatus) -> dict[str, Any]:
    spec = item["spec"]
    return {
        "task_id": f"{metadata.namespace}.{metadata.name}",
        "namespace": metadata.namespace,
        "name": metadata.name,
        "model": spec["modelRef"]["name"],
        "status": task_status(status),
        "reason": status.reason,
        "message": status.message,
        "priority": spec.get("priority", 0),
        "attempt": status.attempt,
        "retries": status.retries or 0,
        "created_at": metadata.creation_timestamp,
        "started_at": status.start_time,
        "completed_at": status.completion_time,
    }


def _read(item: KubeObject) -> tuple[ObjectMeta, LLMTaskStatus]:
    # Not LLMTask as a whole: a spec of a newer version must not keep its status from being read.
    return ObjectMeta.model_validate(item["metadata"]), LLMTaskStatus.model_validate(item.get("status") or {})


def to_summary(item: KubeObject) -> TaskSummary:
    return TaskSummary.model_validate(_summary(item, *_read(item)))


def to_task(item: KubeObject) -> Task:
    metadata, status = _read(item)
    return Task(
        **_summary(item, metadata, status),
        result=TaskResult.model_validate(status.result.model_dump()) if status.result else None,
        usage=TaskUsage.model_validate(status.usage.model_dump()) if status.usage else None,
        timings=TaskTimings(
            queued_ms=status.timings.queued_millis,
            first_token_ms=status.timings.first_token_millis,
            generation_ms=status.timings.generation_millis,
        )
        if status.timings
        else None,
    )
