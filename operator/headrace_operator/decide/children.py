"""The objects that a model owns, as manifests for server-side apply. Pure: the same model gives the same manifests.

ServiceAccount ◄── RoleBinding ──► ClusterRole headrace-runner (the chart's)
      ▲
  Deployment ──► Secret (Redis URL)        NetworkPolicy
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlsplit, urlunsplit

from headrace_crds.base import GROUP
from headrace_crds.model import LLMModel
from headrace_crds.names import RUNNER_CLUSTER_ROLE, runner_labels, runner_name
from headrace_crds.runner_template import RunnerTemplate
from headrace_operator.decide import access, network, pod, remote_pod, weights, weights_job
from headrace_operator.decide.access import Access
from headrace_operator.decide.snapshots import ModelSnapshot, Ownership
from headrace_operator.refs import ModelRef

ANNOTATION_SPEC_HASH: Final = f"{GROUP}/spec-hash"
ANNOTATION_SPEC_GENERATION: Final = f"{GROUP}/spec-generation"
ANNOTATION_ACCOUNT_UID: Final = f"{GROUP}/service-account-uid"
REDIS_URL_KEY: Final = "url"

KINDS: Final = ("ServiceAccount", "RoleBinding", "Secret", "NetworkPolicy", "Deployment")
"""In the order in which they are applied: pods come last."""


def build(s: ModelSnapshot, model: LLMModel) -> list[dict[str, Any]]:
    """Every child's manifest, in the order of KINDS; none while a model that has no pods may not have any: a remote one
    without access, a local one whose weights may not be mounted.
    """
    granted = access.of(model, s.runner, s.credentials, s.client_certificate)
    if granted is not None and not granted.granted and not _stands(s):
        return []
    if not weights.mountable(model, s.runner.weights) and not (_stands(s) and _has_volume(model)):
        return []
    return [
        _service_account(model),
        _role_binding(model),
        _secret(s, model),
        _network_policy(s, model, granted),
        _deployment(s, model, granted),
    ]


def _stands(s: ModelSnapshot) -> bool:
    return any(child.kind == "Deployment" and child.ownership is Ownership.OURS for child in s.live or ())


def _has_volume(model: LLMModel) -> bool:
    """What was mounted once can be named again, for a Deployment of no pods."""
    return model.spec.local is not None and not model.spec.local.source.fetched


def of_account(deployment: Mapping[str, Any], account_uid: str) -> dict[str, Any]:
    """The Deployment with pods of this very ServiceAccount: tokens are its uid's, and those of a deleted one are
    refused until the kubelet renews them, most of an hour later. An account that is made again rolls the pods, which
    give back their tasks.
    """
    spec, template = deployment["spec"], deployment["spec"]["template"]
    annotations = {**template["metadata"]["annotations"], ANNOTATION_ACCOUNT_UID: account_uid}
    metadata = {**template["metadata"], "annotations": annotations}
    return {**deployment, "spec": {**spec, "template": {**template, "metadata": metadata}}}


def redis_user(ref: ModelRef) -> str:
    return f"headrace:{ref.namespace}:{ref.name}"


def spec_hash(model: LLMModel, granted: Access | None = None) -> str:
    """Digest of what a runner is made from. Scaling and defaults are not in it: they must not restart pods. The value
    of a remote model's key is not either, nor its client certificate: they are read when they change.
    """
    local = model.spec.local
    made_from: dict[str, Any] = local.dump() if local is not None else {}
    if local is not None and local.source.fetched:
        # Wherever the same bytes come from, and whoever removes others.
        made_from |= {"source": {"sha256": local.source.sha256}, "cache": weights.cache_name(local, "")}
    if model.spec.remote is not None:
        granted = granted or Access()
        made_from = {
            "remote": model.spec.remote.dump(),
            "capabilities": list(model.spec.capabilities),
            "hosts": [granted.granted, granted.allowed, granted.exempt],
        }
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:16]


def spec_generation(s: ModelSnapshot, model: LLMModel) -> int:
    """The generation at which what pods are made from came: kept on the Deployment while the hash stays."""
    present = spec_hash(model, access.of(model, s.runner, s.credentials, s.client_certificate))
    if s.deployment is not None and s.deployment.spec_hash == present:
        return s.deployment.spec_generation
    return model.metadata.generation


def _metadata(
    model: LLMModel, annotations: Mapping[str, str] | None = None, labels: Mapping[str, str] | None = None
) -> dict[str, Any]:
    name = model.metadata.name
    return pod.owned(
        model, runner_name(name), labels={**(labels or {}), **runner_labels(name)}, annotations=annotations
    )


def _service_account(model: LLMModel) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": _metadata(model),
        "automountServiceAccountToken": False,
    }


def _role_binding(model: LLMModel) -> dict[str, Any]:
    subject = {
        "kind": "ServiceAccount",
        "name": runner_name(model.metadata.name),
        "namespace": model.metadata.namespace,
    }
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": RUNNER_CLUSTER_ROLE}
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": _metadata(model),
        "subjects": [subject],
        "roleRef": role,
    }


def _secret(s: ModelSnapshot, model: LLMModel) -> dict[str, Any]:
    urls = {REDIS_URL_KEY: redis_url(s.runner.redis_address, redis_user(s.ref), s.redis_password)}
    if model.spec.local is not None and model.spec.local.source.fetched:
        password = weights_password(s.redis_password)
        urls[weights_job.REDIS_URL_KEY] = redis_url(s.runner.redis_address, weights_user(s.ref), password)
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": _metadata(model),
        "type": "Opaque",
        "data": {key: base64.b64encode(each.encode()).decode() for key, each in urls.items()},
    }


def weights_user(ref: ModelRef) -> str:
    """Of the Job that fetches the weights: it may say how far it is, and nothing else."""
    return f"{redis_user(ref)}:weights"


def weights_password(password: str) -> str:
    """Made of the runners' such that it does not tell them."""
    return hmac.new(password.encode(), b"weights", hashlib.sha256).hexdigest()


def redis_url(address: str, user: str, password: str) -> str:
    """The address with a user of its own; a user in it is replaced."""
    parts = urlsplit(address)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{quote(user, safe='')}:{quote(password, safe='')}@{host}"))


def _network_policy(s: ModelSnapshot, model: LLMModel, granted: Access | None) -> dict[str, Any]:
    doors = granted.doors if granted is not None else ()
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _metadata(model),
        "spec": network.policy(runner_labels(model.metadata.name), s.runner, doors),
    }


def _deployment(s: ModelSnapshot, model: LLMModel, granted: Access | None) -> dict[str, Any]:
    generation = spec_generation(s, model)
    annotations = {ANNOTATION_SPEC_HASH: spec_hash(model, granted), ANNOTATION_SPEC_GENERATION: str(generation)}
    labels = runner_labels(model.metadata.name)
    template = model.spec.runner_template or RunnerTemplate()
    # A GPU is held exclusively: a surge pod would wait for the one that the old pod holds.
    exclusive = model.spec.local is not None and model.spec.local.gpu is not None
    surge = {"maxSurge": 0, "maxUnavailable": 1} if exclusive else {"maxSurge": 1, "maxUnavailable": 0}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(model, annotations, template.labels),
        "spec": {
            "replicas": replicas(s, model, granted),
            "revisionHistoryLimit": 1,
            "selector": {"matchLabels": labels},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": surge},
            "template": {
                "metadata": {"labels": {**(template.labels or {}), **labels}, "annotations": annotations},
                "spec": _pod(s, model, granted, generation),
            },
        },
    }


def replicas(s: ModelSnapshot, model: LLMModel, granted: Access | None) -> int:
    """Runner pods that its Deployment is to have."""
    return s.replicas(model) if may_run(s, model, granted) else 0


def may_run(s: ModelSnapshot, model: LLMModel, granted: Access | None) -> bool:
    """Its weights are where pods look, and nobody has to allow something first."""
    return weights.judge(s, model).ready and (granted is None or granted.granted)


def _pod(s: ModelSnapshot, model: LLMModel, granted: Access | None, generation: int) -> dict[str, Any]:
    if model.spec.remote is None or granted is None:
        affinity = weights.node_affinity(weights.judge(s, model).fetched)
        return pod.spec(model, s.runner, spec_generation=generation, affinity=affinity)
    return remote_pod.spec(model, model.spec.remote, granted, s.runner, spec_generation=generation)
