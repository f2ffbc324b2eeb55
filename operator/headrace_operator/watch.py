"""kopf's part: watches with reconnects. Handlers note what they see and enqueue a key; they decide nothing.

There are `on.event` handlers only: no finalizers, no annotations, no state of kopf's on any object. A watcher that
dies raises out of `run`, which ends the process.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

import kopf
import structlog

from headrace_crds.base import GROUP, VERSION
from headrace_crds.names import LABEL_MANAGED_BY, runner_name
from headrace_operator import namespaces, quotas
from headrace_operator.context import Context
from headrace_operator.errors import KubeNotFound, ObjectInvalid
from headrace_operator.kube import Kube
from headrace_operator.no_essence import NoEssence
from headrace_operator.refs import ModelRef
from headrace_operator.views import deployment_view, is_owned_by, model_of, parse_model, pod_view, task_view

LIST_CHUNK: Final = 20
"""Objects per page of a listing. Tasks are large, and a page is held whole, parsed, several times over."""
IDLE_SECONDS: Final = 0.05
"""So long kopf's worker of an object outlives its last event, which it holds: times the rate, that is memory."""
CONNECT_SECONDS: Final = 10.0
REQUEST_SECONDS: Final = 60.0
STREAM_SECONDS: Final = 600
"""A watch is begun anew this often: connections that a load balancer dropped silently do not live longer."""

_log = structlog.get_logger()


def register(registry: kopf.OperatorRegistry, ctx: Context) -> None:
    """The handlers of the kinds that are watched, and how kopf reaches the API server."""
    kopf.on.login(registry=registry)(_login(ctx.kube))

    @kopf.on.event(GROUP, VERSION, "llmtasks", registry=registry)
    async def on_task(event: kopf.RawEvent, **_: Any) -> None:
        task_seen(event["type"], dict(event["object"]), ctx)

    @kopf.on.event(GROUP, VERSION, "llmmodels", registry=registry)
    async def on_model(event: kopf.RawEvent, **_: Any) -> None:
        model_seen(event["type"], dict(event["object"]), ctx)

    @kopf.on.event(GROUP, VERSION, "llmquotas", registry=registry)
    async def on_quota(event: kopf.RawEvent, **_: Any) -> None:
        quotas.seen(event["type"], dict(event["object"]), ctx)

    @kopf.on.event("apps", "v1", "deployments", registry=registry)
    async def on_deployment(event: kopf.RawEvent, **_: Any) -> None:
        deployment_seen(event["type"], dict(event["object"]), ctx)

    if ctx.settings.sharing_model_namespaces:

        @kopf.on.event("", "v1", "namespaces", registry=registry)
        async def on_namespace(event: kopf.RawEvent, **_: Any) -> None:
            namespaces.seen(event["type"], dict(event["object"]), ctx)

    @kopf.on.event("", "v1", "pods", registry=registry)
    async def on_pod(event: kopf.RawEvent, **_: Any) -> None:
        pod_seen(event["type"], dict(event["object"]), ctx)


def task_seen(kind: str | None, body: dict[str, Any], ctx: Context) -> None:
    view = task_view(body)
    if kind == "DELETED":
        ctx.budgets.note(view)  # its end and its deletion may be one event
        # It may have fallen back since it was known: both models' queues are cleared of it.
        known = ctx.store.task(view.ref.uid)
        for ref in {view.ref, known.ref if known is not None else view.ref}:
            ctx.store.drop_task(ref)
            ctx.tasks.add(ref)
        ctx.memory.fresh.forget(view.ref.uid)
    elif ctx.store.put_task(view) and (not view.finished or view.behind):
        if ctx.health.leading:
            ctx.memory.fresh.keep(view, body)
        ctx.tasks.add(view.ref)
    elif view.finished:
        # Its deadline may lie a day ahead; what it left in Redis is found by the sweep.
        ctx.tasks.drop(view.ref)


def model_seen(kind: str | None, body: dict[str, Any], ctx: Context) -> None:
    metadata = body["metadata"]
    ref = ModelRef(metadata["namespace"], metadata["name"])
    if kind == "DELETED":
        ctx.store.drop_model(ref, metadata["uid"])
        ctx.models.add(ref)
        namespaces.model_changed(ref, ctx)
        return
    try:
        changed = ctx.store.put_model(ref, parse_model(body))
    except ObjectInvalid as error:
        _log.error("model is not understood", model=str(ref), error=str(error))
        return
    if changed:
        ctx.models.add(ref)
        ctx.enqueue_tasks_of(ref)
        namespaces.model_changed(ref, ctx)


def deployment_seen(kind: str | None, body: dict[str, Any], ctx: Context) -> None:
    """Anybody may put our labels on a Deployment of theirs: only the one of the model's own name counts."""
    ref = model_of(body)
    if ref is None or body["metadata"]["name"] != runner_name(ref.name):
        return
    gone = kind == "DELETED" or not is_owned_by(body, ref)
    changed = ctx.store.drop_deployment(ref) if gone else ctx.store.put_deployment(ref, deployment_view(body))
    _look_at(ref, changed, ctx)


def pod_seen(kind: str | None, body: dict[str, Any], ctx: Context) -> None:
    ref, store, name = model_of(body), ctx.store, body["metadata"]["name"]
    if ref is None:
        return
    changed = store.drop_pod(ref, name) if kind == "DELETED" else store.put_pod(ref, pod_view(body))
    _look_at(ref, changed, ctx)


def _look_at(ref: ModelRef, changed: bool, ctx: Context) -> None:
    """A model that is not there has its own event when it comes; labels alone make no work."""
    if changed and ctx.store.model(ref) is not None:
        ctx.models.add(ref)


def settings() -> kopf.OperatorSettings:
    """kopf's, such that it only watches."""
    kopf_settings = kopf.OperatorSettings()
    kopf_settings.posting.enabled = False
    kopf_settings.scanning.disabled = True
    kopf_settings.networking.connect_timeout = CONNECT_SECONDS
    kopf_settings.networking.request_timeout = REQUEST_SECONDS
    kopf_settings.watching.connect_timeout = CONNECT_SECONDS
    kopf_settings.watching.server_timeout = STREAM_SECONDS
    kopf_settings.watching.client_timeout = STREAM_SECONDS + 30
    kopf_settings.watching.chunk_size = LIST_CHUNK
    kopf_settings.queueing.idle_timeout = IDLE_SECONDS
    kopf_settings.persistence.diffbase_storage = NoEssence()
    ours = f"{LABEL_MANAGED_BY}=headrace"
    kopf_settings.watching.label_selectors["apps", "v1", "deployments"] = ours
    kopf_settings.watching.label_selectors["", "v1", "pods"] = ours
    # It logs every object that it sees.
    logging.getLogger("kopf").setLevel(logging.WARNING)
    return kopf_settings


async def spawn(ctx: Context) -> Callable[[], Awaitable[None]]:
    """Starts watching; gives what runs until it is cancelled or a watcher dies."""
    await _require_kinds(ctx.kube)
    # At its end kopf cancels every task that it did not find here.
    not_kopfs = asyncio.all_tasks()
    registry = kopf.OperatorRegistry()
    register(registry, ctx)
    watched = ctx.settings.watch_namespaces
    tasks = await kopf.spawn_tasks(
        registry=registry,
        settings=settings(),
        standalone=True,
        clusterwide=not watched,
        namespaces=watched,
    )

    async def run() -> None:
        ctx.health.watching = True
        try:
            await kopf.run_tasks(tasks, ignored=not_kopfs)
        finally:
            ctx.health.watching = False

    return run


async def _require_kinds(kube: Kube) -> None:
    """kopf would wait for ever, deaf, for kinds that are not there when it starts. Raises KubeError."""
    found = await kube.read(f"/apis/{GROUP}/{VERSION}")
    missing = {"llmtasks", "llmmodels", "llmquotas"} - {resource["name"] for resource in found.get("resources") or []}
    if missing:
        raise KubeNotFound(f"{GROUP}/{VERSION} lacks {', '.join(sorted(missing))}: apply the CRDs")


def _login(kube: Kube) -> Callable[..., Awaitable[kopf.ConnectionInfo]]:
    async def login(**_: Any) -> kopf.ConnectionInfo:
        known = await kube.credentials()
        return kopf.ConnectionInfo(
            server=known.server,
            ca_path=known.ca_path,
            insecure=known.insecure,
            scheme="Bearer" if known.token else None,
            token=known.token,
            certificate_path=known.certificate_path,
            private_key_path=known.private_key_path,
        )

    return login
