"""What both kinds share: the pydantic base, metadata, conditions and CEL rules.

Reading is tolerant (an operator that was rolled back must read newer objects);
``manifest`` is strict about unknown fields, as the API server is with
``--validate=strict``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Final

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

GROUP: Final = "headrace.dev"
VERSION: Final = "v1alpha1"

DECIMAL: Final = r"^[0-9]{1,6}(\.[0-9]{1,6})?$"
SIGNED_DECIMAL: Final = r"^-?[0-9]{1,6}(\.[0-9]{1,6})?$"
CURRENCY: Final = r"^[A-Z]{3}$"
SHA256: Final = r"^[0-9a-f]{64}$"
DNS_LABEL: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"


@dataclass(frozen=True)
class Rule:
    """One ``x-kubernetes-validations`` entry.

    ``rule`` is CEL over ``self`` (and ``oldSelf`` on updates); ``message`` names the
    field and the remedy, because it is all that the author of a manifest sees.
    """

    rule: str
    message: str
    field_path: str | None = None

    def as_schema(self) -> dict[str, str]:
        entry = {"rule": self.rule, "message": self.message}
        if self.field_path is not None:
            entry["fieldPath"] = self.field_path
        return entry


def exactly_one_of(*members: str, message: str) -> Rule:
    """A union as optional members and a count, so that a member can be added later without a discriminator."""
    counted = ", ".join(f"has(self.{member})" for member in members)
    return Rule(f"[{counted}].filter(x, x).size() == 1", message)


def immutable(fields: Sequence[str], *, remedy: str) -> list[Rule]:
    """One transition rule per field; ``has()`` on both sides so that adding and removing are refused too."""
    return [
        Rule(
            f"has(self.{f}) == has(oldSelf.{f}) && (!has(self.{f}) || self.{f} == oldSelf.{f})",
            f"{f} is immutable: {remedy}",
            f".{f}",
        )
        for f in fields
    ]


class ApiModel(BaseModel):
    """Base of every API type: camelCase on the wire, field docstrings become CRD descriptions."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        use_attribute_docstrings=True,
        extra="ignore",
        frozen=True,
    )

    rules: ClassVar[Sequence[Rule]] = ()

    @classmethod
    def validations(cls) -> Sequence[Rule]:
        """The CEL rules of this object's schema."""
        return cls.rules

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core_schema)
        validations = [rule.as_schema() for rule in cls.validations()]
        if validations:
            handler.resolve_ref_schema(schema)["x-kubernetes-validations"] = validations
        return schema

    def dump(self) -> dict[str, Any]:
        """The object as the API server wants it: camelCase, no absent members."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


Timestamp = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
"""RFC 3339 with whole seconds, UTC, as ``metav1.Time``."""


class ConditionStatus(StrEnum):
    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(ApiModel):
    """One observation of the object's state, in the shape of ``metav1.Condition``."""

    type: Annotated[str, Field(max_length=316)]
    """Name of the condition, PascalCase."""
    status: ConditionStatus
    """True, False or Unknown."""
    observed_generation: Annotated[int, Field(ge=0)] = 0
    """metadata.generation that this condition was derived from."""
    last_transition_time: Timestamp
    """When `status` changed last."""
    reason: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")]
    """One PascalCase word that says why."""
    message: Annotated[str, Field(max_length=1024)] = ""
    """What happened, in words, and what to do about it."""


class ObjectMeta(ApiModel):
    """The part of ``metadata`` that Headrace reads. Kubernetes defines the whole."""

    name: str = ""
    namespace: str = "default"
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)


Conditions = Annotated[
    list[Condition],
    Field(max_length=16, json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}),
]


def find_condition(conditions: Sequence[Condition], type_: str) -> Condition | None:
    return next((c for c in conditions if c.type == type_), None)
