"""``spec.cache``: results of deterministic requests that are given again without asking the model."""

from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field

from headrace_crds.base import ApiModel

ENTRY_LIMIT_BYTES: Final = 64 * 1024
"""Of one kept result, as JSON."""


class ResponseCache(ApiModel):
    """Results that are kept to be given again: of requests with temperature 0 or a seed, without tools, to the same
    model at the same generation, from the same namespace. One that is given again costs no tokens and does not reach
    the model; usage.cacheHit says so."""

    ttl_seconds: Annotated[int, Field(ge=1, le=2_592_000)] = 3600
    """How long a result is kept."""
    max_entries: Annotated[int, Field(ge=1, le=10_000)] = 1000
    """Results kept in Redis at the same time, each of at most 64 KiB; beyond it the one that ends first goes."""


class CachePolicy(StrEnum):
    INHERIT = "Inherit"
    NONE = "None"


class CacheUse(ApiModel):
    """A cache as an attempt uses it."""

    incarnation: Annotated[str, Field(max_length=128)]
    """uid and generation of the LLMModel: whatever is changed about it, kept results are not given any more."""
    ttl_seconds: int
    """How long a result is kept."""
    max_entries: int
    """Results kept at the same time."""


def cache_use(cache: ResponseCache | None, uid: str, generation: int) -> CacheUse | None:
    """What goes into the work; None where the model has no cache."""
    if cache is None:
        return None
    return CacheUse(incarnation=f"{uid}/{generation}", ttl_seconds=cache.ttl_seconds, max_entries=cache.max_entries)
