"""The runner's network: metrics in; names, Redis and the API server out. The engine has none (seccomp)."""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from headrace_crds.names import LABEL_COMPONENT
from headrace_operator.decide.snapshots import RunnerSettings

METRICS_PORT: Final = 8080
_NAMESPACE_NAME: Final = "kubernetes.io/metadata.name"


def policy(labels: Mapping[str, str], settings: RunnerSettings) -> dict[str, Any]:
    """Probes come from the node, which network policies do not keep out."""
    operator_namespace = {"namespaceSelector": {"matchLabels": {_NAMESPACE_NAME: settings.namespace}}}
    return {
        "podSelector": {"matchLabels": dict(labels)},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [operator_namespace], "ports": [_tcp(METRICS_PORT)]}],
        "egress": [
            {"ports": [_tcp(53), {"protocol": "UDP", "port": 53}]},
            _redis(settings),
            {"ports": [_tcp(port) for port in settings.api_server_ports]},
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


def _tcp(port: int) -> dict[str, Any]:
    return {"protocol": "TCP", "port": port}
