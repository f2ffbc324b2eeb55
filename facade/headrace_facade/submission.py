"""Requests as LLMTask objects, and what the API server says of the object in the request's words.

Decides nothing about execution. Only what an object cannot express is refused here.
"""

import json
import re
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, Final

from pydantic.alias_generators import to_camel, to_snake

from headrace_crds import GROUP, VERSION, LLMTask
from headrace_facade.errors import FieldProblem, Invalid
from headrace_facade.idempotency import ANNOTATION_BODY, fingerprint, task_name
from headrace_facade.kube import KubeObject
from headrace_facade.schema import CreateTask, SamplingParameters

METADATA_PREFIX: Final = f"metadata.{GROUP}/"
"""Annotations under it are the caller's own words."""
METADATA_LIMIT_BYTES: Final = 16 * 1024
_METADATA_KEY: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", re.ASCII)
_SIX_DECIMALS: Final = Decimal("0.000001")
_SECONDS: Final = (
    ("timeout_seconds", "activeDeadlineSeconds"),
    ("queue_deadline_seconds", "queueDeadlineSeconds"),
    ("attempt_timeout_seconds", "attemptTimeoutSeconds"),
)
# Where a request's field went in the object, longest first; what is not here has the same name in camelCase.
_PLACES: Final = (
    ("spec.modelRef.namespace", "model"),
    ("spec.modelRef.name", "model"),
    ("spec.modelRef", "model"),
    ("spec.output.jsonSchema", "json_schema"),
    ("spec.output", "json_schema"),
    ("spec.activeDeadlineSeconds", "timeout_seconds"),
    ("spec.ttlSecondsAfterFinished", "ttl_seconds"),
    ("spec.webhook.url", "webhook_url"),
    ("spec.webhook.secretRef.name", "webhook_secret.name"),
    ("spec.webhook.secretRef.key", "webhook_secret.key"),
    ("spec.webhook.secretRef", "webhook_secret"),
    ("spec.webhook", "webhook_url"),
    ("metadata.annotations", "metadata"),
    ("metadata.generateName", "name"),
    ("metadata.name", "name"),
    ("metadata.namespace", "namespace"),
)


def manifest(
    request: CreateTask, *, namespace: str = "default", key: str | None = None, default_ttl_seconds: int | None = None
) -> KubeObject:
    """The LLMTask that a request asks for. With an idempotency `key` its name follows from the key. Raises Invalid."""
    spec: dict[str, Any] = {"modelRef": model_ref(request.model)}
    if request.prompt is not None:
        spec["prompt"] = request.prompt
    if request.messages is not None:
        spec["messages"] = [{"role": m.role, "content": m.content} for m in request.messages]
    if request.parameters is not None:
        spec["parameters"] = _parameters(request.parameters)
    schema = None if request.json_schema is None else schema_text(request.json_schema)
    if schema is not None:
        spec["output"] = {"jsonSchema": schema}
    if request.priority is not None:
        spec["priority"] = request.priority
    spec |= _lifetime(request, default_ttl_seconds)
    if request.suspend is not None:
        spec["suspend"] = request.suspend
    if (webhook := _webhook(request)) is not None:
        spec["webhook"] = webhook
    metadata = _metadata(request, namespace, key, schema)
    return {"apiVersion": f"{GROUP}/{VERSION}", "kind": LLMTask.__name__, "metadata": metadata, "spec": spec}


def model_ref(model: str) -> dict[str, str]:
    """`name`, or `namespace/name` of a model that is shared. The API server judges both parts."""
    namespace, slash, name = model.partition("/")
    return {"name": name, "namespace": namespace} if slash else {"name": model}


def _metadata(request: CreateTask, namespace: str, key: str | None, schema: str | None) -> dict[str, Any]:
    if key is not None and request.name is not None:
        raise Invalid.of([FieldProblem("name", "cannot be chosen with an idempotency key: leave one of them out")])
    annotations = _annotations(request.metadata or {})
    if key is not None:
        annotations[ANNOTATION_BODY] = fingerprint(request, schema)
        naming = {"name": task_name(namespace, key)}
    else:
        # The API server completes a prefix; it refuses an empty name.
        naming = {"generateName": "task-"} if request.name is None else {"name": request.name}
    return {**naming, "annotations": annotations} if annotations else naming


def _annotations(members: dict[str, str]) -> dict[str, str]:
    problems = [
        FieldProblem("metadata", f"{name[:64]!r} cannot be a name: 1 to 63 letters, digits, '-', '_' and '.'")
        for name in members
        if not _METADATA_KEY.fullmatch(name)
    ]
    size_bytes = sum(len(name) + len(text.encode()) for name, text in members.items())
    if size_bytes > METADATA_LIMIT_BYTES:
        told = f"names and texts have {size_bytes} bytes in UTF-8, {METADATA_LIMIT_BYTES} are allowed: shorten them"
        problems.append(FieldProblem("metadata", told))
    if problems:
        raise Invalid.of(problems)
    return {METADATA_PREFIX + name: text for name, text in members.items()}


def _lifetime(request: CreateTask, default_ttl_seconds: int | None) -> dict[str, int]:
    members = {to: seconds for field, to in _SECONDS if (seconds := getattr(request, field)) is not None}
    # An explicit null keeps the object.
    ttl = request.ttl_seconds if "ttl_seconds" in request.model_fields_set else default_ttl_seconds
    return members if ttl is None else {**members, "ttlSecondsAfterFinished": ttl}


def _webhook(request: CreateTask) -> dict[str, Any] | None:
    if request.webhook_url is None and request.webhook_secret is None:
        return None
    if request.webhook_url is None or request.webhook_secret is None:
        missing = "webhook_url" if request.webhook_url is None else "webhook_secret"
        raise Invalid.of([FieldProblem(missing, "webhook_url and webhook_secret go together: add this one")])
    secret = request.webhook_secret
    return {"url": request.webhook_url, "secretRef": {"name": secret.name, "key": secret.key}}


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
    problems = dict.fromkeys(FieldProblem(request_field(p.field), _told(p.message)) for p in error.problems)
    return Invalid.of(list(problems)) if problems else error


def _told(message: str) -> str:
    # A request has no inputFrom.
    return message.replace("prompt, messages and inputFrom", "prompt and messages")
