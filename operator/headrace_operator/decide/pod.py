"""The runner pod, and of local models its second container: `runner` has token and Redis; `engine` weights and GPU."""

from collections.abc import Mapping
from typing import Any, Final

from headrace_crds.base import GROUP, VERSION
from headrace_crds.engine_settings import engine_environment
from headrace_crds.model import LLMModel, Local
from headrace_crds.names import runner_name
from headrace_crds.runner_template import RunnerTemplate
from headrace_operator.decide import tracing
from headrace_operator.decide.snapshots import RunnerSettings

USER_ID: Final = 65532
DRAIN_SECONDS: Final = 5
"""So long a stopping runner finishes what it runs, where spec.scaling does not say."""
COMMIT_SECONDS: Final = 25
"""What it has beyond that for results that are finished and not committed."""
TOKEN_SECONDS: Final = 3600
HTTP_PORT: Final = 8080
WEIGHTS_VOLUME: Final = "model"

_RUN: Final = "/run/headrace"
_ENGINE_FILES: Final = {
    "HEADRACE_ENGINE_SOCKET": f"{_RUN}/engine.sock",
    "HEADRACE_ENGINE_STATE": f"{_RUN}/engine.json",
}


def spec(
    model: LLMModel, settings: RunnerSettings, *, spec_generation: int, affinity: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Of a local model: a pod spec that Pod Security "restricted" admits."""
    local, weights = served(model, settings)
    containers = [_local_runner(model, local, settings, spec_generation), _engine(model, local, settings)]
    made = enclosing(model, settings, containers, _volumes(weights, runner_name(model.metadata.name)))
    return {**made, "affinity": affinity} if affinity is not None else made


def enclosing(
    model: LLMModel, settings: RunnerSettings, containers: list[dict[str, Any]], volumes: list[dict[str, Any]]
) -> dict[str, Any]:
    """The pod around its containers."""
    pod: dict[str, Any] = {
        "serviceAccountName": runner_name(model.metadata.name),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": _drain_seconds(model) + COMMIT_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            # Weights are large and read-only: nobody walks through them to change their group.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": containers,
        "volumes": volumes,
    }
    template = model.spec.runner_template or RunnerTemplate()
    if template.node_selector:
        pod["nodeSelector"] = dict(template.node_selector)
    tolerations = [each.dump() for each in template.tolerations or ()]
    if model.spec.local is not None and model.spec.local.gpu is not None:
        # Nodes with GPUs are commonly tainted by the resource's name.
        tolerations.append({"key": model.spec.local.gpu.resource_name, "operator": "Exists"})
    if tolerations:
        pod["tolerations"] = tolerations
    if settings.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": secret} for secret in settings.image_pull_secrets]
    return pod


def _drain_seconds(model: LLMModel) -> int:
    return model.spec.scaling.drain_seconds if model.spec.scaling is not None else DRAIN_SECONDS


def served(model: LLMModel, settings: RunnerSettings) -> tuple[Local, dict[str, Any]]:
    """The local model, and the volume of its weights without its name. Raises ValueError where CEL promises better."""
    local = model.spec.local
    source = local.source if local is not None else None
    if local is None or source is None:
        raise ValueError("spec.local is missing")
    if source.persistent_volume_claim is not None:
        return local, _claim(source.persistent_volume_claim.claim_name)
    if source.image is not None:
        return local, {"image": {"reference": source.image.reference, "pullPolicy": "IfNotPresent"}}
    if source.node_folder is not None:
        return local, {"hostPath": {"path": source.node_folder, "type": "Directory"}}
    if local.cache is not None and local.cache.persistent_volume_claim is not None:
        return local, _claim(local.cache.persistent_volume_claim.claim_name)
    if not settings.weights.node_directory:
        raise ValueError("there is no cache for the weights")
    return local, {"hostPath": {"path": settings.weights.node_directory, "type": "Directory"}}


def _claim(name: str) -> dict[str, Any]:
    return {"persistentVolumeClaim": {"claimName": name, "readOnly": True}}


def owned(
    model: LLMModel,
    name: str,
    *,
    labels: Mapping[str, str],
    annotations: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Metadata of an object that goes with its model."""
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": model.metadata.namespace,
        "labels": dict(labels),
        "ownerReferences": [
            {
                "apiVersion": f"{GROUP}/{VERSION}",
                "kind": "LLMModel",
                "name": model.metadata.name,
                "uid": model.metadata.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }
    if annotations:
        metadata["annotations"] = dict(annotations)
    return metadata


def _local_runner(model: LLMModel, local: Local, settings: RunnerSettings, spec_generation: int) -> dict[str, Any]:
    return runner(
        model,
        _ENGINE_FILES,
        settings,
        parallelism=local.parallelism,
        mounts=[{"name": "socket", "mountPath": _RUN}],
        resources=settings.resources.get("runner") or {},
        spec_generation=spec_generation,
    )


def runner(
    model: LLMModel,
    environment: Mapping[str, str],
    settings: RunnerSettings,
    *,
    parallelism: int,
    mounts: list[dict[str, Any]],
    resources: Mapping[str, Any],
    spec_generation: int,
) -> dict[str, Any]:
    """The container that claims and commits; `environment` and `mounts` are what this kind of model adds."""
    shared = {
        "HEADRACE_MODEL": f"{model.metadata.namespace}/{model.metadata.name}",
        "HEADRACE_MODEL_GENERATION": str(spec_generation),
        "HEADRACE_REDIS_URL_FILE": "/etc/headrace/redis/url",
        "HEADRACE_PARALLELISM": str(parallelism),
        "HEADRACE_LEASE_SECONDS": str(settings.lease_seconds),
        "HEADRACE_DRAIN_SECONDS": str(_drain_seconds(model)),
        # An image whose default shows every GPU would show them here too.
        "NVIDIA_VISIBLE_DEVICES": "void",
    }
    pod_name = {"name": "HEADRACE_POD", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}}
    return {
        **container("runner", settings),
        "command": ["headrace-runner"],
        "env": [*env({**shared, **environment}), *tracing.env(settings.tracing), pod_name],
        "ports": [{"name": "http", "containerPort": HTTP_PORT, "protocol": "TCP"}],
        "readinessProbe": _probe("/readyz", period_seconds=2, failures=2),
        # On a busy node the start takes long; liveness begins after it.
        "startupProbe": _probe("/healthz", period_seconds=1, failures=120),
        "livenessProbe": _probe("/healthz", period_seconds=10, failures=6),
        "resources": dict(resources),
        "volumeMounts": [
            *mounts,
            {"name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": True},
            {"name": "redis", "mountPath": "/etc/headrace/redis", "readOnly": True},
            {"name": "tmp-runner", "mountPath": "/tmp"},  # noqa: S108
        ],
    }


def _engine(model: LLMModel, local: Local, settings: RunnerSettings) -> dict[str, Any]:
    environment = {**engine_environment(model.spec, local, lambda path: f"/models/{path}"), **_ENGINE_FILES}
    resources = {kind: dict(amounts) for kind, amounts in (settings.resources.get("engine") or {}).items()}
    if local.gpu is not None:
        environment["VRAM_RESERVE_MB"] = str(settings.vram_reserve_mib)
        environment["MAX_VRAM_USAGE_PERCENT"] = str(settings.max_vram_usage_percent)
        resources["limits"] = {**resources.get("limits", {}), local.gpu.resource_name: str(local.gpu.count)}
    return {
        **container("engine", settings),
        "command": ["headrace-engine"],
        "env": env(environment),
        "resources": resources,
        "volumeMounts": [
            {"name": "socket", "mountPath": _RUN},
            {"name": WEIGHTS_VOLUME, "mountPath": "/models", "readOnly": True},
            {"name": "tmp-engine", "mountPath": "/tmp"},  # noqa: S108
        ],
    }


def container(name: str, settings: RunnerSettings) -> dict[str, Any]:
    return {
        "name": name,
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
        },
    }


def _volumes(weights: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    return [
        {"name": "socket", "emptyDir": {"sizeLimit": "16Mi"}},
        {"name": WEIGHTS_VOLUME, **weights},
        *shared_volumes(name),
        {"name": "tmp-engine", "emptyDir": {"sizeLimit": "256Mi"}},
    ]


def shared_volumes(name: str) -> list[dict[str, Any]]:
    """What every runner needs: its token, its Redis URL, a place for temporary files."""
    token = {
        "sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": TOKEN_SECONDS}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
        ]
    }
    return [
        {"name": "token", "projected": token},
        {"name": "redis", "secret": {"secretName": name}},
        {"name": "tmp-runner", "emptyDir": {"sizeLimit": "64Mi"}},
    ]


def env(values: dict[str, str]) -> list[dict[str, Any]]:
    return [{"name": name, "value": value} for name, value in values.items()]


def _probe(path: str, *, period_seconds: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": period_seconds,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }
