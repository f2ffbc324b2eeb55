"""Kubernetes events about transitions. They help people and may get lost: a failure to publish is no failure."""

import secrets
from datetime import UTC, datetime

import structlog

from headrace_crds.base import GROUP, VERSION, ObjectMeta
from headrace_operator.context import Context
from headrace_operator.decide.plans import Announcement
from headrace_operator.errors import KubeError
from headrace_operator.kube import EVENTS

_log = structlog.get_logger()


async def publish(kind: str, about: ObjectMeta, announcement: Announcement, ctx: Context) -> None:
    """One events.k8s.io/v1 Event in the object's namespace."""
    # The one time that is not Redis': an event's age is shown against the cluster's clock.
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    event = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{about.name}.{secrets.token_hex(8)}", "namespace": about.namespace},
        "eventTime": now,
        "reportingController": f"{GROUP}/operator",
        "reportingInstance": ctx.settings.identity[:128],
        "action": "Reconcile",
        "type": announcement.type,
        "reason": announcement.reason,
        "note": announcement.note[:1024],
        "regarding": {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": kind,
            "namespace": about.namespace,
            "name": about.name,
            "uid": about.uid,
        },
    }
    try:
        await ctx.kube.create(EVENTS, about.namespace, event)
    except KubeError as error:
        _log.info("event not published", object=f"{about.namespace}/{about.name}", reason=error.reason)
