"""The Job that fetches a model's weights into the cache, and its network."""

import hashlib
import json
from typing import Any, Final

from headrace_crds.base import GROUP
from headrace_crds.model import LLMModel, Local
from headrace_crds.names import runner_name, weights_labels, weights_name
from headrace_operator.decide import network, pod
from headrace_operator.decide.snapshots import RunnerSettings
from headrace_operator.decide.weights_access import SourceAccess

ANNOTATION_WEIGHTS: Final = f"{GROUP}/weights"
ANNOTATION_WEIGHTS_TRIES: Final = f"{GROUP}/weights-tries"
REDIS_URL_KEY: Final = "weights-url"
CACHE: Final = "/cache"
SECRET: Final = "/etc/headrace/source"  # noqa: S105
PODS_LIMIT: Final = 4
"""Pods of one Job; each tries for minutes, and goes on where the one before stopped."""
FINAL_EXIT_CODES: Final = (65, 78)
"""headrace_runner.weights.failures: another pod would find the same."""


def cache_volume(local: Local, settings: RunnerSettings) -> dict[str, Any] | None:
    """Without its name, writable; None where there is no cache."""
    if local.cache is not None and local.cache.persistent_volume_claim is not None:
        return {"persistentVolumeClaim": {"claimName": local.cache.persistent_volume_claim.claim_name}}
    if settings.weights.node_directory:
        return {"hostPath": {"path": settings.weights.node_directory, "type": "Directory"}}
    return None


def made_of(model: LLMModel, local: Local, access: SourceAccess, settings: RunnerSettings) -> str:
    """Another one makes another Job; a Secret's content is not in it."""
    content = [
        local.source.dump(),
        cache_volume(local, settings),
        local.cache.limit_bytes if local.cache is not None else settings.weights.limit_bytes,
        access.exempt,
        settings.weights.hugging_face,
        model.metadata.uid,
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def policy(model: LLMModel, access: SourceAccess, settings: RunnerSettings) -> dict[str, Any]:
    """The downloader reaches names, Redis and sources, and no API server."""
    made = network.policy(weights_labels(model.metadata.name), settings, access.doors, api_server=False)
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": pod.owned(model, weights_name(model.metadata.name), labels=weights_labels(model.metadata.name)),
        "spec": {**made, "ingress": []},
    }


def job(model: LLMModel, local: Local, access: SourceAccess, settings: RunnerSettings, *, tries: int) -> dict[str, Any]:
    """`tries` Jobs have failed before it. Raises ValueError without a cache."""
    annotations = {
        ANNOTATION_WEIGHTS: made_of(model, local, access, settings),
        ANNOTATION_WEIGHTS_TRIES: str(tries),
    }
    labels = weights_labels(model.metadata.name)
    name = runner_name(model.metadata.name)
    failures = [
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": list(FINAL_EXIT_CODES)}},
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    ]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": pod.owned(model, name, labels=labels, annotations=annotations),
        "spec": {
            "backoffLimit": PODS_LIMIT - 1,
            "podFailurePolicy": {"rules": failures},
            # Never two side by side: the second would wait for the first one's lock.
            "podReplacementPolicy": "Failed",
            "template": {"metadata": {"labels": labels}, "spec": _pod(model, local, access, settings)},
        },
    }


def _pod(model: LLMModel, local: Local, access: SourceAccess, settings: RunnerSettings) -> dict[str, Any]:
    cache, name = cache_volume(local, settings), runner_name(model.metadata.name)
    if cache is None:
        raise ValueError("there is no cache")
    items = [{"key": REDIS_URL_KEY, "path": REDIS_URL_KEY}]
    volumes: list[dict[str, Any]] = [
        {"name": "cache", **cache},
        {"name": "redis", "secret": {"secretName": name, "items": items}},
        {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}},
    ]
    mounts: list[dict[str, Any]] = [
        {"name": "cache", "mountPath": CACHE},
        {"name": "redis", "mountPath": "/etc/headrace/redis", "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
    ]
    if local.source.secret_name is not None:
        # The whole of it: the downloader names a key that lacks, where the kubelet would leave the pod waiting.
        volumes.append({"name": "source", "secret": {"secretName": local.source.secret_name, "defaultMode": 0o440}})
        mounts.append({"name": "source", "mountPath": SECRET, "readOnly": True})
    container = {
        **pod.container("weights", settings),
        "command": ["headrace-weights"],
        "env": [*pod.env(_environment(model, local, access, settings)), *_from_pod()],
        "resources": dict(settings.weights.resources),
        "terminationMessagePolicy": "File",
        "volumeMounts": mounts,
    }
    return {**pod.enclosing(model, settings, [container], volumes), "restartPolicy": "Never"}


def _environment(model: LLMModel, local: Local, access: SourceAccess, settings: RunnerSettings) -> dict[str, str]:
    weights = settings.weights
    limit = local.cache.limit_bytes if local.cache is not None else weights.limit_bytes
    source = json.dumps(local.source.dump(), sort_keys=True, separators=(",", ":"))
    environment = {
        # Without a dollar sign, which the kubelet would read as a reference to another variable.
        "HEADRACE_WEIGHTS_SOURCE": source.replace("$", "\\u0024"),
        "HEADRACE_WEIGHTS_CACHE": CACHE,
        "HEADRACE_WEIGHTS_PARALLEL": str(weights.parallel),
        "HEADRACE_WEIGHTS_HUGGING_FACE": weights.hugging_face,
        "HEADRACE_WEIGHTS_SECRET_DIR": SECRET,
        "HEADRACE_EXEMPT_HOSTS": ",".join(access.exempt),
        "HEADRACE_MODEL": f"{model.metadata.namespace}/{model.metadata.name}",
        "HEADRACE_REDIS_URL_FILE": f"/etc/headrace/redis/{REDIS_URL_KEY}",
        "NVIDIA_VISIBLE_DEVICES": "void",
    }
    if limit is not None:
        environment["HEADRACE_WEIGHTS_CACHE_LIMIT_BYTES"] = str(limit)
    if weights.bytes_per_second is not None:
        environment["HEADRACE_WEIGHTS_BYTES_PER_SECOND"] = str(weights.bytes_per_second)
    return environment


def _from_pod() -> list[dict[str, Any]]:
    fields = {"HEADRACE_POD": "metadata.name", "HEADRACE_NODE": "spec.nodeName"}
    return [
        {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}
        for name, path in fields.items()
    ]
