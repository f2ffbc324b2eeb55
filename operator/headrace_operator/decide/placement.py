"""How far a runner pod has got, and what keeps it: from scheduler, kubelet and the runner's own report.

no pod ─► not scheduled ─► containers waiting ─► running, silent ─► Starting ─► Verifying ─► Loading ─► Serving
          WaitingForGPU    ImagePullFailed       RunnerSilent       (report)
          ClaimNotFound    PodRefused
          Unschedulable    RunnerCrashed
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from headrace_crds.model import EngineInfo, Gpu
from headrace_crds.outcome import timestamp
from headrace_crds.reasons import Reason
from headrace_operator.decide.snapshots import ContainerView, DeploymentView, PodView, ProviderView, Report

SILENT_AFTER_MS: Final = 30_000
"""A runner reports every 2 s; one that has run this long without a living report is silent."""
MOUNTING_AFTER_MS: Final = 120_000
"""Containers that wait to be created for so long wait for a volume or the network."""
CRASHES_TOLD: Final = 3
"""Deaths of the engine after which it is not expected to heal by itself."""

_MISSING_CLAIM: Final = re.compile(r'persistentvolumeclaim "([^"]+)" not found')
_IMAGE: Final = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}
)
_CREATION: Final = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})


class Rank(IntEnum):
    """Of several pods the one with the lowest rank speaks for the model."""

    SERVING = 0
    LOADING = 1
    VERIFYING = 2
    FAILED = 3
    STARTING = 4
    HELD_UP = 5
    UNPLACED = 6
    NONE = 7


@dataclass(frozen=True, slots=True)
class Fetched:
    """How much of the weights has come, as it is to be written."""

    percent: int | None = None
    bytes_per_second: int | None = None
    eta_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """Where one pod, or a model without one, stands."""

    rank: Rank
    reason: str
    message: str
    stage: str | None = None
    since_ms: int | None = None
    stalled: bool = False
    """Will not heal by itself."""
    engine: EngineInfo | None = None
    provider: ProviderView | None = None
    fetched: Fetched | None = None


def best(
    pods: Sequence[PodView],
    reports: Mapping[str, Report],
    deployment: DeploymentView | None,
    *,
    gpu: Gpu | None,
    now_ms: int,
) -> Finding:
    """What speaks for the model: the finding of the pod that got farthest, or why there is none."""
    findings = [examine(pod, reports.get(pod.name), gpu=gpu, now_ms=now_ms) for pod in pods]
    if findings:
        return min(findings, key=lambda finding: finding.rank)
    if deployment is not None and deployment.replica_failure:
        message = f"{deployment.replica_failure}: raise the quota, or mend the policy, that refuses the pod"
        return Finding(Rank.NONE, Reason.POD_REFUSED, message, stage="Scheduling")
    return Finding(Rank.NONE, Reason.STARTING, "the runner's pod is being created", stage="Scheduling")


def examine(pod: PodView, report: Report | None, *, gpu: Gpu | None, now_ms: int) -> Finding:
    """One pod; its report when one is alive."""
    if pod.scheduled is not True:
        return unplaced(pod, gpu=gpu)
    if report is not None:
        return _reported(report)
    return _silent(pod, now_ms=now_ms)


def unplaced(pod: PodView, *, gpu: Gpu | None) -> Finding:
    """Why the scheduler has no node for the pod."""
    text, since_ms = pod.scheduling_message, pod.scheduled_changed_ms or pod.created_ms
    if pod.scheduled is None:
        return Finding(Rank.UNPLACED, Reason.STARTING, "the pod waits for the scheduler", "Scheduling", since_ms)
    since = f"waiting since {timestamp(since_ms)}"
    if missing := _MISSING_CLAIM.search(text):
        return Finding(Rank.UNPLACED, Reason.CLAIM_NOT_FOUND, claim_not_found(missing[1]), "Scheduling", since_ms)
    if gpu is not None and f"Insufficient {gpu.resource_name}" in text:
        message = f"{since} for {gpu.count} {gpu.resource_name}, free them or add a node with as many: {text}"
        return Finding(Rank.UNPLACED, Reason.WAITING_FOR_GPU, message, "Scheduling", since_ms)
    if "PersistentVolumeClaims" in text:
        return Finding(Rank.UNPLACED, Reason.VOLUME_NOT_READY, f"{since}: {text}", "Scheduling", since_ms)
    return Finding(Rank.UNPLACED, Reason.UNSCHEDULABLE, f"{since}: {text}", "Scheduling", since_ms)


def claim_not_found(claim: str) -> str:
    return f"PersistentVolumeClaim {claim!r} does not exist in the model's namespace: create it with the GGUF file"


def _reported(report: Report) -> Finding:
    since_ms, message = report.since_ms, report.message
    match report.state:
        case "Serving":
            text, engine, provider = "a runner serves", report.engine, report.provider
            return Finding(Rank.SERVING, Reason.SERVING, text, "Serving", since_ms, engine=engine, provider=provider)
        case "Loading":
            return Finding(Rank.LOADING, Reason.LOADING_WEIGHTS, "the engine loads the weights", "Loading", since_ms)
        case "Verifying":
            text = "the engine checks the weights' digest"
            return Finding(Rank.VERIFYING, Reason.VERIFYING_WEIGHTS, text, "Verifying", since_ms)
        case "Failed":
            return Finding(
                Rank.FAILED, report.reason or Reason.ENGINE_CRASHED, message, "Starting", since_ms, stalled=True
            )
        case "Restarting":
            text = message or "the engine died and is started again: look at the logs of container engine"
            stalled = report.restarts >= CRASHES_TOLD
            return Finding(Rank.FAILED, Reason.ENGINE_CRASHED, text, "Starting", since_ms, stalled=stalled)
    return Finding(Rank.STARTING, Reason.STARTING, "the engine is starting", "Starting", since_ms)


def _silent(pod: PodView, *, now_ms: int) -> Finding:
    if pod.phase == "Failed":
        text = f"{pod.message or 'the pod failed'}: kubectl describe pod {pod.name} tells more"
        return Finding(Rank.HELD_UP, Reason.POD_REFUSED, text, "Starting", pod.created_ms)
    for container in pod.containers:
        if (held_up := _held_up(pod, container)) is not None:
            return held_up
    running = [each.started_ms for each in pod.containers if each.name == "runner" and each.started_ms is not None]
    since_ms = pod.scheduled_changed_ms or pod.created_ms
    if running and now_ms - running[0] > SILENT_AFTER_MS:
        message = f"pod {pod.name} runs since {timestamp(running[0])} and reports nothing: look at its logs"
        return Finding(Rank.HELD_UP, Reason.RUNNER_SILENT, message, "Starting", running[0])
    if not running and now_ms - since_ms > MOUNTING_AFTER_MS:
        message = f"pod {pod.name} waits since {timestamp(since_ms)} for its volumes or network: see its events"
        return Finding(Rank.HELD_UP, Reason.VOLUME_NOT_READY, message, "Starting", since_ms)
    return Finding(Rank.STARTING, Reason.STARTING, "the runner's containers are starting", "Starting", since_ms)


def _held_up(pod: PodView, container: ContainerView) -> Finding | None:
    text = f"container {container.name}: {container.waiting_message or container.waiting_reason}"
    if container.waiting_reason in _IMAGE:
        text = f"{text}: check the chart's runner image and imagePullSecrets"
        return Finding(Rank.HELD_UP, Reason.IMAGE_PULL_FAILED, text, "Starting", pod.created_ms)
    if container.waiting_reason in _CREATION:
        text = f"{text}: kubectl describe pod {pod.name} tells more"
        return Finding(Rank.HELD_UP, Reason.POD_REFUSED, text, "Starting", pod.created_ms)
    if container.waiting_reason == "CrashLoopBackOff":
        stalled = container.restarts >= CRASHES_TOLD
        text = f"container {container.name} of pod {pod.name} exits again and again: look at its logs"
        return Finding(Rank.HELD_UP, Reason.RUNNER_CRASHED, text, "Starting", pod.created_ms, stalled=stalled)
    return None
