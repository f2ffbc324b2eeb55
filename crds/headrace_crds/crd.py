"""CustomResourceDefinitions out of the pydantic types.

pydantic emits JSON Schema; the API server takes *structural* schemas. The difference
is inlined here, and anything that has no structural form is an error at generation
time, never a silent loss.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from headrace_crds.base import GROUP, VERSION, ApiModel
from headrace_crds.model import LLMModel
from headrace_crds.quota import LLMQuota
from headrace_crds.task import LLMTask

_DROPPED: Final = {"title", "$defs"}
_PASSED: Final = {
    "type",
    "description",
    "enum",
    "pattern",
    "format",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "maxProperties",
    "minimum",
    "maximum",
    "required",
    "default",
}


class NotStructuralError(ValueError):
    """A type has no structural form; the message names the place."""


@dataclass(frozen=True)
class Column:
    """One ``additionalPrinterColumns`` entry; ``priority`` 1 shows with ``-o wide`` only."""

    name: str
    json_path: str
    type: str = "string"
    priority: int = 0
    description: str = ""

    def as_schema(self) -> dict[str, Any]:
        column: dict[str, Any] = {"name": self.name, "type": self.type, "jsonPath": self.json_path}
        if self.priority:
            column["priority"] = self.priority
        if self.description:
            column["description"] = self.description
        return column


@dataclass(frozen=True)
class Kind:
    """What a CRD needs beside the schema."""

    model: type[ApiModel]
    plural: str
    singular: str
    short_names: tuple[str, ...]
    columns: tuple[Column, ...]
    scale: Mapping[str, str] | None = field(default=None)

    @property
    def name(self) -> str:
        return self.model.__name__

    @property
    def crd_name(self) -> str:
        return f"{self.plural}.{GROUP}"


_AGE: Final = Column("Age", ".metadata.creationTimestamp", "date")

KINDS: Final = (
    Kind(
        LLMModel,
        plural="llmmodels",
        singular="llmmodel",
        short_names=("llmm",),
        columns=(
            Column("Phase", ".status.phase"),
            Column("Ready", '.status.conditions[?(@.type=="Ready")].status'),
            Column("Reason", '.status.conditions[?(@.type=="Ready")].reason'),
            Column("Replicas", ".status.readyReplicas", "integer", description="Runner pods that serve"),
            Column("GPU", ".spec.local.gpu.count", "integer", 1),
            Column("Provider", ".spec.remote.provider", priority=1),
            Column("Breaker", ".status.provider.breaker", priority=1),
            Column("Message", '.status.conditions[?(@.type=="Ready")].message', priority=1),
            _AGE,
        ),
        scale={
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        },
    ),
    Kind(
        LLMTask,
        plural="llmtasks",
        singular="llmtask",
        short_names=("llmt",),
        columns=(
            Column("Model", ".spec.modelRef.name"),
            Column("Phase", ".status.phase"),
            Column("Reason", ".status.reason"),
            Column("Attempt", ".status.attempt", "integer"),
            Column("Tokens", ".status.usage.completionTokens", "integer"),
            Column("Message", ".status.message", priority=1),
            _AGE,
        ),
    ),
    Kind(
        LLMQuota,
        plural="llmquotas",
        singular="llmquota",
        short_names=("llmq",),
        columns=(
            Column("Queued", ".status.queued", "integer"),
            Column("Running", ".status.running", "integer"),
            Column("Waiting", ".status.waiting", "integer"),
            Column("Max queued", ".spec.maxQueuedTasks", "integer"),
            Column("Max running", ".spec.maxRunningTasks", "integer"),
            Column("Priority", ".spec.priorityCeiling", "integer", description="Priority ceiling"),
            _AGE,
        ),
    ),
)


def structural(node: Mapping[str, Any], defs: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Rewrite one JSON Schema node as a structural schema.

    Raises NotStructuralError for unions other than "or null" and for keywords that
    the API server does not know.
    """
    if "$ref" in node:
        target = defs[node["$ref"].removeprefix("#/$defs/")]
        return structural({**target, **{k: v for k, v in node.items() if k != "$ref"}}, defs, where)
    if "anyOf" in node:
        branches = [b for b in node["anyOf"] if b.get("type") != "null"]
        if len(branches) != 1:
            raise NotStructuralError(f"{where}: a union has no structural form; use optional members and a CEL rule")
        siblings = {
            k: v for k, v in node.items() if k not in ("anyOf", "default") or (k == "default" and v is not None)
        }
        return structural({**branches[0], **siblings}, defs, where)
    out: dict[str, Any] = {}
    for key, value in node.items():
        if key in _DROPPED:
            continue
        if key == "const":
            out["enum"] = [value]
        elif key == "properties":
            out["properties"] = {n: structural(p, defs, f"{where}.{n}") for n, p in value.items()}
        elif key in ("items", "additionalProperties"):
            out[key] = structural(value, defs, f"{where}[]")
        elif key in _PASSED or key.startswith("x-kubernetes-"):
            out[key] = " ".join(value.split()) if key == "description" else value
        else:
            raise NotStructuralError(f"{where}: {key!r} has no structural form")
    if "type" not in out:
        raise NotStructuralError(f"{where}: no type")
    return out


def open_api_schema(kind: Kind) -> dict[str, Any]:
    """The kind's schema with ``metadata`` left to the API server."""
    schema = kind.model.model_json_schema(by_alias=True)
    properties = dict(schema["properties"])
    properties.pop("metadata")
    root = structural({**schema, "properties": properties}, schema["$defs"], kind.name)
    # kstatus (helm --wait, Flux) takes an object without a status for done; one behind its generation is in progress.
    root["properties"]["status"]["default"] = {"observedGeneration": 0}
    root["properties"] = {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
        **root["properties"],
    }
    return root


def custom_resource_definition(kind: Kind) -> dict[str, Any]:
    """The complete CRD document of a kind."""
    subresources: dict[str, Any] = {"status": {}}
    if kind.scale is not None:
        subresources["scale"] = dict(kind.scale)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": kind.crd_name},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": kind.name,
                "listKind": f"{kind.name}List",
                "plural": kind.plural,
                "singular": kind.singular,
                "shortNames": list(kind.short_names),
                "categories": ["headrace"],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "additionalPrinterColumns": [column.as_schema() for column in kind.columns],
                    "schema": {"openAPIV3Schema": open_api_schema(kind)},
                    "subresources": subresources,
                }
            ],
        },
    }
