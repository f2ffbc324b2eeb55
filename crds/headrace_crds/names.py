"""Names that several parts have to agree on: labels, field managers, runner objects."""

from typing import Final

from headrace_crds.base import GROUP

LABEL_MODEL: Final = f"{GROUP}/model"
"""On every runner object: the name of its LLMModel."""
LABEL_MODEL_NAMESPACE: Final = f"{GROUP}/model-namespace"
"""On the RoleBinding of a shared model's runner in another namespace: the namespace of its LLMModel."""
LABEL_INPUT: Final = f"{GROUP}/input"
"""On a ConfigMap that tasks may take as input, with the value "true"."""
LABEL_WEBHOOK: Final = f"{GROUP}/webhook"
"""On a Secret whose keys may sign webhooks, with the value "true"."""
ANNOTATION_ALLOWED_HOSTS: Final = f"{GROUP}/allowed-hosts"
"""On a Secret: the hosts that remote models may send its keys to, as `host[:port]`, separated by commas. Its owner's
consent."""
ANNOTATION_REPLAY_OF: Final = f"{GROUP}/replay-of"
"""On a replayed task: the uid of the one that failed."""
ANNOTATION_TRACEPARENT: Final = f"{GROUP}/traceparent"
"""On a task: the W3C trace context of whoever made it. Anybody may write it; what is none is ignored."""
LABEL_COMPONENT: Final = "app.kubernetes.io/component"
WEIGHTS_COMPONENT: Final = "weights"
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
LABEL_PART_OF: Final = "app.kubernetes.io/part-of"

FIELD_MANAGER_OPERATOR: Final = "headrace-operator"
FIELD_MANAGER_RUNNER: Final = "headrace-runner"

RUNNER_CLUSTER_ROLE: Final = "headrace-runner"
"""ClusterRole of the chart that a model's RoleBinding refers to."""


def runner_name(model: str) -> str:
    """Name of a model's Deployment, ServiceAccount, RoleBinding, Secret and NetworkPolicy."""
    return f"headrace-{model}"


def shared_binding_name(namespace: str, model: str) -> str:
    """Name of the RoleBinding of a shared model's runner in another namespace; neither part can hold a dot."""
    return f"{runner_name(namespace)}.{model}"


def runner_service_account(namespace: str, model: str) -> str:
    """``status.runner.serviceAccount`` of the tasks assigned to a model."""
    return f"{namespace}/{runner_name(model)}"


def assigned_model(assigned: str | None) -> tuple[str, str] | None:
    """Namespace and name out of ``status.assignedModel``; None where there is none, and for what does not read."""
    namespace, _, name = (assigned or "").partition("/")
    return (namespace, name) if namespace and name and "/" not in name else None


def runner_labels(model: str) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "headrace-runner",
        LABEL_COMPONENT: "runner",
        LABEL_MANAGED_BY: "headrace",
        LABEL_PART_OF: "headrace",
        LABEL_MODEL: model,
    }


def weights_labels(model: str) -> dict[str, str]:
    """Of the Job that fetches weights, and of its pods."""
    return {**runner_labels(model), LABEL_COMPONENT: WEIGHTS_COMPONENT}


def weights_name(model: str) -> str:
    """Name of what a model has twice, once for the weights Job; no model's name holds a dot."""
    return f"{runner_name(model)}.weights"


METADATA_ONLY: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
"""To be accepted from the API server by whoever needs nothing else of an object, in the answer to a write as well."""
