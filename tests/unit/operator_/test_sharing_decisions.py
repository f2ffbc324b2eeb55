"""Who is admitted to a shared model, and what becomes of who is not."""

from dataclasses import replace
from typing import Any

import pytest
from operator_cases import (
    LOADING,
    MODEL,
    NO_MODEL,
    SERVING,
    TASK,
    came_back,
    condition,
    finished,
    held,
    merged,
    model_snapshot,
    queued,
    snapshot,
    task,
    waiting,
)

from headrace_crds.admits import admits
from headrace_crds.model import LLMModel
from headrace_crds.names import runner_name, shared_binding_name
from headrace_operator.decide import sharing
from headrace_operator.decide.model import decide as decide_model
from headrace_operator.decide.task import decide
from headrace_operator.refs import ModelRef, TaskRef
from headrace_operator.views import task_ref

HERE = (MODEL.namespace,)
LABELS = {"team": "ml", "stage": "prod"}
NAMED = {"name": "qwen", "namespace": "models"}


def shared(rule: dict[str, Any] | None) -> LLMModel:
    body = SERVING.dump()
    if rule is not None:
        body["spec"]["sharing"] = {"namespaces": rule}
    return LLMModel.model_validate(body)


def selecting(*expressions: dict[str, Any]) -> dict[str, Any]:
    return {"from": "Selector", "selector": {"matchExpressions": list(expressions)}}


def one(key: str, operator: str, *values: str) -> dict[str, Any]:
    return selecting({"key": key, "operator": operator, **({"values": list(values)} if values else {})})


@pytest.mark.parametrize(
    ("rule", "labels", "admitted"),
    [
        pytest.param(None, LABELS, False, id="no word of sharing"),
        pytest.param({"from": "Same"}, LABELS, False, id="its own namespace"),
        pytest.param({"from": "All"}, {}, True, id="all"),
        pytest.param({"from": "All"}, None, False, id="all, but there is no such namespace"),
        pytest.param(one("team", "In", "ml", "web"), LABELS, True, id="in"),
        pytest.param(one("team", "In", "web"), LABELS, False, id="in others"),
        pytest.param(one("team", "In", "ml"), {}, False, id="in, without the label"),
        pytest.param(one("team", "NotIn", "web"), LABELS, True, id="not in"),
        pytest.param(one("team", "NotIn", "ml"), LABELS, False, id="not in, but it is"),
        pytest.param(one("team", "NotIn", "ml"), {}, True, id="not in, without the label"),
        pytest.param(one("team", "Exists"), LABELS, True, id="exists"),
        pytest.param(one("team", "Exists"), {}, False, id="exists not"),
        pytest.param(one("team", "DoesNotExist"), {}, True, id="is absent"),
        pytest.param(one("team", "DoesNotExist"), LABELS, False, id="is present"),
        pytest.param(one("kubernetes.io/metadata.name", "In", "team-b"), {}, True, id="by name"),
        pytest.param(
            one("kubernetes.io/metadata.name", "In", "team-c"),
            {"kubernetes.io/metadata.name": "team-c"},
            False,
            id="a name that a label only claims",
        ),
        pytest.param(one("team", "Exists"), None, False, id="no such namespace"),
        pytest.param(
            selecting({"key": "team", "operator": "Exists"}, {"key": "stage", "operator": "In", "values": ["dev"]}),
            LABELS,
            False,
            id="one of two",
        ),
    ],
)
def test_a_namespace_is_admitted_by_its_labels(
    rule: dict[str, Any] | None, labels: dict[str, str] | None, admitted: bool
) -> None:
    model = shared(rule)
    assert admits(model, "team-b", labels, HERE) is admitted
    assert admits(model, "team-b", labels, ("elsewhere",)) is False
    assert admits(model, MODEL.namespace, None, ()) is True


UNKNOWN = condition("Shared", "Unknown", "ModelNotFound")
NOT_JUDGED = {**waiting(), "conditions": [*waiting()["conditions"], UNKNOWN]}


@pytest.mark.parametrize("status", [None, NOT_JUDGED])
@pytest.mark.parametrize("place", [None, held("Queued"), held("Leased"), came_back("Failed", retryable=False)])
def test_a_task_that_the_model_never_served_fails_for_that(status: Any, place: Any) -> None:
    plan = decide(snapshot(task(status), held=place, admitted=False))
    assert plan.status is not None
    assert (plan.status["outcome"], plan.status["reason"]) == ("Failed", "ModelNotShared")
    assert plan.take_back is not None
    assert plan.enqueue is None


def test_an_attempt_that_came_back_lost_counts_at_such_an_end() -> None:
    status = {**queued(losses=1), "conditions": NOT_JUDGED["conditions"]}
    told = decide(snapshot(task(status), held=came_back("LeaseExpired"), admitted=False)).status or {}
    assert (told["reason"], told["retries"], told["losses"]) == ("ModelNotShared", 0, 2)


def test_without_the_model_nobody_is_refused() -> None:
    plan = decide(snapshot(task(None), model=NO_MODEL, admitted=False))
    assert plan.status is not None
    assert (plan.status["phase"], plan.status["reason"]) == ("Waiting", "ModelNotFound")


def elsewhere(model: Any, *, may_share: bool) -> str:
    """The message of a task of team-b that names team-a's model."""
    of = TaskRef("team-b", TASK.name, TASK.uid, MODEL)
    plan = decide(replace(snapshot(task(None), model=model, admitted=False), ref=of, may_share=may_share))
    assert plan.status is not None
    return str(plan.status["message"])


CHART, SPEC = "sharing.modelNamespaces does not name 'team-a'", "spec.sharing does not admit namespace 'team-b'"


@pytest.mark.parametrize("rule", [{"from": "Same"}, None])
def test_a_refusal_names_the_missing_half(rule: Any) -> None:
    message = elsewhere(shared(rule), may_share=True)
    assert SPEC in message
    assert "modelNamespaces" not in message


def test_of_a_namespace_that_shares_nothing_a_stranger_learns_nothing() -> None:
    told = {elsewhere(model, may_share=False) for model in (NO_MODEL, shared(None), shared({"from": "All"}))}
    assert len(told) == 1
    assert CHART in told.pop()
    of = replace(snapshot(task(None), model=NO_MODEL, admitted=False), may_share=False)
    status = decide(of).status or {}
    assert (status["outcome"], status["reason"]) == ("Failed", "ModelNotShared")


def test_a_model_that_is_missing_elsewhere_has_to_be_shared_too() -> None:
    named = elsewhere(NO_MODEL, may_share=True)
    assert "create it with a spec.sharing that admits namespace 'team-b'" in named
    assert "modelNamespaces" not in named
    here = decide(snapshot(task(None), model=NO_MODEL)).status or {}
    assert here["message"].endswith("create it and the task goes on")


@pytest.mark.parametrize(
    ("rule", "may_share", "expected"),
    [
        ({"from": "All"}, True, [("True", "Shared")]),
        ({"from": "All"}, False, [("False", "SharingNotAllowed")]),
        ({"from": "Same"}, False, []),
        (None, False, []),
    ],
)
def test_a_model_says_whether_its_sharing_counts(rule: Any, may_share: bool, expected: list[tuple[str, str]]) -> None:
    model = shared(rule)
    status = decide_model(replace(model_snapshot(model), may_share=may_share)).status or {}
    found = [c for c in status["conditions"] if c["type"] == "Shared"]
    assert [(c["status"], c["reason"]) for c in found] == expected
    seen = LLMModel.model_validate({**model.dump(), "status": status})
    assert decide_model(replace(model_snapshot(seen), may_share=may_share)).status is None, "does not flap"


def test_an_outcome_stands_whatever_becomes_of_sharing() -> None:
    assert decide(snapshot(task(finished()), admitted=False)).status is None


def test_a_task_is_assigned_to_the_model_that_it_names() -> None:
    other = ModelRef("models", "qwen")
    plan = decide(replace(snapshot(task(modelRef=NAMED)), ref=TASK._replace(model=other)))
    assert plan.status is not None
    assert plan.status["assignedModel"] == "models/qwen"
    assert plan.status["runner"]["serviceAccount"] == "models/headrace-qwen"
    body = task(modelRef=NAMED).dump()
    assert task_ref(body) == TASK._replace(model=other)


def test_models_of_one_name_have_bindings_of_their_own() -> None:
    names = {shared_binding_name("a", "b-c"), shared_binding_name("a-b", "c"), runner_name("a-b-c"), runner_name("c")}
    assert len(names) == 4
    manifest = sharing.binding(MODEL, "team-b")
    assert sharing.bound_model(manifest) == MODEL
    assert "ownerReferences" not in manifest["metadata"]


RUNNER_SUBJECT = sharing.binding(MODEL, "team-b")["subjects"][0]


@pytest.mark.parametrize(
    "strange",
    [
        {"metadata": {"name": "headrace-team-a.other"}},
        {"metadata": {"labels": {}}},
        {"metadata": {"namespace": MODEL.namespace}},
        {"roleRef": {"kind": "ClusterRole", "name": "view"}},
        {"roleRef": {"kind": "Role", "name": "headrace-runner"}},
        {"subjects": [RUNNER_SUBJECT, {"kind": "User", "name": "mallory"}]},
        {"subjects": [{**RUNNER_SUBJECT, "namespace": "team-b"}]},
        {"subjects": [{**RUNNER_SUBJECT, "name": "headrace-other"}]},
    ],
    ids=str,
)
def test_a_look_alike_is_not_swept(strange: dict[str, Any]) -> None:
    manifest = sharing.binding(MODEL, "team-b")
    strange = {key: {**manifest[key], **part} if isinstance(part, dict) else part for key, part in strange.items()}
    assert sharing.bound_model({**manifest, **strange}) is None


@pytest.mark.parametrize("status", [None, waiting()])
def test_a_refused_binding_makes_the_task_wait_and_say_so(status: Any) -> None:
    seen = snapshot(task(status), model=LOADING)
    assert seen.task is not None
    plan = sharing.binding_refused(decide(seen), seen, seen.task, "403: no")
    assert plan.enqueue is None
    assert plan.status is not None
    assert plan.status["message"].startswith("RoleBindingRefused: ")
    after = task(merged(status or {}, plan.status))
    assert after.status is not None
    assert (after.status.phase, after.status.attempt, after.status.runner) == ("Waiting", 1, None)
    again = snapshot(after, model=LOADING)
    settled = sharing.binding_refused(decide(again), again, after, "403: no, at another time")
    assert (settled.status, settled.enqueue) == (None, None)


def test_a_retry_that_is_refused_its_binding_keeps_its_record() -> None:
    seen = snapshot(task(queued(2)), held=came_back("Failed", 2))
    assert seen.task is not None
    plan = sharing.binding_refused(decide(seen), seen, seen.task, "403: no")
    assert plan.status is not None
    assert (plan.status["phase"], plan.status["attempt"], plan.status["retries"]) == ("Waiting", 3, 1)
    assert [each["number"] for each in plan.status["attempts"]] == [2]
    assert plan.remove
