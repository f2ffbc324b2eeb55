"""What an event makes known, and what a label that anybody may write does not."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from operator_cases import MODEL, model

from headrace_operator import watch
from headrace_operator.context import Context
from headrace_operator.errors import KubeNotFound
from headrace_operator.kube import CHILDREN, CLAIMS, MODELS
from headrace_operator.refs import ModelRef
from headrace_operator.store import Store
from headrace_operator.views import model_of


class Keys(list[ModelRef]):
    def add(self, key: ModelRef) -> None:
        self.append(key)


@pytest.fixture
def due() -> Keys:
    return Keys()


@pytest.fixture
def ctx(due: Keys) -> Context:
    store = Store()
    store.put_model(MODEL, model())
    return cast("Context", SimpleNamespace(store=store, models=due))


def child(name: str, label: str, **metadata: Any) -> dict[str, Any]:
    labels = {"app.kubernetes.io/managed-by": "headrace", "headrace.dev/model": label}
    return {"metadata": {"name": name, "namespace": MODEL.namespace, "uid": name, "labels": labels, **metadata}}


def owned_by(name: str, **more: Any) -> dict[str, Any]:
    owner = {"apiVersion": "headrace.dev/v1alpha1", "kind": "LLMModel", "name": name, "uid": "u", "controller": True}
    return {"ownerReferences": [{**owner, **more}]}


@pytest.mark.parametrize("label", ["", "Bad_Name_1", "a.b", "a" * 41, "-a", "a/b", "a\n"])
def test_a_label_that_no_model_can_have_makes_no_key(label: str, ctx: Context, due: Keys) -> None:
    assert model_of(child("p", label)) is None
    watch.pod_seen("ADDED", child("p", label), ctx)
    watch.deployment_seen("ADDED", child(f"headrace-{label}", label, **owned_by(label)), ctx)
    assert due == []


def test_a_label_of_a_model_that_is_not_there_makes_no_key(ctx: Context, due: Keys) -> None:
    watch.pod_seen("ADDED", child("p", "absent"), ctx)
    assert due == []


def test_a_pod_of_the_model_makes_it_due(ctx: Context, due: Keys) -> None:
    watch.pod_seen("ADDED", child("p", MODEL.name), ctx)
    assert due == [MODEL]
    assert [pod.name for pod in ctx.store.pods(MODEL)] == ["p"]


@pytest.mark.parametrize(
    "foreign",
    [
        child("another-name", MODEL.name, **owned_by(MODEL.name)),
        child(f"headrace-{MODEL.name}", MODEL.name),
        child(f"headrace-{MODEL.name}", MODEL.name, **owned_by("other")),
        child(f"headrace-{MODEL.name}", MODEL.name, **owned_by(MODEL.name, kind="ConfigMap")),
        child(f"headrace-{MODEL.name}", MODEL.name, **owned_by(MODEL.name, apiVersion="example.org/v1")),
        child(f"headrace-{MODEL.name}", MODEL.name, **owned_by(MODEL.name, controller=False)),
    ],
    ids=["name", "no owner", "another model's", "another kind", "another group", "no controller"],
)
def test_a_foreign_deployment_is_not_stored(foreign: dict[str, Any], ctx: Context, due: Keys) -> None:
    watch.deployment_seen("ADDED", foreign, ctx)
    assert ctx.store.deployment(MODEL) is None
    assert due == []


def test_a_foreign_deployment_neither_replaces_nor_removes_the_model_s_own(ctx: Context, due: Keys) -> None:
    watch.deployment_seen("ADDED", child(f"headrace-{MODEL.name}", MODEL.name, **owned_by(MODEL.name)), ctx)
    for kind in ("ADDED", "DELETED"):
        watch.deployment_seen(kind, child("another-name", MODEL.name, **owned_by(MODEL.name)), ctx)
    assert ctx.store.deployment(MODEL) is not None
    assert due == [MODEL]


def test_a_deployment_that_lost_its_owner_is_dropped(ctx: Context, due: Keys) -> None:
    watch.deployment_seen("ADDED", child(f"headrace-{MODEL.name}", MODEL.name, **owned_by(MODEL.name)), ctx)
    watch.deployment_seen("MODIFIED", child(f"headrace-{MODEL.name}", MODEL.name), ctx)
    assert ctx.store.deployment(MODEL) is None
    assert due == [MODEL, MODEL]


@pytest.mark.parametrize("name", ["", ".", "..", "../secrets/x", "a/b", "a%2Fb", "A", "a?b", "a..b", "a\n", "a" * 254])
def test_what_cannot_be_a_name_becomes_no_path(name: str) -> None:
    for resource in (MODELS, CLAIMS, CHILDREN["Secret"]):
        with pytest.raises(KubeNotFound):
            resource.path("team-a", name)
        with pytest.raises(KubeNotFound):
            resource.path(name, "x")


def test_names_become_paths() -> None:
    assert MODELS.path("team-a", "my.model-1", "status") == (
        "/apis/headrace.dev/v1alpha1/namespaces/team-a/llmmodels/my.model-1/status"
    )
    assert CLAIMS.path(None) == "/api/v1/persistentvolumeclaims"
