"""`headrace key`: API keys of the facade, as Secrets. A key is shown when it is made, and by nobody after that."""

import base64
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import typer

from headrace_cli.cluster import Body, Cluster, ClusterError
from headrace_cli.tables import age, table
from headrace_crds.api_keys import ID, LABEL_KEY_NAMESPACE, NAME, SECRET_TYPE, key_digest, new_key, secret_name

_UNITS: Final = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
_EXPIRES: Final = re.compile(r"([1-9][0-9]{0,4})([mhd])")
_MODEL: Final = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?/[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?")


def tenant(name: str) -> str:
    """Raises typer.BadParameter."""
    if not NAME.fullmatch(name):
        raise typer.BadParameter(f"{name!r} is no namespace")
    return name


def key_id(text: str) -> str:
    """An id, or the whole name of its Secret. Raises typer.BadParameter, which does not repeat what may be a key."""
    found = text.removeprefix(secret_name(""))
    if not ID.fullmatch(found):
        raise typer.BadParameter("that is no id of a key: headrace key list shows them")
    return found


def models(text: str | None) -> list[str]:
    """NAMESPACE/NAME, comma-separated. Raises typer.BadParameter."""
    named = [each.strip() for each in (text or "").split(",") if each.strip()]
    if text is not None and not named:
        raise typer.BadParameter("--models names none: leave it out for every model that the namespace may use")
    for each in named:
        if not _MODEL.fullmatch(each):
            raise typer.BadParameter(f"{each!r} is no model: write NAMESPACE/NAME")
    return named


def expiry(text: str | None, now: datetime | None = None) -> datetime | None:
    """30m, 12h or 90d from now. Raises typer.BadParameter."""
    if text is None:
        return None
    match = _EXPIRES.fullmatch(text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is no time: write 30m, 12h or 90d")
    return (now or datetime.now(UTC)).replace(microsecond=0) + int(match[1]) * _UNITS[match[2]]


async def create(
    cluster: Cluster, keys_namespace: str, namespace: str, named: Sequence[str], expires: datetime | None
) -> dict[str, Any]:
    """With the key, which is nowhere else. Raises ClusterError."""
    made_id, key = new_key()
    data = {"sha256": key_digest(key), "namespace": namespace}
    if named:
        data["models"] = ",".join(named)
    if expires is not None:
        data["expires"] = expires.isoformat()
    body = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": secret_name(made_id), "labels": {LABEL_KEY_NAMESPACE: namespace}},
        "type": SECRET_TYPE,
        "immutable": True,
        "stringData": data,
    }
    made = await cluster.create_secret(keys_namespace, body)
    return {**row(made), "key": key}


async def listed(cluster: Cluster, keys_namespace: str, namespace: str | None) -> list[dict[str, Any]]:
    """Of one tenant, or all; nothing of the keys themselves. Raises ClusterError."""
    found = [
        row(body)
        async for page in cluster.secret_pages(keys_namespace, SECRET_TYPE)
        for body in page
        if body.get("type") == SECRET_TYPE
    ]
    return [each for each in found if namespace in (None, each["namespace"])]


async def revoke(cluster: Cluster, keys_namespace: str, revoked: str) -> None:
    """Facades refuse it within five seconds. Raises ClusterError."""
    if not await cluster.delete_secret(keys_namespace, secret_name(revoked)):
        raise ClusterError(f"there is no key {revoked!r} in namespace {keys_namespace!r}: headrace key list shows them")


def row(body: Body) -> dict[str, Any]:
    """What a key's Secret says, without its digest."""
    metadata, data = body["metadata"], body.get("data") or {}
    return {
        "id": metadata["name"].removeprefix(secret_name("")),
        "namespace": _text(data, "namespace"),
        "models": [each for each in _text(data, "models").split(",") if each],
        "expires": _text(data, "expires") or None,
        "created": metadata.get("creationTimestamp"),
    }


def listing(rows: Sequence[dict[str, Any]]) -> str:
    """A table of what `row` gave."""
    head = ("ID", "NAMESPACE", "MODELS", "EXPIRES", "AGE")
    cells = [
        (
            each["id"],
            each["namespace"],
            ",".join(each["models"]) or "*",
            each["expires"] or "never",
            age(each["created"]),
        )
        for each in rows
    ]
    return table(head, cells) if cells else ""


def _text(data: dict[str, str], name: str) -> str:
    try:
        return base64.b64decode(data.get(name, "")).decode()
    except ValueError:
        return "?"
