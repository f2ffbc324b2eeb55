"""One row per situation of scheduler, kubelet and engine: what is seen of a model, and what its conditions say."""

from typing import Any

import pytest
from operator_cases import (
    ENGINE,
    NOW_MS,
    SCHEDULER_SAYS_GPU,
    condition,
    deployment,
    gpu_model,
    model,
    pod,
    report,
)

from headrace_operator.decide.snapshots import ContainerView

READY = condition("Ready", "True", "Serving")
VERIFIED: dict[str, Any] = {"engine": ENGINE}
BROKEN = condition("Ready", "False", "ChecksumMismatch")


def container(name: str = "runner", **more: Any) -> ContainerView:
    return ContainerView(name, **more)


def waits(reason: str, message: str = "", name: str = "runner", restarts: int = 0) -> tuple[ContainerView, ...]:
    return (ContainerView(name, waiting_reason=reason, waiting_message=message, restarts=restarts),)


def unplaced(message: str) -> Any:
    return pod(scheduled=False, scheduling_message=message)


SERVES: dict[str, Any] = {"pods": [pod(ready=True)], "reports": {"pod-a": report("Serving")}}

ROWS: list[Any] = [
    # on the way
    pytest.param(
        model(), {}, {"Ready": ("False", "Starting"), "Available": ("False", "Starting")}, "Starting", id="no pod yet"
    ),
    pytest.param(
        model(),
        {"pods": [pod(scheduled=None)]},
        {"Ready": ("False", "Starting"), "Placed": ("False", "Starting")},
        "Starting",
        id="the scheduler has not looked yet",
    ),
    pytest.param(
        model(),
        {"pods": [pod(containers=waits("ContainerCreating"))]},
        {"Ready": ("False", "Starting"), "Placed": ("True", "Scheduled")},
        "Starting",
        id="containers are being created",
    ),
    pytest.param(
        model(),
        {"pods": [pod()], "reports": {"pod-a": report("Verifying")}},
        {"Ready": ("False", "VerifyingWeights"), "Placed": ("True", "Scheduled")},
        "Loading",
        id="the digest is checked",
    ),
    pytest.param(
        model(),
        {"pods": [pod()], "reports": {"pod-a": report("Loading")}},
        {"Ready": ("False", "LoadingWeights")},
        "Loading",
        id="the weights are loaded",
    ),
    pytest.param(
        model(),
        SERVES,
        {"Ready": ("True", "Serving"), "Available": ("True", "Serving"), "Placed": ("True", "Scheduled")},
        "Serving",
        id="it serves",
    ),
    # Ready stays
    pytest.param(
        model(READY, replicas=0, **VERIFIED),
        {},
        {"Ready": ("True", "ScaledToZero"), "Available": ("False", "ScaledToZero")},
        "ScaledToZero",
        id="scaled to zero after it was verified: Ready",
    ),
    pytest.param(
        gpu_model(READY, **VERIFIED),
        {"pods": [unplaced(SCHEDULER_SAYS_GPU)]},
        {
            "Ready": ("True", "WeightsVerified"),
            "Available": ("False", "WaitingForGPU"),
            "Placed": ("False", "WaitingForGPU"),
        },
        "WaitingForGPU",
        id="displaced after it was verified: Ready",
    ),
    pytest.param(
        model(READY, **VERIFIED),
        {"pods": [pod()], "reports": {"pod-a": report("Restarting", "EngineCrashed", "died by SIGSEGV", restarts=1)}},
        {"Ready": ("True", "WeightsVerified"), "Available": ("False", "EngineCrashed")},
        "Starting",
        id="the engine died once: Ready, not available",
    ),
    pytest.param(
        model(READY, **VERIFIED),
        {"pods": [pod()], "reports": {"pod-a": report("Restarting", "EngineCrashed", "died by SIGSEGV", restarts=3)}},
        {"Ready": ("False", "EngineCrashed"), "Stalled": ("True", "EngineCrashed")},
        "Failed",
        id="the engine dies again and again: stalled",
    ),
    pytest.param(
        model(BROKEN, **VERIFIED),
        {"pods": [pod()], "reports": {"pod-a": report("Loading")}},
        {"Ready": ("False", "LoadingWeights")},
        "Loading",
        id="after a failure loading alone does not make it Ready again",
    ),
    pytest.param(
        model(BROKEN, condition("Stalled", "True", "ChecksumMismatch"), **VERIFIED),
        SERVES,
        {"Ready": ("True", "Serving"), "Available": ("True", "Serving"), "Stalled": None},
        "Serving",
        id="repaired: Ready, and Stalled is gone",
    ),
    pytest.param(
        model(replicas=0),
        {},
        {"Ready": ("False", "ScaledToZero"), "Placed": None},
        "ScaledToZero",
        id="at zero from the start: never verified",
    ),
    pytest.param(
        model(READY, generation=2, **VERIFIED),
        {"deployment": deployment(model(), spec_hash="of-another-spec")},
        {"Ready": ("False", "Starting")},
        "Starting",
        id="another spec: what was verified was something else",
    ),
    pytest.param(
        model(READY, generation=2, **VERIFIED),
        {"deployment": deployment(model(), spec_hash="of-another-spec"), **SERVES},
        {"Ready": ("False", "Starting"), "Available": ("True", "Serving")},
        "Serving",
        id="another spec while the old pod serves: its word does not verify the new one",
    ),
    pytest.param(
        model(READY, generation=2, **VERIFIED),
        {"pods": [pod()]},
        {"Ready": ("True", "WeightsVerified")},
        "Starting",
        id="the same spec at another generation (scaling): still verified",
    ),
    # what keeps it
    pytest.param(
        gpu_model(count=2),
        {"pods": [unplaced("0/1 nodes are available: 1 Insufficient nvidia.com/gpu.")]},
        {"Ready": ("False", "WaitingForGPU"), "Placed": ("False", "WaitingForGPU")},
        "WaitingForGPU",
        id="no GPU is free",
    ),
    pytest.param(
        model(),
        {"pods": [unplaced("0/1 nodes are available: 1 Insufficient memory.")]},
        {"Ready": ("False", "Unschedulable"), "Placed": ("False", "Unschedulable")},
        "Starting",
        id="no node fits",
    ),
    pytest.param(
        model(),
        {"pods": [unplaced('0/1 nodes: persistentvolumeclaim "models" not found.')]},
        {"Ready": ("False", "ClaimNotFound")},
        "Starting",
        id="the scheduler misses the claim",
    ),
    pytest.param(
        model(),
        {"claim_missing": True},
        {"Ready": ("False", "ClaimNotFound")},
        "Starting",
        id="the claim does not exist",
    ),
    pytest.param(
        model(),
        {"pods": [unplaced("pod has unbound immediate PersistentVolumeClaims")]},
        {"Ready": ("False", "VolumeNotReady")},
        "Starting",
        id="the claim is not bound",
    ),
    pytest.param(
        model(),
        {"pods": [pod(containers=waits("ImagePullBackOff", "Back-off pulling image"))]},
        {"Ready": ("False", "ImagePullFailed")},
        "Starting",
        id="the image cannot be pulled",
    ),
    pytest.param(
        model(),
        {"pods": [pod(containers=waits("CreateContainerConfigError", 'secret "x" not found'))]},
        {"Ready": ("False", "PodRefused")},
        "Starting",
        id="the kubelet refuses the container",
    ),
    pytest.param(
        model(),
        {"pods": [pod(containers=waits("CrashLoopBackOff", restarts=5))]},
        {"Ready": ("False", "RunnerCrashed"), "Stalled": ("True", "RunnerCrashed")},
        "Failed",
        id="the runner crashes in a loop",
    ),
    pytest.param(
        model(),
        {"deployment": deployment(model(), replica_failure="pods is forbidden: exceeded quota")},
        {"Ready": ("False", "PodRefused")},
        "Starting",
        id="a quota refuses the pod",
    ),
    pytest.param(
        model(),
        {"pods": [pod(containers=(container(started_ms=NOW_MS - 31_000),))]},
        {"Ready": ("False", "RunnerSilent")},
        "Starting",
        id="the runner says nothing",
    ),
    pytest.param(
        model(),
        {"pods": [pod(containers=(container(started_ms=NOW_MS - 3_000),))]},
        {"Ready": ("False", "Starting")},
        "Starting",
        id="the runner has just started",
    ),
    pytest.param(
        model(),
        {"pods": [pod(phase="Failed", message="UnexpectedAdmissionError: no GPU healthy")]},
        {"Ready": ("False", "PodRefused")},
        "Starting",
        id="the node refused the pod",
    ),
    # engines that refuse
    *(
        pytest.param(
            model(),
            {"pods": [pod()], "reports": {"pod-a": report("Failed", reason, "a.gguf: what is wrong")}},
            {"Ready": ("False", reason), "Stalled": ("True", reason)},
            "Failed",
            id=f"the engine refuses: {reason}",
        )
        for reason in ("ModelFileNotFound", "ChecksumMismatch", "InvalidModelFile", "GPUUnavailable", "EngineCrashed")
    ),
    # several pods
    pytest.param(
        model(replicas=2),
        {
            "pods": [pod("pod-a"), pod("pod-b", ready=True)],
            "reports": {"pod-a": report("Failed", "GPUUnavailable"), "pod-b": report("Serving")},
        },
        {"Ready": ("True", "Serving"), "Stalled": None},
        "Serving",
        id="one of two serves: that one speaks",
    ),
    pytest.param(
        gpu_model(replicas=2),
        {
            "pods": [pod("pod-a", ready=True), pod("pod-b", scheduled=False, scheduling_message=SCHEDULER_SAYS_GPU)],
            "reports": {"pod-a": report("Serving")},
        },
        {"Ready": ("True", "Serving"), "Placed": ("False", "WaitingForGPU")},
        "Serving",
        id="one of two waits for a GPU: Placed says so",
    ),
    pytest.param(
        model(generation=2),
        {
            "deployment": deployment(model(), generation=2),
            "pods": [pod("old", generation=1, ready=True), pod("new", generation=2)],
            "reports": {"old": report("Serving"), "new": report("Loading", generation=2)},
        },
        {"Ready": ("False", "LoadingWeights"), "Available": ("True", "Serving")},
        "Serving",
        id="a rollout: the old pod serves, the new spec is not verified yet",
    ),
    pytest.param(
        model(),
        {"pods": [pod()], "reports": {"pod-a": report("Serving", generation=7)}},
        {"Ready": ("False", "Starting")},
        "Starting",
        id="a report about another spec counts for nothing",
    ),
    pytest.param(
        gpu_model(),
        {"pods": [pod("evicted", phase="Failed"), unplaced(SCHEDULER_SAYS_GPU)]},
        {"Ready": ("False", "WaitingForGPU")},
        "WaitingForGPU",
        id="an evicted pod does not speak for its successor",
    ),
]
