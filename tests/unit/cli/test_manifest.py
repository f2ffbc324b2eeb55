"""Manifests are judged without a cluster: every field of the schema, every rule, every slip of YAML."""

import json

import pytest

from headrace_crds.crd import KINDS, open_api_schema
from headrace_crds.manifest import Checked, check
from headrace_crds.manifest_schema import flaws
from headrace_crds.model import LLMModel
from headrace_crds.task import LLMTask
from tests.unit.cli.manifest_cases import CASES, Case

TASK = """\
apiVersion: headrace.dev/v1alpha1
kind: LLMTask
metadata: {name: hello}
spec:
  modelRef: {name: smol}
  prompt: Say hello.
"""

# Each line holds nine times the one before.
BOMB = "a: &a [x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n" for before, name in zip("abcdef", "bcdefg", strict=True)
)


def judged(text: str) -> Checked:
    return check([("file.yaml", text)])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_case(case: Case) -> None:
    checked = judged(json.dumps(case.manifest()))
    if not case.says:
        assert checked.problems == []
        assert len(checked.manifests) == 1
        return
    assert checked.manifests == []
    found = [(problem.field, problem.message) for problem in checked.problems]
    assert any(field == case.field and case.says in message for field, message in found), found


def test_every_rule_about_specs_has_a_case_that_breaks_it() -> None:
    def messages(node: object) -> set[str]:
        if isinstance(node, list):
            return set().union(*map(messages, node)) if node else set()
        if not isinstance(node, dict):
            return set()
        rules = [rule for rule in node.get("x-kubernetes-validations", []) if "oldSelf" not in rule["rule"]]
        return {rule["message"] for rule in rules}.union(*map(messages, node.values()))

    told = {problem.message for case in CASES for problem in judged(json.dumps(case.manifest())).problems}
    for kind in KINDS:
        schema = open_api_schema(kind)
        schema["properties"].pop("status")  # nobody writes one into a manifest
        assert messages(schema) <= told


def test_a_mistake_names_file_line_object_field_and_remedy() -> None:
    text = TASK + "  parameters:\n    temperature: 0.7\n"
    (problem,) = judged(text).problems
    assert str(problem) == (
        'file.yaml:8: LLMTask/hello: spec.parameters.temperature: must be text: write it in quotes, "0.7"'
    )


def test_all_mistakes_come_at_once() -> None:
    text = TASK.replace("prompt", "promt").replace("smol", "Smol_1")
    assert {problem.field for problem in judged(text).problems} == {"spec.promt", "spec.modelRef.name"}


def test_several_documents_and_lists_are_read() -> None:
    other = TASK.replace("hello", "other")
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": [CASES[0].manifest()]})
    checked = judged(f"{TASK}---\n{other}---\n---\n{listed}\n")
    assert checked.problems == []
    assert [each.object.metadata.name for each in checked.manifests] == ["hello", "other", "case"]
    assert [each.line for each in checked.manifests] == [1, 8, 16]


def test_defaults_are_filled_in_and_the_document_stays_as_written() -> None:
    (manifest,) = judged(TASK).manifests
    assert isinstance(manifest.object, LLMTask)
    assert manifest.object.spec.backoff_limit == 3
    assert "backoffLimit" not in manifest.document["spec"]


def test_other_kinds_are_noted_and_left_out() -> None:
    checked = judged("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n")
    assert (checked.manifests, checked.problems) == ([], [])
    assert "left out" in checked.notes[0].message


def test_a_status_is_noted() -> None:
    checked = judged(TASK + "status: {outcome: Complete}\n")
    assert checked.problems == []
    assert checked.notes[0].field == "status"


def test_generate_name_is_noted() -> None:
    checked = judged(TASK.replace("{name: hello}", "{generateName: hello-}"))
    assert checked.problems == []
    assert checked.notes[0].field == "metadata.generateName"
    assert checked.manifests[0].object.metadata.name


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (TASK.replace("v1alpha1", "v1"), "must be headrace.dev/v1alpha1"),
        (TASK.replace("LLMTask", "LLMTasks"), "did you mean LLMTask"),
        (TASK.replace("headrace.dev/v1alpha1", "v1"), "must be headrace.dev/v1alpha1"),
        (TASK.replace("metadata: {name: hello}\n", ""), "metadata.name"),
        (TASK + "  prompt: again\n", "set twice"),
        (TASK + "  prompt: [\n", "not a manifest"),
        (TASK + "  1: x\n", "write it in quotes"),
        (TASK + "  prompt2: !!python/name:os.system\n", "not a manifest"),
        ("just text\n", "is an object"),
        ("a: &a [*a]\n", "too deep"),
        (BOMB, "too large"),
    ],
)
def test_what_is_no_manifest_says_why(text: str, says: str) -> None:
    checked = judged(text)
    assert says in str(checked.problems[0])
    assert checked.manifests == []


def test_a_bare_date_is_text_as_for_the_api_server() -> None:
    (manifest,) = judged(TASK.replace("Say hello.", "2026-01-01")).manifests
    assert isinstance(manifest.object, LLMTask)
    assert manifest.object.spec.prompt == "2026-01-01"


def test_anchors_and_merge_keys_are_followed() -> None:
    text = """\
apiVersion: headrace.dev/v1alpha1
kind: List
items:
  - &first
    apiVersion: headrace.dev/v1alpha1
    kind: LLMTask
    metadata: {name: one}
    spec: {modelRef: {name: m}, prompt: hi}
  - <<: *first
    metadata: {name: two}
"""
    checked = judged(text)
    assert checked.problems == []
    assert [each.object.metadata.name for each in checked.manifests] == ["one", "two"]


def test_the_same_object_twice_is_a_mistake() -> None:
    checked = check([("a.yaml", TASK), ("b.yaml", TASK)])
    assert "first at a.yaml:1" in str(checked.problems[0])


def test_rules_see_the_schemas_defaults_as_in_the_api_server() -> None:
    rule = {"rule": "has(self.n) && self.n == 3", "message": "no default"}
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "default": 3}},
        "x-kubernetes-validations": [rule],
    }
    assert flaws({}, schema) == []
    assert [flaw.message for flaw in flaws({"n": 4}, schema)] == ["no default"]


def test_a_model_is_typed() -> None:
    (manifest,) = judged(json.dumps(next(case for case in CASES if case.name == "gpu").manifest())).manifests
    assert isinstance(manifest.object, LLMModel)
    assert manifest.object.spec.local is not None
    assert manifest.object.spec.local.gpu is not None
