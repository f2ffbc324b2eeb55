"""Where a webhook's URL leads; `headrace_crds.hosts` judges hosts and addresses for remote models as well."""

from collections.abc import Iterable
from typing import Final

from headrace_crds.hosts import PORTS, AllowedHost, Refused, Target, split

SETTING: Final = "webhooks.allowedHosts"


def host_of(url: str) -> str:
    """The host in its one notation, without the port; "?" for all that is refused however the policy is."""
    try:
        return split(url).host.name
    except Refused:
        return "?"


def parse(url: str, allowed: Iterable[AllowedHost] = ()) -> Target:
    """Raises Refused."""
    parts = split(url)
    trusted = any(entry.names(parts.host, parts.port) for entry in allowed)
    target = Target(parts.scheme, parts.host, parts.port, parts.path, parts.query, trusted, SETTING)
    if not trusted and target.scheme != "https":
        raise Refused(f"{target.origin} is not https: name the host in the chart's {SETTING} to allow it")
    if not trusted and target.port not in PORTS:
        ports = " and ".join(map(str, sorted(PORTS)))
        raise Refused(f"{target.origin} has a port other than {ports}: name it in the chart's {SETTING}")
    if target.host.literal:
        target.judged([target.host.name])
    return target
