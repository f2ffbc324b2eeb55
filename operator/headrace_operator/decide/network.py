"""The runner's network: metrics in; names, Redis, the API server, a provider and traces out. The engine has none
(seccomp).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from headrace_crds.names import LABEL_COMPONENT
from headrace_operator.decide import tracing
from headrace_operator.decide.access import Door
from headrace_operator.decide.snapshots import RunnerSettings

METRICS_PORT: Final = 8080
_NAMESPACE_NAME: Final = "kubernetes.io/metadata.name"

PRIVATE_4: Final = (
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "224.0.0.0/3",
)
PRIVATE_6: Final = ("::/16", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "fc00::/7", "fe80::/9", "ff00::/8")
"""Loopback, IPv4 within IPv6, unique local, link- and site-local, multicast."""
_PUBLIC: Final = (
    {"ipBlock": {"cidr": "0.0.0.0/0", "except": list(PRIVATE_4)}},
    {"ipBlock": {"cidr": "::/0", "except": list(PRIVATE_6)}},
)


def policy(
    labels: Mapping[str, str], settings: RunnerSettings, doors: Sequence[Door] = (), *, api_server: bool = True
) -> dict[str, Any]:
    """Probes come from the node, which network policies do not keep out. `doors` lead to a remote model's provider, or
    to where weights come from.
    """
    api_servers = [{"ports": [_tcp(port) for port in settings.api_server_ports]}] if api_server else []
    operator_namespace = {"namespaceSelector": {"matchLabels": {_NAMESPACE_NAME: settings.namespace}}}
    return {
        "podSelector": {"matchLabels": dict(labels)},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [operator_namespace], "ports": [_tcp(METRICS_PORT)]}],
        "egress": [
            {"ports": [_tcp(53), {"protocol": "UDP", "port": 53}]},
            _redis(settings),
            *api_servers,
            *map(_provider, doors),
            *tracing.egress(settings.tracing),
        ],
    }


def redis_is_ours(settings: RunnerSettings) -> bool:
    """The address is a Service of the operator's namespace, such as headrace-redis.headrace-system.svc."""
    labels = (urlsplit(settings.redis_address).hostname or "").split(".")
    return len(labels) > 1 and labels[1] == settings.namespace and (len(labels) == 2 or labels[2] == "svc")


def _redis(settings: RunnerSettings) -> dict[str, Any]:
    rule: dict[str, Any] = {"ports": [_tcp(urlsplit(settings.redis_address).port or 6379)]}
    if redis_is_ours(settings):
        rule["to"] = [
            {
                "namespaceSelector": {"matchLabels": {_NAMESPACE_NAME: settings.namespace}},
                "podSelector": {"matchLabels": {LABEL_COMPONENT: "redis"}},
            }
        ]
    return rule


def _provider(door: Door) -> dict[str, Any]:
    rule: dict[str, Any] = {"ports": [_tcp(door.port)]}
    if door.public_only:
        rule["to"] = list(_PUBLIC)
    return rule


def _tcp(port: int) -> dict[str, Any]:
    return {"protocol": "TCP", "port": port}
