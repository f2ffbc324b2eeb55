"""The downloader's settings, read once from the environment of its Job."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from pydantic import ValidationError

from headrace_bus import ModelKey
from headrace_crds.hosts import AllowedHost, parse_hosts
from headrace_crds.source import Source
from headrace_runner.settings import SettingsError
from headrace_runner.weights.download import CHUNK_BYTES, PARALLEL, TRIES

HUGGING_FACE: Final = "https://huggingface.co"


@dataclass(frozen=True, slots=True)
class WeightsSettings:
    """``exempt`` are the hosts that may be private and speak http."""

    source: Source
    sha256: str
    cache: Path
    model: ModelKey
    pod: str
    node: str
    limit_bytes: int | None
    bytes_per_second: int | None
    parallel: int
    chunk_bytes: int
    tries: int
    exempt: tuple[AllowedHost, ...]
    hugging_face: str
    secret_dir: Path
    redis_url_file: Path | None
    termination_log: Path

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read ``HEADRACE_*``. Raises SettingsError that names the variable and quotes none of its content."""
        try:
            source = Source.model_validate_json(environment.get("HEADRACE_WEIGHTS_SOURCE") or "{}")
        except ValidationError as error:
            raise SettingsError("HEADRACE_WEIGHTS_SOURCE: expected spec.local.source as JSON") from error
        if not source.fetched or source.sha256 is None:
            raise SettingsError("HEADRACE_WEIGHTS_SOURCE: expected http, huggingFace or s3 with a sha256")
        try:
            model = ModelKey.parse(environment.get("HEADRACE_MODEL", ""))
            exempt = parse_hosts(environment.get("HEADRACE_EXEMPT_HOSTS", ""))
        except ValueError as error:
            raise SettingsError(f"HEADRACE_MODEL, HEADRACE_EXEMPT_HOSTS: {error}") from error
        redis = environment.get("HEADRACE_REDIS_URL_FILE", "")
        return cls(
            source=source,
            sha256=source.sha256,
            cache=Path(environment.get("HEADRACE_WEIGHTS_CACHE") or "/cache"),
            model=model,
            pod=environment.get("HEADRACE_POD") or "weights",
            node=environment.get("HEADRACE_NODE", ""),
            limit_bytes=_integer(environment, "HEADRACE_WEIGHTS_CACHE_LIMIT_BYTES", 0, 0, 1 << 60) or None,
            bytes_per_second=_integer(environment, "HEADRACE_WEIGHTS_BYTES_PER_SECOND", 0, 0, 1 << 50) or None,
            parallel=_integer(environment, "HEADRACE_WEIGHTS_PARALLEL", PARALLEL, 1, 64),
            chunk_bytes=_integer(environment, "HEADRACE_WEIGHTS_CHUNK_BYTES", CHUNK_BYTES, 4096, 1 << 30),
            tries=_integer(environment, "HEADRACE_WEIGHTS_TRIES", TRIES, 1, 100),
            exempt=exempt,
            hugging_face=environment.get("HEADRACE_WEIGHTS_HUGGING_FACE") or HUGGING_FACE,
            secret_dir=Path(environment.get("HEADRACE_WEIGHTS_SECRET_DIR") or "/etc/headrace/source"),
            redis_url_file=Path(redis) if redis else None,
            termination_log=Path(environment.get("HEADRACE_TERMINATION_LOG") or "/dev/termination-log"),
        )


def _integer(environment: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    raw = environment.get(name) or str(default)
    value = int(raw) if raw.isascii() and raw.isdigit() and len(raw) <= 19 else low - 1
    if not low <= value <= high:
        raise SettingsError(f"{name}: expected an integer between {low} and {high}")
    return value
