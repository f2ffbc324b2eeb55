"""What the facade is told by its environment."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Self

from headrace_crds.task import DEADLINE_LIMIT_SECONDS
from headrace_facade.bounds import Bounds

SERVICE_ACCOUNT_CA: Final = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"
SERVICE_ACCOUNT_TOKEN: Final = "/var/run/secrets/kubernetes.io/serviceaccount/token"  # noqa: S105 # a path
_RATE_MOST: Final = 1_000_000_000
_HOURS_MOST: Final = 720


@dataclass(frozen=True)
class Settings:
    """Ports are TCP ports; a `metrics_port` of 0 switches metrics off."""

    kube_url: str
    """The API server. HEADRACE_KUBE_URL, else the cluster's own."""
    kube_ca_file: str | None = SERVICE_ACCOUNT_CA
    """PEM file of the authorities that may sign its certificate. HEADRACE_KUBE_CA_FILE; empty takes the system's."""
    host: str = "0.0.0.0"  # noqa: S104 # a pod is reached by its address
    """HEADRACE_HOST."""
    port: int = 8000
    """HEADRACE_PORT."""
    metrics_port: int = 9090
    """HEADRACE_METRICS_PORT. Apart from the API, so that a Service does not publish it."""
    default_namespace: str = "default"
    """HEADRACE_DEFAULT_NAMESPACE. Of requests that name none; never read from a token: nobody has verified it here."""
    default_ttl_seconds: int | None = 3600
    """HEADRACE_DEFAULT_TTL_SECONDS. How long a task is kept after its end when its request does not say; empty: until
    somebody deletes it, within the operator's retention."""
    redis_url_file: str | None = None
    """HEADRACE_REDIS_URL_FILE. URL of a Redis user that may look at queues; without it their bounds are not checked and
    positions not told."""
    bounds: Bounds = field(default_factory=Bounds)
    """HEADRACE_QUEUE_MODEL_TASKS and HEADRACE_QUEUE_NAMESPACE_TASKS, equal to the operator's."""
    kube_token_file: str | None = SERVICE_ACCOUNT_TOKEN
    """HEADRACE_KUBE_TOKEN_FILE. The facade's own token, read again as it is renewed, to verify callers and to know
    models; where there is no such file tasks are served, and calls are not."""
    keys_namespace: str = "headrace-system-keys"
    """HEADRACE_KEYS_NAMESPACE. Where the Secrets of API keys lie; nothing else should."""
    watch_namespaces: tuple[str, ...] = ()
    """HEADRACE_WATCH_NAMESPACES, comma-separated, equal to the operator's; empty: all."""
    sharing_model_namespaces: tuple[str, ...] = ()
    """HEADRACE_SHARING_MODEL_NAMESPACES, comma-separated, equal to the operator's."""
    requests_per_minute: int = 0
    """HEADRACE_REQUESTS_PER_MINUTE. Calls of one identity, over all replicas; 0: no limit."""
    tokens_per_minute: int = 0
    """HEADRACE_TOKENS_PER_MINUTE. Of one identity's calls, prompts and completions; 0: no limit."""
    hold_seconds: int = 60
    """HEADRACE_HOLD_SECONDS. How long a call waits for a runner before it is a 503."""
    session_ttl_hours: int = 24
    """SESSION_TTL_HOURS. How long a session is kept after its last answer, 720 at most."""
    allowed_origins: tuple[str, ...] = ()
    """HEADRACE_ALLOWED_ORIGINS, comma-separated: pages that may open WebSockets beside those of the facade's own host,
    as browsers name them: https://chat.example."""
    socket_send_s: float = 30.0
    """So long the client of a WebSocket may read nothing of what is there for it."""
    socket_idle_s: float = 300.0
    """So long nothing may be asked on a WebSocket for generations."""
    calls_limit: int = 4096
    """Calls under way at once; beyond it 503."""
    body_limit_bytes: int = 1024 * 1024
    """Larger request bodies are refused with 413. The API server's own limits are tighter for each field."""
    bodies_limit_bytes: int = 16 * 1024 * 1024
    """Bodies held for all requests together; beyond it 503. A body's text takes up to nine times its size while it is
    parsed and passed on, so that this is what the pod's memory limit is made for."""
    answers_limit_bytes: int = 32 * 1024 * 1024
    """Answers of the API server, not yet parsed, held for all requests together; beyond it 503."""
    requests_limit: int = 4096
    """Requests under way at once, probes aside; beyond it 503."""
    connections_limit: int = 8192
    """Open connections; beyond it the server itself answers 503 in plain text, probes included."""
    kube_timeout_s: float = 10.0
    """For one request to the API server, waiting for a connection included."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Raises ValueError with the variable's name when one is missing or no number."""
        url = environment.get("HEADRACE_KUBE_URL")
        if not url:
            host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT", "443")
            if not host:
                raise ValueError("HEADRACE_KUBE_URL is needed outside of a cluster: the URL of the API server")
            url = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        return cls(
            kube_url=url.rstrip("/"),
            kube_ca_file=environment.get("HEADRACE_KUBE_CA_FILE", cls.kube_ca_file) or None,
            host=environment.get("HEADRACE_HOST", cls.host),
            port=_port(environment, "HEADRACE_PORT", cls.port),
            metrics_port=_port(environment, "HEADRACE_METRICS_PORT", cls.metrics_port),
            default_namespace=environment.get("HEADRACE_DEFAULT_NAMESPACE") or cls.default_namespace,
            redis_url_file=environment.get("HEADRACE_REDIS_URL_FILE") or None,
            bounds=Bounds(
                model_tasks=_tasks(environment, "HEADRACE_QUEUE_MODEL_TASKS", Bounds.model_tasks),
                namespace_tasks=_tasks(environment, "HEADRACE_QUEUE_NAMESPACE_TASKS", Bounds.namespace_tasks),
            ),
            kube_token_file=environment.get("HEADRACE_KUBE_TOKEN_FILE", cls.kube_token_file) or None,
            keys_namespace=environment.get("HEADRACE_KEYS_NAMESPACE") or cls.keys_namespace,
            watch_namespaces=_words(environment.get("HEADRACE_WATCH_NAMESPACES", "")),
            sharing_model_namespaces=_words(environment.get("HEADRACE_SHARING_MODEL_NAMESPACES", "")),
            hold_seconds=_seconds(environment, "HEADRACE_HOLD_SECONDS", cls.hold_seconds) or cls.hold_seconds,
            session_ttl_hours=_hours(environment, "SESSION_TTL_HOURS", cls.session_ttl_hours),
            allowed_origins=_words(environment.get("HEADRACE_ALLOWED_ORIGINS", "")),
            requests_per_minute=_rate(environment, "HEADRACE_REQUESTS_PER_MINUTE"),
            tokens_per_minute=_rate(environment, "HEADRACE_TOKENS_PER_MINUTE"),
            default_ttl_seconds=_seconds(environment, "HEADRACE_DEFAULT_TTL_SECONDS", cls.default_ttl_seconds),
        )


def _port(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, str(default))
    if not text.isdecimal() or int(text) > 65535:
        raise ValueError(f"{name} is {text!r}; it needs a port from 0 to 65535")
    return int(text)


def _seconds(environment: Mapping[str, str], name: str, default: int | None) -> int | None:
    """Empty is None, absent the default."""
    text = environment.get(name)
    if not text:
        return default if text is None else None
    if not text.isdecimal() or int(text) > DEADLINE_LIMIT_SECONDS:
        raise ValueError(f"{name} is {text!r}; it needs seconds from 0 to {DEADLINE_LIMIT_SECONDS}")
    return int(text)


def _hours(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name) or str(default)
    if not text.isdecimal() or not 1 <= int(text) <= _HOURS_MOST:
        raise ValueError(f"{name} is {text!r}; it needs hours from 1 to {_HOURS_MOST}")
    return int(text)


def _tasks(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name) or str(default)
    if not text.isdecimal() or not int(text):
        raise ValueError(f"{name} is {text!r}; it needs a number of tasks from 1 on")
    return int(text)


def _rate(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name) or "0"
    if not text.isdecimal() or int(text) > _RATE_MOST:
        raise ValueError(f"{name} is {text!r}; it needs a number per minute from 0 to {_RATE_MOST}")
    return int(text)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in (part.strip() for part in text.split(",")) if word)
