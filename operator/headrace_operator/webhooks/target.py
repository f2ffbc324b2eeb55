"""Where a webhook's URL leads, read by one parser; what passes is connected to by its parts, never by its text.

A URL that browsers, resolvers and this parser could read differently is refused, not repaired.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final, Literal, Self

from headrace_operator.webhooks.address import is_never, is_public

URL_LIMIT: Final = 2048
PORTS: Final = frozenset({443, 8443})
"""Of hosts that the allow-list does not name."""
_DEFAULT_PORTS: Final = {"https": 443, "http": 80}
_URL: Final = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9.-]+)(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>/[^?#\s\\]*)?(?:\?(?P<query>[^#\s\\]*))?",
    re.ASCII | re.IGNORECASE,
)
_ENTRY: Final = re.compile(r"(?P<host>\[[0-9a-f:.]+\]|[a-z0-9.-]+)(?::(?P<port>[0-9]{1,5}))?", re.ASCII | re.IGNORECASE)
_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_NUMERIC: Final = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)
"""A last label of this kind makes the host a number to some readers: 127.1, 2130706433, 0x7f000001."""

NEVER: Final = "a link-local address or a cloud's metadata service, and not a public address: webhooks never go there"


class Refused(ValueError):
    """The URL leads where webhooks do not go. The text is for the author of the task: no path, no query."""


@dataclass(frozen=True, slots=True)
class Host:
    """A host name in lower case, or an address in its usual notation."""

    name: str
    literal: Literal[0, 4, 6] = 0
    """4 and 6: `name` is an address of that family."""

    def __str__(self) -> str:
        return f"[{self.name}]" if self.literal == 6 else self.name


def parse_host(text: str) -> Host:
    """Raises Refused."""
    text = text.lower()
    if text.startswith("["):
        try:
            return Host(str(IPv6Address(text[1:-1])), 6)
        except AddressValueError:
            raise Refused("the host is not an IPv6 address") from None
    labels = text.split(".")
    if _NUMERIC.fullmatch(labels[-1] or (labels[-2] if len(labels) > 1 else "")):
        try:
            # Leading zeros are octal to some; ipaddress refuses them.
            return Host(str(IPv4Address(text)), 4)
        except AddressValueError:
            raise Refused("the host is a number, but not an IPv4 address of four decimal parts") from None
    if len(text) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise Refused("the host is not a DNS name without a dot at its end")
    return Host(text)


@dataclass(frozen=True, slots=True)
class AllowedHost:
    """An entry of the chart's `webhooks.allowedHosts`."""

    host: Host
    port: int | None = None
    """None: the default ports of http and https, and those that every host may use."""

    @classmethod
    def parse(cls, entry: str) -> Self:
        """`host` or `host:port`. Raises ValueError."""
        found = _ENTRY.fullmatch(entry)
        if found is None:
            raise ValueError(f"{entry!r} is neither host nor host:port")
        host, port = parse_host(found["host"]), int(found["port"]) if found["port"] else None
        if port is not None and not 1 <= port <= 65535:
            raise ValueError(f"{entry!r}: the port is not between 1 and 65535")
        if host.literal and is_never(host.name):
            raise ValueError(f"{entry!r} is {NEVER}")
        return cls(host, port)

    def names(self, host: Host, port: int) -> bool:
        if self.host != host:
            return False
        return port in PORTS | {80, 443} if self.port is None else port == self.port


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect, and what to ask there."""

    scheme: str
    host: Host
    port: int
    path: str
    query: str
    trusted: bool
    """The allow-list names it: any address will do but those of `is_never`."""

    @property
    def origin(self) -> str:
        """For people: neither path nor query, which may hold secrets."""
        return f"{self.scheme}://{self.host}" + ("" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}")

    def judged(self, addresses: Sequence[str]) -> list[str]:
        """The addresses to connect to. Raises Refused when the name leads, by any of its answers, into a network."""
        if any(is_never(each) for each in addresses):
            raise Refused(f"{self.host} is {NEVER}")
        if not self.trusted and any(not is_public(each) for each in addresses):
            raise Refused(f"{self.host} is not a public address: name it in the chart's webhooks.allowedHosts")
        return list(addresses)


def _parts(url: str) -> tuple[re.Match[str], Host]:
    """Raises Refused."""
    found = _URL.fullmatch(url) if len(url) <= URL_LIMIT and url.isascii() and url.isprintable() else None
    if found is None:
        raise Refused("not an http or https URL of plain characters without user, password and fragment")
    return found, parse_host(found["host"])


def host_of(url: str) -> str:
    """The host in its one notation, without the port; "?" for all that is refused however the policy is."""
    try:
        return _parts(url)[1].name
    except Refused:
        return "?"


def parse(url: str, allowed: Iterable[AllowedHost] = ()) -> Target:
    """Raises Refused."""
    found, host = _parts(url)
    scheme = found["scheme"].lower()
    port = int(found["port"]) if found["port"] else _DEFAULT_PORTS[scheme]
    if not 1 <= port <= 65535:
        raise Refused("the port is not between 1 and 65535")
    if host.literal and is_never(host.name):
        raise Refused(f"{host} is {NEVER}")
    trusted = any(entry.names(host, port) for entry in allowed)
    target = Target(scheme, host, port, found["path"] or "/", found["query"] or "", trusted)
    if not trusted and scheme != "https":
        raise Refused(f"{target.origin} is not https: name the host in the chart's webhooks.allowedHosts to allow it")
    if not trusted and port not in PORTS:
        ports = " and ".join(map(str, sorted(PORTS)))
        raise Refused(f"{target.origin} has a port other than {ports}: name it in the chart's webhooks.allowedHosts")
    if host.literal:
        target.judged([host.name])
    return target
