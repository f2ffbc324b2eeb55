"""Which namespaces' tasks a model serves, and the RoleBinding that lets its runner commit there.

A refusal ends tasks, so it must be asked about facts that were read afresh. `withdrawn` says when it does.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from headrace_crds.model import LLMModel
from headrace_crds.names import (
    LABEL_MODEL,
    LABEL_MODEL_NAMESPACE,
    RUNNER_CLUSTER_ROLE,
    runner_labels,
    runner_name,
    shared_binding_name,
)
from headrace_crds.reasons import Reason
from headrace_crds.sharing import SharingFrom
from headrace_crds.task import LLMTask
from headrace_operator.decide import waiting, window
from headrace_operator.decide.holder import status_at_end, taken_back
from headrace_operator.decide.plans import Announcement, TaskPlan
from headrace_operator.decide.snapshots import TaskSnapshot
from headrace_operator.refs import ModelRef

REFUSED_LOOK_SECONDS: Final = 30.0


def refused(s: TaskSnapshot) -> bool:
    """Where the chart names the model's namespace, a model that is missing refuses nobody."""
    return not s.admitted and not (s.model is None and s.may_share)


def message_of(s: TaskSnapshot) -> str:
    """Where the chart does not name the model's namespace, nothing is told of what is in it."""
    model, namespace = s.ref.model, s.ref.namespace
    return (
        f"LLMModel {model.name!r} of namespace {model.namespace!r} does not serve namespace {namespace!r}: "
        f"{_missing(model.namespace, namespace, may_share=s.may_share)}"
    )


def unserved(s: TaskSnapshot, task: LLMTask) -> TaskPlan:
    """The end, also of what a runner works on: it has lost the right to commit it."""
    message = message_of(s)
    return TaskPlan(
        "model is not shared",
        take_back=taken_back(s, task),
        status=status_at_end(s, task, Reason.MODEL_NOT_SHARED, message),
        announcement=Announcement("Warning", Reason.MODEL_NOT_SHARED, message),
    )


def reaches_out(model: LLMModel) -> bool:
    """Whether its spec.sharing goes beyond its own namespace, whatever the chart allows."""
    return model.spec.sharing is not None and model.spec.sharing.namespaces.from_ is not SharingFrom.SAME


def _missing(model_namespace: str, namespace: str, *, may_share: bool) -> str:
    if may_share:
        return f"the model's spec.sharing does not admit namespace {namespace!r}: its owners have to"
    chart = waiting.not_named(model_namespace)
    return f"{chart}: the cluster's admins have to add it, and the model's spec.sharing has to admit {namespace!r}"


def binding_refused(plan: TaskPlan, s: TaskSnapshot, task: LLMTask, message: str) -> TaskPlan:
    """The runner cannot be given its right in the task's namespace: nothing is handed out."""
    name = shared_binding_name(*s.ref.model)
    why = waiting.Waiting(
        Reason.MODEL_NOT_READY,
        f"RoleBindingRefused: RoleBinding {name!r}, by which the model's runner may commit here, cannot be made: "
        f"delete what stands under that name, or ask the cluster's admins ({message})",
    )
    return replace(window.held_back(plan, s, task, why), requeue_after_seconds=REFUSED_LOOK_SECONDS)


def binding(model: ModelRef, namespace: str) -> dict[str, Any]:
    """The runner's right in another namespace. An owner there would be a stranger's: it has none, and is swept."""
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {
            "name": shared_binding_name(*model),
            "namespace": namespace,
            "labels": {**runner_labels(model.name), LABEL_MODEL_NAMESPACE: model.namespace},
        },
        "subjects": [{"kind": "ServiceAccount", "name": runner_name(model.name), "namespace": model.namespace}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": RUNNER_CLUSTER_ROLE},
    }


def bound_model(body: Mapping[str, Any]) -> ModelRef | None:
    """The model that a RoleBinding is for; None for what is not ours: the chart's policy on the operator's writes
    judges by the same names, role and subjects, and lets nothing else be changed or deleted.
    """
    metadata, role = body["metadata"], body.get("roleRef") or {}
    labels = metadata.get("labels") or {}
    model = ModelRef(str(labels.get(LABEL_MODEL_NAMESPACE, "")), str(labels.get(LABEL_MODEL, "")))
    if not all(model) or metadata.get("namespace") == model.namespace:
        return None
    account = ("ServiceAccount", runner_name(model.name), model.namespace)
    ours = (
        metadata.get("name") == shared_binding_name(*model)
        and (role.get("kind"), role.get("name")) == ("ClusterRole", RUNNER_CLUSTER_ROLE)
        and all((s.get("kind"), s.get("name"), s.get("namespace")) == account for s in body.get("subjects") or [])
    )
    return model if ours else None
