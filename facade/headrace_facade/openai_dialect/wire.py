"""Reading a request's body: JSON in bounded depth, one problem told with its place.

`null` is absence everywhere, as clients write out what they do not set.
"""

import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, TypeVar

from fastapi import Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError, from_json

from headrace_facade.errors import BadRequest, WrongContentType
from headrace_facade.openai_dialect.errors import Refused

MEMBERS_LIMIT: Final = 256
"""Of one object that is no JSON Schema."""
_KINDS: Final = {
    "missing": "missing_required_parameter",
    "extra_forbidden": "unknown_parameter",
    "unsupported": "unsupported_parameter",
}
_SAID: Final = {"missing": "is required", "extra_forbidden": "no such parameter: see the API's page in docs/"}

Number = Annotated[float, Field(allow_inf_nan=False)]
Refusals = Mapping[str, tuple[str, tuple[object, ...]]]
"""By a parameter's name: why it cannot be honoured, and the values that ask for nothing."""


class Wire(BaseModel):
    """An object of a request."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        if len(value) > MEMBERS_LIMIT:
            raise PydanticCustomError("too_many_members", "has too many members")
        return {name: member for name, member in value.items() if member is not None}


Body = TypeVar("Body", bound=Wire)


async def read(request: Request, model: type[Body], refused: Refusals) -> Body:
    """Raises WrongContentType, BadRequest and Refused."""
    kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise WrongContentType("the body is not declared as JSON: send Content-Type: application/json")
    try:
        document = from_json(await request.body(), allow_inf_nan=False)
    except ValueError as error:
        # What it says quotes no more than positions.
        raise BadRequest(f"the body cannot be read as JSON in UTF-8: {error}") from None
    if not isinstance(document, dict):
        raise Refused("", "the body needs to be a JSON object", "invalid_type")
    return parse(document, model, refused)


def parse(document: dict[str, Any], model: type[Body], refused: Refusals) -> Body:
    """Raises Refused with the first problem."""
    for name, value in document.items():
        if value is None:
            continue
        if name in refused:
            why, neutral = refused[name]
            if not any(value == each and type(value) is type(each) for each in neutral):
                raise Refused(name, why, "unsupported_parameter")
        elif name not in model.model_fields:
            raise Refused(name[:64], _SAID["extra_forbidden"], "unknown_parameter")
    try:
        return model.model_validate({name: value for name, value in document.items() if name not in refused})
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    told = _SAID.get(problem["type"]) or problem["msg"].removeprefix("Value error, ")
    kind = "invalid_type" if problem["type"].endswith("_type") else "invalid_value"
    raise Refused(_place(problem["loc"]), told, _KINDS.get(problem["type"], kind))


def _place(location: tuple[int | str, ...]) -> str:
    """("messages", 0, "role") → messages[0].role; a name that the caller made up is cut."""
    name = ""
    for part in location:
        piece = f"[{part}]" if isinstance(part, int) else part[:64]
        name += piece if isinstance(part, int) or not name else f".{piece}"
    return name


def unsupported(message: str) -> PydanticCustomError:
    """For validators: known, and not to be had here."""
    return PydanticCustomError("unsupported", "{told}", {"told": message})


def wrong(message: str) -> PydanticCustomError:
    """For validators."""
    return PydanticCustomError("wrong", "{told}", {"told": message})


def listed(kind: Callable[[str], object] = str) -> BeforeValidator:
    """A text that may stand for a list of one; `kind` makes the one of it."""
    return BeforeValidator(lambda value: [kind(value)] if isinstance(value, str) else value)


def json_text(value: object) -> str:
    """Compact, members in the order given: it steers the model."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
