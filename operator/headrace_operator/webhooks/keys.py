"""Reads the keys that sign a task's webhook, where an administrator allows it."""

import base64
import binascii
from typing import Final

from headrace_crds.inputs import KeyRef
from headrace_crds.names import LABEL_WEBHOOK
from headrace_operator.context import Context
from headrace_operator.errors import KubeNotFound, KubeRefused
from headrace_operator.kube import Resource
from headrace_operator.webhooks.signing import KeyUnusable, parse_keys

SECRETS: Final = Resource("v1", "secrets")


async def signing_keys(namespace: str, ref: KeyRef, ctx: Context) -> list[bytes]:
    """Raises KeyUnusable, whose text is for the task's author, and KubeUnavailable."""
    if namespace not in ctx.settings.webhooks.secret_namespaces:
        raise KeyUnusable(
            f"the operator may not read Secrets in namespace {namespace!r}: name it in the chart's "
            "webhooks.secretNamespaces"
        )
    try:
        body = await ctx.kube.get(SECRETS, namespace, ref.name)
    except (KubeRefused, KubeNotFound):
        raise KeyUnusable(f"the API server does not let the operator read Secret {ref.name!r}") from None
    if body is None:
        raise KeyUnusable(f'Secret {ref.name!r} does not exist: create it with the label {LABEL_WEBHOOK}: "true"')
    if (body["metadata"].get("labels") or {}).get(LABEL_WEBHOOK) != "true":
        raise KeyUnusable(
            f'Secret {ref.name!r} lacks the label {LABEL_WEBHOOK}: "true", which gives its keys to webhooks'
        )
    encoded = (body.get("data") or {}).get(ref.key)
    if encoded is None:
        raise KeyUnusable(f"Secret {ref.name!r} has no key {ref.key!r}")
    try:
        return parse_keys(base64.b64decode(encoded))
    except (KeyUnusable, binascii.Error) as error:
        raise KeyUnusable(f"key {ref.key!r} of Secret {ref.name!r} is not usable: {error}") from None
