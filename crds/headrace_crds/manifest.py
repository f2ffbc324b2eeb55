"""Judges manifests without a cluster, by the generated schema and its own CEL rules.

As strict as ``kubectl apply --validate=strict`` and then the API server: an unknown field is a mistake. Pure: it gets
text and gives findings; needs the extra ``cli``.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from headrace_crds.base import GROUP, VERSION
from headrace_crds.crd import KINDS, open_api_schema
from headrace_crds.manifest_schema import Flaw, flaws, suggestion
from headrace_crds.manifest_yaml import Document, Path, UnreadableError, read
from headrace_crds.model import LLMModel
from headrace_crds.quota import LLMQuota
from headrace_crds.task import LLMTask

API_VERSION: Final = f"{GROUP}/{VERSION}"
_KINDS: Final = {kind.name: kind for kind in KINDS}
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_METADATA: Final = (
    *("name", "generateName", "namespace", "labels", "annotations", "ownerReferences", "finalizers"),
    *("uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "selfLink"),
    *("deletionTimestamp", "deletionGracePeriodSeconds"),
)


@dataclass(frozen=True)
class Problem:
    """One mistake: where, in what, and the remedy."""

    source: str
    line: int
    about: str
    """Kind and name, as far as they are known."""
    field: str
    """Path of the field, such as ``spec.messages[0].role``; empty for the whole document."""
    message: str

    def __str__(self) -> str:
        place = ": ".join(part for part in (f"{self.source}:{self.line}", self.about, self.field) if part)
        return f"{place}: {self.message}"


@dataclass(frozen=True)
class Manifest:
    """One valid object of ours. ``document`` is what the author wrote."""

    source: str
    line: int
    kind: str
    object: LLMModel | LLMTask | LLMQuota
    document: dict[str, Any]

    @property
    def key(self) -> tuple[str, str, str]:
        return (self.kind, self.object.metadata.namespace, self.object.metadata.name)


@dataclass
class Checked:
    """What was found in one or more texts. ``notes`` are no mistakes."""

    manifests: list[Manifest] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)


def check(texts: Iterable[tuple[str, str]]) -> Checked:
    """Judge texts, each with the name of its source."""
    checked = Checked()
    for source, text in texts:
        try:
            for document in read(text):
                _document(document, source, checked)
        except UnreadableError as error:
            checked.problems.append(Problem(source, error.line, "", "", f"not a manifest: {error.message}"))
    _repetitions(checked)
    _ceilings(checked)
    return checked


def _document(document: Document, source: str, checked: Checked) -> None:
    value = document.value
    if not isinstance(value, dict):
        checked.problems.append(Problem(source, document.line(()), "", "", "a manifest is an object with apiVersion"))
        return
    if value.get("kind") == "List" and isinstance(value.get("items"), list):
        for index in range(len(value["items"])):
            _document(document.part("items", index), source, checked)
        return
    metadata = value.get("metadata")
    name = metadata.get("name", "") if isinstance(metadata, dict) else ""
    about = f"{value.get('kind', 'object')}/{name}" if name else str(value.get("kind", "object"))

    def problem(flaw: Flaw) -> Problem:
        return Problem(source, document.line(flaw.path), about, _dotted(flaw.path), flaw.message)

    if not _is_ours(value):
        checked.notes.append(problem(Flaw((), f"not of {GROUP}: left out")))
        return
    found = list(_type_flaws(value)) or [*_metadata_flaws(value), *_object_flaws(value)]
    checked.problems.extend(problem(flaw) for flaw in found)
    if "status" in value:
        checked.notes.append(problem(Flaw(("status",), "the API server ignores a status in a manifest")))
    if not found:
        if "name" not in value["metadata"]:
            message = "kubectl apply refuses generateName, kubectl create takes it"
            checked.notes.append(problem(Flaw(("metadata", "generateName"), message)))
            value["metadata"]["name"] = value["metadata"]["generateName"] + "0"
        stored = {key: each for key, each in value.items() if key != "status"}
        typed = _KINDS[value["kind"]].model.model_validate(stored)
        if isinstance(typed, LLMModel | LLMTask | LLMQuota):
            checked.manifests.append(Manifest(source, document.line(()), value["kind"], typed, value))


def _is_ours(value: Mapping[str, Any]) -> bool:
    version = value.get("apiVersion")
    return (isinstance(version, str) and version.split("/")[0] == GROUP) or value.get("kind") in _KINDS


def _type_flaws(value: Mapping[str, Any]) -> Iterator[Flaw]:
    if value.get("apiVersion") != API_VERSION:
        yield Flaw(("apiVersion",), f"must be {API_VERSION}")
    if value.get("kind") not in _KINDS:
        yield Flaw(("kind",), f"unknown kind: {suggestion(str(value.get('kind')), list(_KINDS))}")


def _metadata_flaws(value: Mapping[str, Any]) -> Iterator[Flaw]:
    metadata = value.get("metadata")
    if not isinstance(metadata, dict):
        yield Flaw(("metadata",), "missing: an object needs metadata.name")
        return
    for name in metadata:
        if name not in _METADATA:
            yield Flaw(("metadata", name), f"unknown field: {suggestion(name, _METADATA)}")
    for key, pattern, limit in (("name", _NAME, 253), ("namespace", _LABEL, 63)):
        given = metadata.get(key)
        if given is None:
            continue
        if not isinstance(given, str) or not pattern.fullmatch(given) or len(given) > limit:
            message = f"{given!r} must have lower-case letters, digits and dashes, at most {limit} characters"
            yield Flaw(("metadata", key), message)
    if metadata.get("name") is None and not isinstance(metadata.get("generateName"), str):
        yield Flaw(("metadata", "name"), "missing: every object needs a name")
    for key in ("labels", "annotations"):
        entries = metadata.get(key)
        if entries is not None and not isinstance(entries, dict):
            yield Flaw(("metadata", key), "must be an object of texts")
        for name, entry in (entries or {}).items() if isinstance(entries, dict) else ():
            if not isinstance(entry, str):
                yield Flaw(("metadata", key, name), "must be text: write it in quotes")


def _object_flaws(value: Mapping[str, Any]) -> Iterator[Flaw]:
    judged = {key: each for key, each in value.items() if key != "status"}
    if isinstance(judged.get("metadata"), dict):
        # The root rules look at names; a wrong one has been told of.
        judged["metadata"] = {**judged["metadata"], "name": str(judged["metadata"].get("name", ""))}
        yield from flaws(judged, _schema(value["kind"]))
    spec = value.get("spec")
    output = spec.get("output") if isinstance(spec, dict) else None
    schema = output.get("jsonSchema") if isinstance(output, dict) else None
    if isinstance(schema, str) and (message := _schema_text_flaw(schema)):
        yield Flaw(("spec", "output", "jsonSchema"), message)


def _schema_text_flaw(text: str) -> str | None:
    """The API server takes any text; the engine would refuse this one with InvalidSchema."""
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"is not JSON: {error}: check its quotes, commas and braces"
    return None if isinstance(parsed, dict | bool) else "must be a JSON object, true or false, as text"


@cache
def _schema(kind: str) -> Mapping[str, Any]:
    return open_api_schema(_KINDS[kind])


def _repetitions(checked: Checked) -> None:
    first: dict[tuple[str, str, str], Manifest] = {}
    for manifest in checked.manifests:
        kind, namespace, name = manifest.key
        if (earlier := first.setdefault(manifest.key, manifest)) is not manifest:
            message = f"{namespace}/{name} is there twice, first at {earlier.source}:{earlier.line}: remove one"
            checked.problems.append(Problem(manifest.source, manifest.line, f"{kind}/{name}", "", message))


def _ceilings(checked: Checked) -> None:
    """Tasks above the LLMQuota that stands beside them; of namespaces whose quota is elsewhere nothing is known."""
    ceilings = {
        each.object.metadata.namespace: each.object.spec.priority_ceiling
        for each in checked.manifests
        if isinstance(each.object, LLMQuota)
    }
    for manifest in checked.manifests:
        if not isinstance(manifest.object, LLMTask):
            continue
        namespace, name, priority = *manifest.key[1:], manifest.object.spec.priority
        ceiling = ceilings.get(namespace)
        if ceiling is not None and priority > ceiling:
            message = f"{priority} is above the priorityCeiling of {namespace}'s LLMQuota: at most {ceiling}"
            checked.problems.append(
                Problem(manifest.source, manifest.line, f"{manifest.kind}/{name}", "spec.priority", message)
            )


def _dotted(path: Path) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")
