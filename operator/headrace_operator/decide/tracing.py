"""What runner pods are told about traces: the operator's own endpoint and sampler, by OpenTelemetry's variables.

Headers are no value here, as whoever may read pods would read them: they come from a Secret of the model's namespace.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final, Self
from urllib.parse import urlsplit

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""The first one that is set counts."""
PASSED_ON: Final = (*ENDPOINTS, "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG")
HEADERS: Final = "OTEL_EXPORTER_OTLP_HEADERS"
HEADERS_SECRET: Final = "HEADRACE_TRACING_HEADERS_SECRET"  # noqa: S105  a setting's name
HEADERS_KEY: Final = "headers"
_PORTS: Final = {"http": 80, "https": 443}
_NAMESPACE_NAME: Final = "kubernetes.io/metadata.name"
_SECRET: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class RunnerTracing:
    """Without variables there are no traces."""

    variables: tuple[tuple[str, str], ...] = ()
    host: str = ""
    port: int = 0
    headers_secret: str = ""
    """A Secret's name; runners of namespaces that have none of that name send no headers."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Raises ValueError that names the variable and does not quote it."""
        found = {name: value for name in PASSED_ON if (value := environment.get(name, "").strip())}
        endpoints = [name for name in ENDPOINTS if name in found]
        if not endpoints:
            return cls()
        for name in endpoints:
            _where(name, found[name])
        host, port = _where(endpoints[0], found[endpoints[0]])
        secret = environment.get(HEADERS_SECRET, "").strip()
        if secret and _SECRET.fullmatch(secret) is None:
            raise ValueError(f"{HEADERS_SECRET}: expected the name of a Secret")
        return cls(tuple(found.items()), host, port, secret)


def env(tracing: RunnerTracing) -> list[dict[str, Any]]:
    """Entries of the runner container's ``env``."""
    entries: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in tracing.variables]
    if tracing.headers_secret:
        ref = {"name": tracing.headers_secret, "key": HEADERS_KEY, "optional": True}
        entries.append({"name": HEADERS, "valueFrom": {"secretKeyRef": ref}})
    return entries


def egress(tracing: RunnerTracing) -> list[dict[str, Any]]:
    """The collector as narrowly as its address tells: a Service's namespace, an IP address, or any host at its port."""
    if not tracing.variables:
        return []
    rule: dict[str, Any] = {"ports": [{"protocol": "TCP", "port": tracing.port}]}
    labels = tracing.host.split(".")
    try:
        address = ip_address(tracing.host)
    except ValueError:
        # Without svc it may as well be a name of elsewhere: collector.example.
        if len(labels) > 2 and labels[2] == "svc":
            rule["to"] = [{"namespaceSelector": {"matchLabels": {_NAMESPACE_NAME: labels[1]}}}]
    else:
        rule["to"] = [{"ipBlock": {"cidr": f"{address}/{address.max_prefixlen}"}}]
    return [rule]


def _where(name: str, url: str) -> tuple[str, int]:
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        raise ValueError(f"{name}: not a URL") from None
    if not port or not parts.hostname or parts.username is not None or parts.password is not None:
        raise ValueError(f"{name}: expected an http or https URL without user and password: headers have a Secret")
    return parts.hostname, port
