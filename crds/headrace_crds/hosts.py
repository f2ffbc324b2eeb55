"""Where a request may lead: hosts, lists of them and URLs, read by one parser; what passes is connected to by parts.

Shared by the webhooks' sender, the operator's judgement of a remote model and the runner's transport. Pure: it resolves
nothing. A URL that browsers, resolvers and this parser could read differently is refused, not repaired.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final, Literal, Self

from headrace_crds.addresses import is_never, is_public
from headrace_crds.names import ANNOTATION_ALLOWED_HOSTS

URL_LIMIT: Final = 2048
PORTS: Final = frozenset({443, 8443})
"""Of webhooks' hosts that no list names."""
DEFAULT_PORTS: Final = {"https": 443, "http": 80}
REMOTE_SETTING: Final = "remote.allowedHosts"
"""The chart's setting that lets remote models reach addresses that are not public, and speak http."""
WEIGHTS_SETTING: Final = "weights.allowedHosts"
"""The chart's setting that lets weights come from addresses that are not public, and by http."""
_URL: Final = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9.-]+)(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>/[^?#\s\\]*)?(?:\?(?P<query>[^#\s\\]*))?",
    re.ASCII | re.IGNORECASE,
)
_ENTRY: Final = re.compile(r"(?P<host>\[[0-9a-f:.]+\]|[a-z0-9.-]+)(?::(?P<port>[0-9]{1,5}))?", re.ASCII | re.IGNORECASE)
_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_NUMERIC: Final = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)
"""A last label of this kind makes the host a number to some readers: 127.1, 2130706433, 0x7f000001."""

NEVER: Final = "a link-local address or a cloud's metadata service, and not a public address: requests never go there"


class Refused(ValueError):
    """It leads where requests do not go. The text is for people: no path, no query."""


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
    """An entry of a list of hosts: the chart's `webhooks.allowedHosts` and `remote.allowedHosts`, a Secret's
    annotation.
    """

    host: Host
    port: int | None = None
    """None: the usual ports."""

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
        """Without a port of its own: those of http and https, and those that every webhook may use."""
        if self.host != host:
            return False
        return port in PORTS | {80, 443} if self.port is None else port == self.port

    def names_exactly(self, host: Host, port: int, scheme: str) -> bool:
        """Without a port of its own: the scheme's, 443 for https."""
        return self.host == host and port == (DEFAULT_PORTS[scheme] if self.port is None else self.port)


def parse_hosts(text: str) -> tuple[AllowedHost, ...]:
    """`host[:port]`, separated by commas; spaces around them and empty entries do not count.

    Raises ValueError that names the entry.
    """
    found = []
    for entry in filter(None, (part.strip() for part in text.split(","))):
        shown = entry if len(entry) <= 80 else entry[:80] + "…"
        if not entry.isascii():
            raise ValueError(f"{shown!r}: write the name in its ASCII form, xn--…")
        try:
            found.append(AllowedHost.parse(entry))
        except Refused as error:
            raise ValueError(f"{shown!r}: {error}") from None
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect, and what to ask there."""

    scheme: str
    host: Host
    port: int
    path: str
    query: str
    trusted: bool
    """The chart's list names it: any address will do but those of `is_never`."""
    setting: str
    """The chart's list."""

    @property
    def origin(self) -> str:
        """For people: neither path nor query, which may hold secrets."""
        return f"{self.scheme}://{self.host}" + ("" if self.port == DEFAULT_PORTS[self.scheme] else f":{self.port}")

    def judged(self, addresses: Sequence[str]) -> list[str]:
        """The addresses to connect to. Raises Refused when the name leads, by any of its answers, into a network."""
        if any(is_never(each) for each in addresses):
            raise Refused(f"{self.host} is {NEVER}")
        if not self.trusted and any(not is_public(each) for each in addresses):
            raise Refused(f"{self.host} is not a public address: name it in the chart's {self.setting}")
        return list(addresses)


@dataclass(frozen=True, slots=True)
class Parts:
    """A URL of plain characters, without user, password and fragment; `port` is the scheme's where it names none."""

    scheme: str
    host: Host
    port: int
    path: str
    query: str


def split(url: str) -> Parts:
    """Raises Refused."""
    found = _URL.fullmatch(url) if len(url) <= URL_LIMIT and url.isascii() and url.isprintable() else None
    if found is None:
        raise Refused("not an http or https URL of plain characters without user, password and fragment")
    host, scheme = parse_host(found["host"]), found["scheme"].lower()
    port = int(found["port"]) if found["port"] else DEFAULT_PORTS[scheme]
    if not 1 <= port <= 65535:
        raise Refused("the port is not between 1 and 65535")
    if host.literal and is_never(host.name):
        raise Refused(f"{host} is {NEVER}")
    return Parts(scheme, host, port, found["path"] or "/", found["query"] or "")


def judge_base_url(
    url: str, *, allowed: Iterable[AllowedHost], exempt: Iterable[AllowedHost], secret: str = ""
) -> Target:
    """Where requests of a remote model go that has this base URL.

    ``allowed`` are the hosts that its key may be sent to, ``exempt`` those that the chart lets speak http and have any
    address. ``secret`` is the name of the key's Secret, for the message. Raises Refused, which says what to do.
    """
    return judge(split(url), allowed=allowed, exempt=exempt, secret=secret)


def judge(parts: Parts, *, allowed: Iterable[AllowedHost], exempt: Iterable[AllowedHost], secret: str = "") -> Target:
    """As ``judge_base_url``, of a URL's parts."""
    scheme, host, port = parts.scheme, parts.host, parts.port
    trusted = any(entry.names(host, port) for entry in exempt)
    target = Target(scheme, host, port, parts.path, parts.query, trusted, REMOTE_SETTING)
    if not any(entry.names_exactly(host, port, scheme) for entry in allowed):
        entry = f"{host}" if port == DEFAULT_PORTS[scheme] else f"{host}:{port}"
        where = f"Secret {secret}" if secret else "the Secret of spec.remote.credentials"
        raise Refused(
            f"{target.origin} is not a host that the key may go to: annotate {where} with "
            f"{ANNOTATION_ALLOWED_HOSTS}: {entry}"
        )
    if not trusted and scheme != "https":
        raise Refused(f"{target.origin} is not https: use https, or name the host in the chart's {REMOTE_SETTING}")
    if host.literal:
        target.judged([host.name])
    return target


def judge_source(url: str, *, exempt: Iterable[AllowedHost]) -> Target:
    """Where weights are fetched from that have this URL, or are redirected to it: any public host under https, and
    whatever ``exempt`` names. What comes is known by its digest. Raises Refused, which says what to do.
    """
    parts = split(url)
    trusted = any(entry.names(parts.host, parts.port) for entry in exempt)
    target = Target(parts.scheme, parts.host, parts.port, parts.path, parts.query, trusted, WEIGHTS_SETTING)
    if not trusted and parts.scheme != "https":
        raise Refused(f"{target.origin} is not https: use https, or name the host in the chart's {WEIGHTS_SETTING}")
    if parts.host.literal:
        target.judged([parts.host.name])
    return target
