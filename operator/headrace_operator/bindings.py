"""RoleBindings by which a shared model's runner commits in other namespaces: made before a hand-out, swept afterwards.

An owner reference cannot cross namespaces, so nothing collects them. What should be there follows from the models, the
Namespaces and the open tasks alone; what is there is listed by label. The difference survives any kill (decision 0006).
"""

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

import structlog

from headrace_crds.names import LABEL_MODEL_NAMESPACE
from headrace_crds.task import HANDED_OUT
from headrace_operator.context import Context
from headrace_operator.decide import sharing
from headrace_operator.errors import KubeConflict, KubeError, KubeNotFound, KubeRefused, ObjectInvalid
from headrace_operator.kube import CHILDREN
from headrace_operator.namespaces import admitted, bound_afresh
from headrace_operator.refs import ModelRef

BINDINGS: Final = CHILDREN["RoleBinding"]
LIST_CHUNK: Final = 200
SETTLE_SECONDS: Final = 0.5
"""Between two sweeps that changes ask for."""

_log = structlog.get_logger()


class BindingRefused(Exception):
    """The API server does not take the RoleBinding, or another one stands under its name."""


async def ensure(model: ModelRef, namespace: str, ctx: Context) -> None:
    """Before a hand-out to a task of that namespace. Raises BindingRefused and KubeError."""
    if namespace == model.namespace or (model, namespace) in ctx.memory.bound:
        return
    manifest = sharing.binding(model, namespace)
    try:
        found = await ctx.kube.get(BINDINGS, namespace, manifest["metadata"]["name"])
        ours = found is not None and sharing.bound_model(found) == model
        await ctx.kube.apply(manifest, uid=found["metadata"]["uid"] if found is not None and ours else "")
    except (KubeRefused, KubeConflict) as error:
        raise BindingRefused(str(error)) from None
    ctx.memory.bound.add((model, namespace))
    _log.info("runner bound", model=str(model), namespace=namespace)


async def renew(model: ModelRef, ctx: Context) -> None:
    """Every right of the model's runner in other namespaces, whatever is remembered of it. Raises KubeError."""
    for bound in sorted(each for each in ctx.memory.bound if each[0] == model):
        ctx.memory.bound.discard(bound)
        if admitted(*bound, ctx):
            with contextlib.suppress(BindingRefused, KubeNotFound):
                await ensure(*bound, ctx)
    # What is not remembered is found by what stands there, and by the tasks that need it.
    ctx.sharing_changed.set()


async def run(ctx: Context) -> None:
    """Until cancelled: at once, when sharing changes, and now and then."""
    shares = bool(ctx.settings.sharing_model_namespaces)
    patience = ctx.settings.sweep_seconds if shares else ctx.settings.relist_seconds
    while True:
        ctx.sharing_changed.clear()
        try:
            await sweep(ctx)
        except (KubeError, ObjectInvalid) as error:
            _log.warning("bindings not swept", reason=error.reason, error=str(error))
        await asyncio.sleep(SETTLE_SECONDS)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await ctx.sharing_changed.wait()


async def sweep(ctx: Context) -> None:
    """Deletes what nobody is admitted by, and makes what tasks that are handed out need. What is refused in one
    namespace ends nothing elsewhere. Raises KubeError when nothing could be listed.
    """
    found = await _listed(ctx)
    for bound, body in found.items():
        with _contained(bound, "unbound"):
            await _unbind_unless_admitted(bound, body, ctx)
    ctx.memory.bound &= set(found)
    refs = (view.ref for view in ctx.store.tasks() if view.phase in HANDED_OUT and not view.finished)
    needed = {(ref.model, ref.namespace) for ref in refs if ref.namespace != ref.model.namespace}
    for bound in sorted(needed - set(found)):
        if admitted(*bound, ctx):
            with _contained(bound, "bound"), contextlib.suppress(BindingRefused, KubeNotFound):
                await ensure(*bound, ctx)


async def _unbind_unless_admitted(bound: tuple[ModelRef, str], body: Mapping[str, Any], ctx: Context) -> None:
    model, namespace = bound
    if admitted(model, namespace, ctx) or await bound_afresh(model, namespace, ctx):
        return
    metadata = body["metadata"]
    with contextlib.suppress(KubeNotFound, KubeConflict):
        await ctx.kube.delete(BINDINGS, namespace, metadata["name"], uid=metadata["uid"])
    ctx.memory.bound.discard(bound)
    _log.info("runner unbound", model=str(model), namespace=namespace)


@contextlib.contextmanager
def _contained(bound: tuple[ModelRef, str], what: str) -> Iterator[None]:
    """The next sweep tries again."""
    try:
        yield
    except (KubeError, ObjectInvalid) as error:
        model, namespace = bound
        _log.warning(
            "binding not swept",
            model=str(model),
            namespace=namespace,
            to_be=what,
            reason=error.reason,
            error=str(error),
        )


async def _listed(ctx: Context) -> dict[tuple[ModelRef, str], dict[str, Any]]:
    found: dict[tuple[ModelRef, str], dict[str, Any]] = {}
    async for item in ctx.kube.listed(
        BINDINGS, ctx.settings.watch_namespaces, limit=LIST_CHUNK, labels=LABEL_MODEL_NAMESPACE, whole=True
    ):
        model = sharing.bound_model(item)
        if model is not None:
            found[model, item["metadata"]["namespace"]] = item
    return found
