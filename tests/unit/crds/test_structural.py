"""Types become structural schemas, or generation fails and names the place."""

from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field

from headrace_crds.base import ApiModel, Rule
from headrace_crds.crd import KINDS, NotStructuralError, custom_resource_definition, structural
from headrace_crds.generate import render

ROOT = Path(__file__).parents[3]


class Inner(ApiModel):
    """An inner object."""

    rules = (Rule("has(self.some)", "some is needed"),)
    some: Annotated[str, Field(max_length=3)] | None = None
    """Some text."""


class Outer(ApiModel):
    inner: Inner
    """Described at the field."""


class Union(ApiModel):
    value: int | str


def schema_of(model: type[ApiModel]) -> dict[str, Any]:
    schema = model.model_json_schema(by_alias=True)
    return structural(schema, schema.get("$defs", {}), model.__name__)


def test_references_are_inlined_and_the_fields_description_wins() -> None:
    inner = schema_of(Outer)["properties"]["inner"]
    assert inner["description"] == "Described at the field."
    assert inner["x-kubernetes-validations"] == [{"rule": "has(self.some)", "message": "some is needed"}]
    assert inner["properties"]["some"] == {"type": "string", "maxLength": 3, "description": "Some text."}


def test_a_union_is_an_error_that_names_the_place() -> None:
    with pytest.raises(NotStructuralError, match=r"Union\.value"):
        schema_of(Union)


def test_an_unknown_keyword_is_an_error() -> None:
    with pytest.raises(NotStructuralError, match="uniqueItems"):
        structural({"type": "array", "uniqueItems": True}, {}, "x")


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
def test_every_string_and_list_of_a_kind_is_bounded(kind: Any) -> None:
    unbounded: list[str] = []

    def walk(node: dict[str, Any], where: str) -> None:
        # A pattern of fixed length bounds as well.
        fixed = node.get("pattern", "").endswith("{64}$")
        if node["type"] == "string" and not fixed and not {"maxLength", "enum", "format"} & set(node):
            unbounded.append(where)
        if node["type"] == "array":
            if "maxItems" not in node:
                unbounded.append(where)
            walk(node["items"], f"{where}[]")
        for name, child in node.get("properties", {}).items():
            walk(child, f"{where}.{name}")

    schema = custom_resource_definition(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for part in ("spec", "status"):
        walk(schema["properties"][part], part)
    assert unbounded == []


@pytest.mark.parametrize("name", sorted(render()))
def test_generated_files_are_current(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == render()[name], "run: make generate"
