"""The runner's settings, read once from the environment by its composition root."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from headrace_bus import ModelKey
from headrace_crds.remote import MAX_CONCURRENCY_LIMIT
from headrace_runner.remote.settings import RemoteSettings, read_remote

_DEFAULT_LEASE_SECONDS: Final = 15
_DEFAULT_DRAIN_SECONDS: Final = 5


class SettingsError(ValueError):
    """The runner cannot start as it is set up; the message names the setting and quotes no secret."""


@dataclass(frozen=True, slots=True)
class RunnerSettings:
    """Which model this pod serves, and where Redis, engine and API server are.

    ``kubeconfig`` stands in for the pod's service account where there is none: in tests and outside a cluster.
    """

    model: ModelKey
    generation: int
    pod: str
    redis_url_file: Path
    parallelism: int = 1
    lease_seconds: int = _DEFAULT_LEASE_SECONDS
    drain_seconds: int = _DEFAULT_DRAIN_SECONDS
    """So long a stopping runner lets what runs finish."""
    engine_socket: Path = Path("/run/headrace/engine.sock")
    engine_state: Path = Path("/run/headrace/engine.json")
    http_port: int = 8080
    kubeconfig: Path | None = None
    remote: RemoteSettings | None = None
    """None: the pod's own engine has the model."""

    @property
    def lease_ms(self) -> int:
        return self.lease_seconds * 1000

    @property
    def renew_every_seconds(self) -> float:
        return self.lease_seconds / 3

    def redis_url(self) -> str:
        """The URL with user and password. Raises SettingsError where the file cannot be read."""
        try:
            return self.redis_url_file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise SettingsError(f"HEADRACE_REDIS_URL_FILE: {error}") from error

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read ``HEADRACE_*``. Raises SettingsError that names the variable."""
        try:
            model = ModelKey.parse(_text(environment, "HEADRACE_MODEL"))
        except ValueError as error:
            raise SettingsError(f"HEADRACE_MODEL: {error}") from error
        try:
            remote = read_remote(environment)
        except ValueError as error:
            raise SettingsError(str(error)) from error
        tasks = 1 if remote is None else remote.remote.max_concurrency
        most_tasks = 256 if remote is None else MAX_CONCURRENCY_LIMIT
        kubeconfig = environment.get("HEADRACE_KUBECONFIG", "")
        return cls(
            model=model,
            generation=_integer(environment, "HEADRACE_MODEL_GENERATION", 0, 0, 1 << 53),
            pod=_text(environment, "HEADRACE_POD"),
            redis_url_file=Path(_text(environment, "HEADRACE_REDIS_URL_FILE", "/etc/headrace/redis/url")),
            parallelism=_integer(environment, "HEADRACE_PARALLELISM", tasks, 1, most_tasks),
            lease_seconds=_integer(environment, "HEADRACE_LEASE_SECONDS", _DEFAULT_LEASE_SECONDS, 1, 3600),
            drain_seconds=_integer(environment, "HEADRACE_DRAIN_SECONDS", _DEFAULT_DRAIN_SECONDS, 1, 3600),
            engine_socket=Path(_text(environment, "HEADRACE_ENGINE_SOCKET", "/run/headrace/engine.sock")),
            engine_state=Path(_text(environment, "HEADRACE_ENGINE_STATE", "/run/headrace/engine.json")),
            http_port=_integer(environment, "HEADRACE_HTTP_PORT", 8080, 0, 65535),
            kubeconfig=Path(kubeconfig) if kubeconfig else None,
            remote=remote,
        )


def _text(environment: Mapping[str, str], name: str, default: str = "") -> str:
    value = environment.get(name) or default
    if not value:
        raise SettingsError(f"{name}: not set")
    return value


def _integer(environment: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    raw = environment.get(name) or str(default)
    try:
        value = int(raw)
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise SettingsError(f"{name}: expected an integer between {low} and {high}")
    return value
