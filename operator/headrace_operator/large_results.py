"""Reads parked results out of Redis, and makes the ConfigMaps that hold them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import structlog
from pydantic import ValidationError

from headrace_bus import BusDenied, BusError
from headrace_crds.parked import Parked
from headrace_crds.reasons import Reason
from headrace_crds.task import LLMTask
from headrace_operator.context import Context, bus_key
from headrace_operator.decide.large_result import is_parked, is_same
from headrace_operator.decide.snapshots import Held, TaskSnapshot
from headrace_operator.errors import KubeConflict, KubeRefused, KubeTooLarge, ResultUnwritable
from headrace_operator.kube import CONFIG_MAPS
from headrace_operator.refs import TaskRef

REFUSALS: Final = 6
"""In a row, with the work queue's backoff in between: a quota or a right that comes soon is waited for."""

_log = structlog.get_logger()


async def read(
    held: Held | None, ref: TaskRef, task: LLMTask | None, ctx: Context
) -> tuple[Held | None, Parked | None]:
    """What is held, saying why where a parked result does not read, and that result. Raises BusError."""
    unfinished = task is not None and (task.status is None or task.status.outcome is None)
    if held is None or held.returned is None or task is None or not unfinished or not is_parked(held, task):
        return held, None
    try:
        document = await ctx.bus.parked(bus_key(ref.model), ref.uid, held.attempt)
        if document is not None:
            return held, Parked.model_validate(document)
    except BusDenied:
        raise
    except BusError as error:
        if error.retryable:
            raise
    except (ValidationError, RecursionError):
        # The text quotes what a stranger wrote.
        pass
    _log.warning("parked result does not read", task=str(ref), attempt=held.attempt)
    message = "the result that its runner parked does not read"
    return replace(held, returned=replace(held.returned, reason=Reason.RUNNER_ERROR, message=message)), None


async def create(manifest: Mapping[str, Any], s: TaskSnapshot, ctx: Context) -> None:
    """Once: what stands there with the same content is taken for ours. Raises ResultUnwritable, KubeError."""
    namespace, name = s.ref.namespace, manifest["metadata"]["name"]
    try:
        await ctx.kube.create(CONFIG_MAPS, namespace, manifest)
    except KubeConflict:
        found = await ctx.kube.get(CONFIG_MAPS, namespace, name)
        if found is None:
            raise
        if not is_same(dict(manifest), found):
            message = f"ConfigMap {name!r}, which was to hold the result, exists and is another's: delete it"
            raise ResultUnwritable(Reason.NAME_CONFLICT, message, retryable=None) from None
    except KubeTooLarge:
        message = "the API server refuses the result's ConfigMap as too large: lower maxTokens"
        raise ResultUnwritable(Reason.RESULT_TOO_LARGE, message, retryable=False) from None
    except KubeRefused as error:
        refusals = ctx.memory.refused_results.get(s.ref, 0) + 1
        ctx.memory.refused_results[s.ref] = refusals
        if refusals < REFUSALS:
            raise
        raise ResultUnwritable(
            Reason.COMMIT_REFUSED, f"the result's ConfigMap is refused: {error}"[:500], retryable=True
        ) from None
    ctx.memory.refused_results.pop(s.ref, None)
