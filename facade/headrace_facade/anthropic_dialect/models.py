"""`GET /v1/models` as Anthropic's clients read it: they send the header `anthropic-version`."""

from collections.abc import Mapping, Sequence
from typing import Final

from headrace_crds.model import LLMModel
from headrace_facade.anthropic_dialect.content import Json
from headrace_facade.caller import Caller
from headrace_facade.openai_dialect.errors import Refused
from headrace_facade.openai_dialect.port import told_name

VERSION_HEADER: Final = "anthropic-version"
_PAGE: Final = 20
_PAGE_LIMIT: Final = 1000
_EPOCH: Final = "1970-01-01T00:00:00Z"


def models_page(models: Sequence[LLMModel], caller: Caller, query: Mapping[str, str]) -> Json:
    """A page of `limit` models after `after_id`, or before `before_id`. Raises Refused."""
    limit = query.get("limit", str(_PAGE))
    if not (limit.isascii() and limit.isdigit() and len(limit) <= 4 and 1 <= int(limit) <= _PAGE_LIMIT):
        raise Refused("limit", f"needs to be a number from 1 to {_PAGE_LIMIT}")
    found = [model_info(each, caller) for each in models]
    ids = [each["id"] for each in found]
    if "after_id" in query:
        found = found[_at(ids, query["after_id"], "after_id") + 1 :]
    if "before_id" in query:
        found = found[: max(_at(ids, query["before_id"], "before_id") - (len(ids) - len(found)), 0)]
    backwards = "before_id" in query and "after_id" not in query
    page = found[-int(limit) :] if backwards else found[: int(limit)]
    return {
        "data": page,
        "has_more": len(page) < len(found),
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
    }


def model_info(model: LLMModel, caller: Caller) -> Json:
    """One model; what it cannot be asked for is null."""
    named = told_name(f"{model.metadata.namespace}/{model.metadata.name}", caller)
    return {
        "type": "model",
        "id": named,
        "display_name": named,
        "created_at": model.metadata.creation_timestamp or _EPOCH,
        "lifecycle": "active",
    }


def _at(ids: list[str], named: str, place: str) -> int:
    if named not in ids:
        raise Refused(place, "is none of the models: start again without it")
    return ids.index(named)
