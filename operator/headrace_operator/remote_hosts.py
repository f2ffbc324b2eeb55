"""Where a remote model's requests may lead, as far as its spec tells: the runner judges the addresses.

The names are those of the shared judgement of hosts, so that this module can give way to it.
"""

from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from headrace_crds.names import ANNOTATION_ALLOWED_HOSTS
from headrace_operator.webhooks import target
from headrace_operator.webhooks.address import is_public
from headrace_operator.webhooks.target import AllowedHost, Refused, Target

__all__ = ["AllowedHost", "Refused", "Target", "judge_base_url", "parse_hosts"]

_DEFAULT_PORTS: Final = {"https": 443, "http": 80}


def parse_hosts(text: str) -> tuple[AllowedHost, ...]:
    """``host[:port]``, separated by commas; spaces around them and empty entries do not count. Raises ValueError."""
    found = []
    for entry in filter(None, (part.strip() for part in text.split(","))):
        try:
            found.append(AllowedHost.parse(entry))
        except Refused as error:
            raise ValueError(f"{entry[:80]!r}: {error}") from None
    return tuple(found)


def judge_base_url(
    url: str, *, allowed: Iterable[AllowedHost], exempt: Iterable[AllowedHost], secret: str = ""
) -> Target:
    """Where requests of a remote model go that has this base URL.

    ``allowed`` are the hosts that its key may be sent to, ``exempt`` those that the chart lets speak http and have any
    address. ``secret`` is the name of the key's Secret, for the message. Raises Refused, which says what to do.
    """
    parts = urlsplit(url)
    try:
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
        itself = AllowedHost.parse(f"{host}:{port}")
    except ValueError as error:
        raise Refused(f"baseURL: {error}") from None
    found = target.parse(url, [itself])
    default = _DEFAULT_PORTS[found.scheme]
    trusted = any(entry.names(found.host, found.port) or _names(entry, found, default) for entry in exempt)
    if not any(_names(entry, found, default) for entry in allowed):
        entry = f"{found.host}" if port == default else f"{found.host}:{port}"
        where = f"Secret {secret}" if secret else "the Secret of spec.remote.credentials"
        told = f"annotate {where} with {ANNOTATION_ALLOWED_HOSTS}: {entry}"
        raise Refused(f"{found.origin} is not a host that the key may go to: {told}")
    if not trusted and found.scheme != "https":
        raise Refused(f"{found.origin} is not https: use https, or name the host in the chart's remote.allowedHosts")
    if not trusted and found.host.literal and not is_public(found.host.name):
        raise Refused(f"{found.host} is not a public address: name it in the chart's remote.allowedHosts")
    return Target(found.scheme, found.host, found.port, found.path, found.query, trusted)


def _names(entry: AllowedHost, found: Target, default: int) -> bool:
    """Without a port of its own: the scheme's."""
    return entry.host == found.host and found.port == (entry.port or default)
