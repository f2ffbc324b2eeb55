"""The operator's settings, read once from the environment by its composition root."""

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

from headrace_crds.hosts import parse_hosts
from headrace_crds.quota import LLMQuotaSpec
from headrace_operator.decide.retention import Caps
from headrace_operator.decide.snapshots import RunnerSettings
from headrace_operator.decide.tracing import RunnerTracing
from headrace_operator.decide.window import Bounds
from headrace_operator.webhooks.policy import WebhookSettings
from headrace_operator.weights_settings import read_weights

_REDIS_SCHEMES: Final = ("redis", "rediss", "unix")
_PULL_POLICIES: Final = ("IfNotPresent", "Always", "Never")


@dataclass(frozen=True, slots=True)
class Settings:
    """All that may differ between two installations."""

    redis_url_file: Path
    """File with the URL of the operator's own Redis user, credentials included."""
    runner_redis_secret: bytes = field(repr=False)
    """Key from which each model's Redis password is derived. Another key makes every runner pod start again."""
    runner: RunnerSettings
    """What runner pods are made from. A change rolls them."""
    namespace: str
    """The operator's own namespace: its Lease lies there, and Redis' NetworkPolicy peer."""
    identity: str
    """Who holds the Lease: the pod's name."""
    watch_namespaces: tuple[str, ...] = ()
    """Namespaces to serve; empty means all. Objects elsewhere are left alone."""
    sharing_model_namespaces: tuple[str, ...] = ()
    """Namespaces whose models may serve other namespaces where their spec.sharing says so."""
    window: Bounds = field(default_factory=Bounds)
    """How many tasks are handed out at once; the others wait in their objects."""
    default_quota: LLMQuotaSpec = field(default_factory=lambda: LLMQuotaSpec())
    """What namespaces are granted that have no LLMQuota, or one that leaves it out."""
    kubeconfig: str | None = None
    """File to reach the API server with; absent means the pod's service account."""
    retention: Caps = field(default_factory=Caps)
    """How many finished tasks are kept."""
    retention_seconds: float = 5.0
    """Between two looks for finished tasks that are to be deleted."""
    webhooks: WebhookSettings = field(default_factory=WebhookSettings)
    """Receivers and signing keys."""
    http_port: int = 8080
    """Health and metrics. 0 takes a free port."""
    workers: int = 8
    """Tasks reconciled at the same time. More load the API server more."""
    sweep_seconds: float = 30.0
    """Between two set differences of Redis and objects: how long a missed event can go unnoticed."""
    relist_seconds: float = 300.0
    """Between two comparisons of remembered tasks with what the API server lists (metadata, in pages)."""
    reap_seconds: float = 1.0
    """Between two looks for ended leases: what a vanished runner costs beyond its lease."""
    election_lease_seconds: float = 15.0
    """After this long without a renewal another replica takes over. Renewed every fifth of it."""

    def serves(self, namespace: str) -> bool:
        """Whether the namespace is watched: elsewhere there may be no rights to look."""
        return not self.watch_namespaces or namespace in self.watch_namespaces

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read ``HEADRACE_*``. Raises ValueError that names the variable."""
        namespace = _text(environment, "HEADRACE_NAMESPACE")
        secret_file = Path(_text(environment, "HEADRACE_RUNNER_REDIS_SECRET_FILE"))
        secret = _read("HEADRACE_RUNNER_REDIS_SECRET_FILE", secret_file).strip()
        if len(secret) < 16:
            raise ValueError("HEADRACE_RUNNER_REDIS_SECRET_FILE: needs at least 16 bytes")
        return cls(
            redis_url_file=Path(_text(environment, "HEADRACE_REDIS_URL_FILE")),
            runner_redis_secret=secret,
            runner=_runner(environment, namespace),
            namespace=namespace,
            identity=environment.get("HEADRACE_IDENTITY") or socket.gethostname(),
            watch_namespaces=_words(environment.get("HEADRACE_WATCH_NAMESPACES", "")),
            sharing_model_namespaces=_words(environment.get("HEADRACE_SHARING_MODEL_NAMESPACES", "")),
            window=_bounds(environment),
            default_quota=_default_quota(environment.get("HEADRACE_DEFAULT_QUOTA", "")),
            kubeconfig=environment.get("HEADRACE_KUBECONFIG") or None,
            retention=Caps(
                per_namespace=int(_number(environment, "HEADRACE_RETENTION_PER_NAMESPACE", 10_000, 0, 1_000_000)),
                per_cluster=int(_number(environment, "HEADRACE_RETENTION_PER_CLUSTER", 20_000, 0, 1_000_000)),
            ),
            retention_seconds=_number(environment, "HEADRACE_RETENTION_SECONDS", 5, 0.1, 3600),
            webhooks=WebhookSettings.from_environment(environment),
            http_port=int(_number(environment, "HEADRACE_HTTP_PORT", 8080, 0, 65535)),
            workers=int(_number(environment, "HEADRACE_WORKERS", 8, 1, 64)),
            sweep_seconds=_number(environment, "HEADRACE_SWEEP_SECONDS", 30, 0.1, 3600),
            relist_seconds=_number(environment, "HEADRACE_RELIST_SECONDS", 300, 1, 86400),
            reap_seconds=_number(environment, "HEADRACE_REAP_SECONDS", 1, 0.05, 60),
            election_lease_seconds=_number(environment, "HEADRACE_ELECTION_LEASE_SECONDS", 15, 1, 300),
        )

    def redis_url(self) -> str:
        """The URL with user and password. Raises ValueError, which never quotes it."""
        name = "HEADRACE_REDIS_URL_FILE"
        data = _read(name, self.redis_url_file)
        try:
            url = data.decode().strip()
            parts = urlsplit(url)
            usable = parts.scheme in _REDIS_SCHEMES and (parts.port or 1) > 0 and bool(parts.hostname or parts.path)
        except ValueError:
            # Its text holds pieces of the URL, and a password with a slash in it ends up where a port should be.
            usable = False
        if not usable:
            raise ValueError(f"{name}: not a redis://, rediss:// or unix:// URL; percent-encode user and password")
        return url


def _runner(environment: Mapping[str, str], namespace: str) -> RunnerSettings:
    policy = environment.get("HEADRACE_RUNNER_IMAGE_PULL_POLICY") or "IfNotPresent"
    if policy not in _PULL_POLICIES:
        raise ValueError(f"HEADRACE_RUNNER_IMAGE_PULL_POLICY: expected one of {', '.join(_PULL_POLICIES)}")
    # NetworkPolicies see the port behind the Service; where that is unusual the chart names it.
    ports = {443, 6443, int(_number(environment, "HEADRACE_API_SERVER_PORT", 6443, 1, 65535))}
    return RunnerSettings(
        namespace=namespace,
        image=_text(environment, "HEADRACE_RUNNER_IMAGE"),
        image_pull_policy=policy,
        image_pull_secrets=_words(environment.get("HEADRACE_RUNNER_IMAGE_PULL_SECRETS", "")),
        resources=_resources(environment.get("HEADRACE_RUNNER_RESOURCES", "")),
        redis_address=_text(environment, "HEADRACE_RUNNER_REDIS_ADDRESS"),
        lease_seconds=int(_number(environment, "HEADRACE_LEASE_SECONDS", 15, 1, 3600)),
        api_server_ports=tuple(sorted(ports)),
        vram_reserve_mib=int(_number(environment, "HEADRACE_VRAM_RESERVE_MB", 1024, 0, 1 << 20)),
        max_vram_usage_percent=int(_number(environment, "HEADRACE_MAX_VRAM_USAGE_PERCENT", 95, 1, 100)),
        remote_allowed_hosts=_hosts(environment, "HEADRACE_REMOTE_ALLOWED_HOSTS"),
        tracing=RunnerTracing.from_environment(environment),
        weights=read_weights(environment.get("HEADRACE_WEIGHTS", "")),
    )


def _hosts(environment: Mapping[str, str], name: str) -> tuple[str, ...]:
    text = environment.get(name, "")
    try:
        parse_hosts(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return _words(text)


def _bounds(environment: Mapping[str, str]) -> Bounds:
    # A byte bound is at least as large as the largest input.
    most = Bounds()
    return Bounds(
        model_tasks=int(_number(environment, "HEADRACE_QUEUE_MODEL_TASKS", most.model_tasks, 1, 1e6)),
        model_bytes=int(_number(environment, "HEADRACE_QUEUE_MODEL_BYTES", most.model_bytes, 2**20, 2**40)),
        namespace_tasks=int(_number(environment, "HEADRACE_QUEUE_NAMESPACE_TASKS", most.namespace_tasks, 1, 1e6)),
        namespace_bytes=int(_number(environment, "HEADRACE_QUEUE_NAMESPACE_BYTES", most.namespace_bytes, 2**20, 2**40)),
    )


def _default_quota(text: str) -> LLMQuotaSpec:
    try:
        spec = LLMQuotaSpec.model_validate_json(text or "{}")
    except ValueError as error:
        raise ValueError("HEADRACE_DEFAULT_QUOTA: expected the members of an LLMQuota's spec as JSON") from error
    if spec.budgets is not None:
        raise ValueError("HEADRACE_DEFAULT_QUOTA: budgets need an LLMQuota in the namespace, whose status keeps them")
    return spec


def _resources(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except ValueError as error:
        raise ValueError(f"HEADRACE_RUNNER_RESOURCES: {error}") from error
    if not isinstance(value, dict) or set(value) - {"runner", "engine", "remote"}:
        raise ValueError('HEADRACE_RUNNER_RESOURCES: expected {"runner": {…}, "engine": {…}, "remote": {…}}')
    return value


def _text(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, "").strip()
    if not value:
        raise ValueError(f"{name}: not set")
    return value


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for part in text.split(",") if (word := part.strip()))


def _number(environment: Mapping[str, str], name: str, default: float, low: float, high: float) -> float:
    raw = environment.get(name, "")
    try:
        value = float(raw) if raw else default
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise ValueError(f"{name}: expected a number between {low} and {high}")
    return value


def _read(variable: str, path: Path | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{variable}: {error}") from error
