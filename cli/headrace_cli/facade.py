"""What stands in no object: a task's place in the queue, asked of the facade with the kubeconfig's token."""

import ipaddress
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp

TIMEOUT_SECONDS: Final = 15.0
HOW: Final = "name the facade by --facade URL or HEADRACE_FACADE to learn it"


@dataclass(frozen=True)
class Place:
    """`unknown` says of each member that is None why."""

    position: int | None = None
    ahead: int | None = None
    estimated_start_seconds: float | None = None
    unknown: dict[str, str] = field(default_factory=dict)


def nowhere(reason: str) -> Place:
    return Place(unknown={"position": reason, "estimated_start_seconds": reason})


async def place(url: str | None, token: str | None, namespace: str, name: str) -> Place:
    """Never fails: a facade that cannot be asked is a reason not to know."""
    if not url:
        return nowhere(HOW)
    if token is None:
        return nowhere(
            "the kubeconfig's user has no token for the facade (a client certificate?): set HEADRACE_TOKEN, "
            "for example to the output of `kubectl create token NAME`"
        )
    if (refusal := _unsafe(url)) is not None:
        return nowhere(refusal)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=True) as session,
            session.get(
                f"{url.rstrip('/')}/api/v1/tasks/{namespace}.{name}/why", headers=headers, allow_redirects=False
            ) as answer,
        ):
            told: Any = await answer.json(content_type=None)
    except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
        return nowhere(f"the facade at {url} cannot be asked: {str(error) or type(error).__name__}")
    if not isinstance(told, dict) or answer.status != 200:
        message = told.get("message", "") if isinstance(told, dict) else ""
        return nowhere(f"the facade at {url} answered {answer.status} {message}".rstrip())
    unknown = told.get("unknown")
    return Place(
        told.get("position"),
        told.get("ahead"),
        told.get("estimated_start_seconds"),
        unknown if isinstance(unknown, dict) else {},
    )


def _unsafe(url: str) -> str | None:
    """A token that leaves this machine in the clear is anybody's on the way."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return f"{url!r} is no URL"
    if parts.scheme == "https" and host:
        return None
    if parts.scheme != "http" or not host:
        return f"{url!r} is no http:// or https:// URL"
    if host == "localhost" or host.endswith((".svc", ".svc.cluster.local")) or _is_loopback(host):
        return None
    return (
        f"{url} would send your token unencrypted: use https, or "
        "`kubectl port-forward service/headrace-facade 8000:80` and --facade http://localhost:8000"
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
