"""Submitting twice: an idempotency key becomes the object's name, so that the API server decides who was first.

Pure. The facade remembers nothing: the window is the object's lifetime.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any, Final

from headrace_crds import GROUP
from headrace_facade.errors import FieldProblem, Invalid
from headrace_facade.schema import CreateTask

ANNOTATION_BODY: Final = f"{GROUP}/idempotency-body"
"""On a task that was made with a key: digest of the request's body."""
HEADER: Final = "Idempotency-Key"
HEADER_REPLAYED: Final = "Idempotent-Replayed"
_KEY: Final = re.compile(r"[\x21-\x7e]([\x20-\x7e]{0,253}[\x21-\x7e])?", re.ASCII)
_HEX_DIGITS: Final = 40


def key_of(header: str | None, body: str | None) -> str | None:
    """The request's key, from whichever place has one. Raises Invalid."""
    if header is not None and body is not None and header != body:
        told = f"differs from the header {HEADER}: send one of them"
        raise Invalid.of([FieldProblem("idempotency_key", told)])
    key = body if header is None else header
    if key is not None and not _KEY.fullmatch(key):
        told = "needs 1 to 255 printable ASCII characters without a space at either end"
        raise Invalid.of([FieldProblem("idempotency_key" if header is None else HEADER, told)])
    return key


def one_header(values: Sequence[str]) -> None:
    """Raises Invalid when the header is there more than once: the caller may mean either."""
    if len(values) > 1:
        raise Invalid.of([FieldProblem(HEADER, f"is there {len(values)} times: send it once")])


def task_name(namespace: str, key: str) -> str:
    """The only name that this key can have in this namespace; the key itself is not told by it."""
    digest = hashlib.sha256(f"{namespace}\0{key}".encode()).hexdigest()
    return f"task-{digest[:_HEX_DIGITS]}"


def fingerprint(request: CreateTask, schema: str | None) -> str:
    """Digest of what the body asks for: the order of its members does not matter, nor a null where nothing could be.

    `schema` is json_schema as the object holds it: within it the order counts, as it steers the model. A `ttl_seconds`
    of null is not an absent one.
    """
    left_out = {"idempotency_key", "namespace", "json_schema"}
    members: dict[str, Any] = request.model_dump(exclude_none=True, exclude=left_out)
    if schema is not None:
        members["json_schema"] = schema
    if request.ttl_seconds is None and "ttl_seconds" in request.model_fields_set:
        members["ttl_seconds"] = None
    canonical = json.dumps(members, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()}"
