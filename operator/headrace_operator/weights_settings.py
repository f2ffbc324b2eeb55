"""The chart's `weights`, which reaches the operator as one JSON document."""

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from headrace_crds.hosts import parse_hosts
from headrace_crds.source import ENDPOINT
from headrace_operator.decide.snapshots import WeightsSettings

_FOLDER: Final = r"^(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+$"
_NAME: Final = "HEADRACE_WEIGHTS"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", alias_generator=to_camel)


class _Cache(_Strict):
    node_directory: Annotated[str, Field(pattern=rf"^$|{_FOLDER}")] = ""
    limit_bytes: Annotated[int, Field(ge=0)] = 0


class _Weights(_Strict):
    cache: _Cache = Field(default_factory=_Cache)
    allowed_hosts: list[str] = Field(default_factory=list)
    host_paths: list[Annotated[str, Field(pattern=_FOLDER)]] = Field(default_factory=list)
    bandwidth_bytes_per_second: Annotated[int, Field(ge=0)] = 0
    parallel: Annotated[int, Field(ge=1, le=64)] = 4
    hugging_face_endpoint: Annotated[str, Field(pattern=ENDPOINT)] = "https://huggingface.co"
    resources: dict[str, Any] = Field(default_factory=dict)


def read_weights(text: str) -> WeightsSettings:
    """Raises ValueError that names the variable and the member."""
    try:
        read = _Weights.model_validate_json(text or "{}")
        parse_hosts(",".join(read.allowed_hosts))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise ValueError(f"{_NAME}: {'.'.join(map(str, first['loc']))}: {first['type']}") from None
    except ValueError as error:
        raise ValueError(f"{_NAME}: allowedHosts: {error}") from None
    return WeightsSettings(
        node_directory=read.cache.node_directory,
        limit_bytes=read.cache.limit_bytes or None,
        allowed_hosts=tuple(read.allowed_hosts),
        host_paths=tuple(read.host_paths),
        bytes_per_second=read.bandwidth_bytes_per_second or None,
        parallel=read.parallel,
        hugging_face=read.hugging_face_endpoint,
        resources=read.resources,
    )
