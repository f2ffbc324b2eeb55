"""A task's trace in the operator: that of its annotation, else one of its own with the uid's digits as trace id.

Nothing is remembered: another leader, or another attempt, goes on in the same trace.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import structlog

from headrace_bus.tracing import Kind, Span, TraceContext, Tracing, child, entered, of_uid
from headrace_crds.names import ANNOTATION_TRACEPARENT
from headrace_crds.task import LLMTask
from headrace_operator.decide import task_status


@contextlib.contextmanager
def followed(task: LLMTask | None, tracing: Tracing) -> Iterator[None]:
    """Spans and log lines within are of the task's trace."""
    if task is None:
        yield
        return
    context = _given(task) or tracing.rooted(of_uid(task.metadata.uid))
    with entered(tracing.resumed(context)), structlog.contextvars.bound_contextvars(trace_id=context.trace_id):
        yield


@contextlib.contextmanager
def writing(status: Mapping[str, Any], task: LLMTask, tracing: Tracing) -> Iterator[None]:
    """Around a status write: a span where it accepts the task or ends it, told once it succeeded."""
    span = _span_of(status, task, tracing)
    yield
    if span is not None:
        span.end()


def _span_of(status: Mapping[str, Any], task: LLMTask, tracing: Tracing) -> Span | None:
    about = {"headrace.namespace": task.metadata.namespace, "headrace.name": task.metadata.name}
    about |= {"headrace.reason": str(status.get("reason") or "")}
    given = _given(task)
    if task_status.attempt_of(task) == 0 and status.get("attempt"):
        # The first of a trace that nobody else began.
        return tracing.begin("accept", attributes=about, parent=given, own=of_uid(task.metadata.uid))
    if outcome := status.get("outcome"):
        context = given or tracing.rooted(of_uid(task.metadata.uid))
        return tracing.resumed(context).child("commit", attributes={**about, "headrace.outcome": str(outcome)})
    return None


def _given(task: LLMTask) -> TraceContext | None:
    return TraceContext.parse(task.metadata.annotations.get(ANNOTATION_TRACEPARENT))


@contextlib.contextmanager
def delivering(host: str) -> Iterator[Span]:
    """One request to a webhook's receiver, by its host alone: path and query are the tenant's."""
    with child("webhook", Kind.CLIENT, {"http.request.method": "POST", "server.address": host}) as span:
        yield span
