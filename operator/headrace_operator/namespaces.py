"""The Namespaces' labels as events told them, for models that are shared; and, where it counts, as they are."""

from collections.abc import Mapping
from typing import Any

from headrace_crds.admits import admits
from headrace_crds.model import LLMModel
from headrace_crds.reasons import Reason
from headrace_operator.context import Context
from headrace_operator.kube import MODELS, NAMESPACES
from headrace_operator.refs import ModelRef, TaskRef
from headrace_operator.views import labels_of, parse_model


def seen(kind: str | None, body: Mapping[str, Any], ctx: Context) -> None:
    """A Namespace's event. Labels decide who is admitted, and are seldom written."""
    name, labels = body["metadata"]["name"], labels_of(body)
    if kind == "DELETED":
        ctx.namespaces.pop(name, None)
    elif ctx.namespaces.get(name) != labels:
        ctx.namespaces[name] = labels
        ctx.sharing_changed.set()
        for ref in ctx.store.models():
            _look_at_strangers(ref, ctx, namespace=name)


def model_changed(ref: ModelRef, ctx: Context) -> None:
    """What the model said of sharing may be another."""
    ctx.sharing_changed.set()
    _look_at_strangers(ref, ctx)


def _look_at_strangers(ref: ModelRef, ctx: Context, *, namespace: str = "") -> None:
    """Have those tasks of other namespaces reconciled that the model does not serve any more, or may serve again."""
    if ref.namespace not in ctx.settings.sharing_model_namespaces:
        return
    for view in ctx.store.open_tasks_of(ref):
        if namespace not in ("", view.ref.namespace):
            continue
        if view.reason == Reason.MODEL_NOT_SHARED or not admitted(view.ref.model, view.ref.namespace, ctx):
            ctx.tasks.add(view.ref)


def admitted(ref: ModelRef, namespace: str, ctx: Context) -> bool:
    """As far as events told. False also where the model is not known."""
    if ref.namespace == namespace:
        return True
    model = ctx.store.model(ref)
    allowed = ctx.settings.sharing_model_namespaces
    return model is not None and admits(model, namespace, ctx.namespaces.get(namespace), allowed)


async def admitted_afresh(ref: TaskRef, ctx: Context) -> bool:
    """Whether the model serves the task's namespace. Before a refusal both objects are read."""
    if admitted(ref.model, ref.namespace, ctx):
        return True
    if ref.model.namespace not in ctx.settings.sharing_model_namespaces:
        return False
    # A model that has just gone: the next look finds none, and nobody is refused until then.
    return await refresh(ref.model, ctx) is None or await _labels_afresh(ref.model, ref.namespace, ctx)


async def bound_afresh(ref: ModelRef, namespace: str, ctx: Context) -> bool:
    """The same for a right that stands: without the model there is nothing to commit."""
    if ref.namespace not in ctx.settings.sharing_model_namespaces or not ctx.settings.serves(ref.namespace):
        return False
    if await refresh(ref, ctx) is None:
        return False
    return admitted(ref, namespace, ctx) or await _labels_afresh(ref, namespace, ctx)


async def refresh(ref: ModelRef, ctx: Context) -> LLMModel | None:
    body = await ctx.kube.get(MODELS, ref.namespace, ref.name)
    if body is None:
        return None
    model = parse_model(body)
    if ctx.store.put_model(ref, model):
        ctx.models.add(ref)
    return model


async def _labels_afresh(ref: ModelRef, namespace: str, ctx: Context) -> bool:
    body = await ctx.kube.probe(NAMESPACES, None, namespace)
    if body is not None:
        ctx.namespaces[namespace] = labels_of(body)
    return admitted(ref, namespace, ctx)
