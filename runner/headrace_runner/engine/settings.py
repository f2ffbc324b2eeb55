"""The engine container's settings, read once from the environment by its composition roots.

The supervisor hands its own environment on to the child, so both read the same.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Self

_MAX_SOCKET_PATH_BYTES: Final = 107  # sockaddr_un
Sandbox = Literal["Required", "BestEffort"]
GpuLayers = Literal["All"] | int


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What to serve and how.

    ``context_tokens`` is per sequence and ``parallelism`` the number of sequences: memory grows with their product.
    ``gpu_layers`` None means CPU. ``models_dir`` is where the volume is mounted, so that messages can name paths as the
    user wrote them. ``sandbox`` BestEffort is for ``headrace run``, where no container promises isolation.
    ``stall_seconds`` without a sign of life while sequences run end the child; a step of a large model on a CPU, up to
    512 tokens of prompt, has to fit.
    """

    model_path: Path
    socket_path: Path = Path("/run/headrace/engine.sock")
    state_path: Path = Path("/run/headrace/engine.json")
    models_dir: Path = Path("/models")
    model_sha256: str | None = None
    context_tokens: int = 4096
    parallelism: int = 1
    gpu_layers: GpuLayers | None = None
    threads: int = 1
    sandbox: Sandbox = "Required"
    stall_seconds: int = 120

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read ``HEADRACE_*``. Raises ValueError that names the variable."""
        sandbox = environment.get("HEADRACE_ENGINE_SANDBOX", "Required")
        if sandbox not in ("Required", "BestEffort"):
            raise ValueError("HEADRACE_ENGINE_SANDBOX: expected Required or BestEffort")
        sha256 = environment.get("HEADRACE_MODEL_SHA256", "").strip().lower() or None
        if sha256 is not None and (len(sha256) != 64 or set(sha256) - set("0123456789abcdef")):
            raise ValueError("HEADRACE_MODEL_SHA256: expected 64 hexadecimal digits")
        socket_path = environment.get("HEADRACE_ENGINE_SOCKET", "/run/headrace/engine.sock")
        if len(os.fsencode(socket_path)) > _MAX_SOCKET_PATH_BYTES:
            raise ValueError(f"HEADRACE_ENGINE_SOCKET: longer than {_MAX_SOCKET_PATH_BYTES} bytes")
        if not environment.get("HEADRACE_MODEL_PATH"):
            raise ValueError("HEADRACE_MODEL_PATH: not set")
        return cls(
            model_path=Path(environment["HEADRACE_MODEL_PATH"]),
            socket_path=Path(socket_path),
            state_path=Path(environment.get("HEADRACE_ENGINE_STATE", "/run/headrace/engine.json")),
            models_dir=Path(environment.get("HEADRACE_MODELS_DIR", "/models")),
            model_sha256=sha256,
            context_tokens=_integer(environment, "HEADRACE_CONTEXT_TOKENS", 4096, 16, 1 << 24),
            # 256 is llama.cpp's LLAMA_MAX_SEQ.
            parallelism=_integer(environment, "HEADRACE_PARALLELISM", 1, 1, 256),
            gpu_layers=_gpu_layers(environment),
            threads=_integer(environment, "HEADRACE_THREADS", available_cpus(), 1, 512),
            stall_seconds=_integer(environment, "HEADRACE_ENGINE_STALL_SECONDS", 120, 5, 86_400),
            sandbox="Required" if sandbox == "Required" else "BestEffort",
        )


def available_cpus() -> int:
    """Count the CPUs this process may use: its affinity, capped by the cgroup's quota (v2, then v1)."""
    cpus = len(os.sched_getaffinity(0))
    for quota in (_quota_v2(), _quota_v1()):
        if quota is not None:
            return max(1, min(cpus, int(quota)))
    return cpus


def _quota_v2() -> float | None:
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _quota_v1() -> float | None:
    try:
        quota = int(Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").read_text())
        period = int(Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 and period > 0 else None


def _gpu_layers(environment: Mapping[str, str]) -> GpuLayers | None:
    if environment.get("HEADRACE_GPU_LAYERS") == "All":
        return "All"
    # A GPU may be held with no layer on it: that is a run on the CPU, and asked for as such.
    return _integer(environment, "HEADRACE_GPU_LAYERS", 0, 0, 9999) or None


def _integer(environment: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    raw = environment.get(name, "")
    try:
        value = int(raw) if raw else default
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise ValueError(f"{name}: expected an integer between {low} and {high}")
    return value
