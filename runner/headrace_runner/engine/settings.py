"""The engine container's settings, read once from the environment by its composition roots.

The supervisor hands its own environment on to the child, so both read the same.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self, get_args

_MAX_SOCKET_PATH_BYTES: Final = 107  # sockaddr_un
Sandbox = Literal["Required", "BestEffort"]
GpuLayers = Literal["All"] | int
KvType = Literal["F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"]
FlashAttention = Literal["Auto", "Enabled", "Disabled"]
Pooling = Literal["Mean", "CLS", "Last"]
MAX_FILES: Final = 256
PLAIN_KERNELS_VARIABLE: Final = "HEADRACE_ENGINE_PLAIN_KERNELS_BECAUSE"
"""Set by the supervisor alone, for a child whose predecessor died of a signal before it served."""
MAX_ADAPTERS: Final = 8


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A GGUF with weights, and the digest that it must have."""

    path: Path
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class AdapterFile:
    """A LoRA GGUF, the digest that it must have and its strength; 1 is as trained."""

    path: Path
    sha256: str | None = None
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What to serve and how.

    ``context_tokens`` is per sequence and ``parallelism`` the number of sequences: memory grows with their product.
    ``gpu_layers`` None means CPU. ``models_dir`` is where the volume is mounted, so that messages can name paths as the
    user wrote them. ``sandbox`` BestEffort is for ``headrace run``, where no container promises isolation.
    ``stall_seconds`` without a sign of life while sequences run end the child; a step of a large model on a CPU, up to
    512 tokens of prompt, has to fit. ``model_parts`` are all files of a split GGUF in order, ``model_path`` the first.
    ``tensor_split`` are the GPUs' shares. Of each GPU ``max_vram_usage_percent`` may be in use after the load, and
    ``vram_reserve_mib`` stay free. An engine whose anonymous memory has grown beyond ``recycle_mib`` is replaced
    between tasks: 0 is never, None goes by the container's limit. With ``plain_kernels_because`` llama.cpp does without
    repacked weights and the kernels that need them, AMX among them: half as fast or less, on every CPU.
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
    model_parts: tuple[ModelFile, ...] = ()
    adapters: tuple[AdapterFile, ...] = ()
    kv_type_k: KvType = "F16"
    kv_type_v: KvType = "F16"
    flash_attention: FlashAttention = "Auto"
    kv_unified: bool = False
    memory_map: bool = True
    gpu_count: int = 1
    tensor_split: tuple[int, ...] = ()
    vram_reserve_mib: int = 1024
    max_vram_usage_percent: int = 95
    generates: bool = True
    embeds: bool = False
    pooling: Pooling | None = None
    recycle_mib: int | None = None
    plain_kernels_because: str = ""

    @property
    def files(self) -> tuple[ModelFile, ...]:
        """The weights' files, in order."""
        return self.model_parts or (ModelFile(self.model_path, self.model_sha256),)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read ``HEADRACE_*``. Raises ValueError that names the variable."""
        sandbox = environment.get("HEADRACE_ENGINE_SANDBOX", "Required")
        if sandbox not in ("Required", "BestEffort"):
            raise ValueError("HEADRACE_ENGINE_SANDBOX: expected Required or BestEffort")
        sha256 = _sha256("HEADRACE_MODEL_SHA256", environment.get("HEADRACE_MODEL_SHA256", ""))
        memory_map = _choice(environment, "HEADRACE_MEMORY_MAP", ("true", "false"), "true")
        capabilities = environment.get("HEADRACE_CAPABILITIES", "Chat,Completion").split(",")
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
            model_parts=_files(environment, "HEADRACE_MODEL_PARTS", MAX_FILES, _model_file),
            adapters=_files(environment, "HEADRACE_ADAPTERS", MAX_ADAPTERS, _adapter_file),
            kv_type_k=_choice(environment, "HEADRACE_KV_TYPE_K", get_args(KvType), "F16"),
            kv_type_v=_choice(environment, "HEADRACE_KV_TYPE_V", get_args(KvType), "F16"),
            kv_unified=_choice(environment, "HEADRACE_KV_UNIFIED", ("false", "true"), "false") == "true",
            flash_attention=_choice(environment, "HEADRACE_FLASH_ATTENTION", get_args(FlashAttention), "Auto"),
            memory_map=memory_map == "true",
            gpu_count=_integer(environment, "HEADRACE_GPU_COUNT", 1, 1, 16),
            tensor_split=_tensor_split(environment),
            # Under the names that the first users brought along.
            vram_reserve_mib=_integer(environment, "VRAM_RESERVE_MB", 1024, 0, 1 << 20),
            max_vram_usage_percent=_integer(environment, "MAX_VRAM_USAGE_PERCENT", 95, 1, 100),
            generates="Chat" in capabilities or "Completion" in capabilities,
            embeds="Embedding" in capabilities,
            recycle_mib=_recycle_mib(environment),
            plain_kernels_because=environment.get(PLAIN_KERNELS_VARIABLE, "")[:200],
            pooling=_choice(environment, "HEADRACE_POOLING", ("", *get_args(Pooling)), "") or None,
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


def _recycle_mib(environment: Mapping[str, str]) -> int | None:
    name = "HEADRACE_ENGINE_RECYCLE_MIB"
    return _integer(environment, name, 0, 0, 1 << 30) if environment.get(name) else None


def _integer(environment: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    raw = environment.get(name, "")
    try:
        value = int(raw) if raw else default
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise ValueError(f"{name}: expected an integer between {low} and {high}")
    return value


def _choice(environment: Mapping[str, str], name: str, choices: tuple[str, ...], default: str) -> Any:
    value = environment.get(name) or default
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(filter(None, choices))}")
    return value


def _tensor_split(environment: Mapping[str, str]) -> tuple[int, ...]:
    raw = environment.get("HEADRACE_TENSOR_SPLIT", "")
    try:
        shares = tuple(int(share) for share in raw.split(",")) if raw else ()
    except ValueError:
        shares = (-1,)
    if len(shares) > 16 or any(not 0 <= share <= 1_000_000 for share in shares) or (shares and not any(shares)):
        raise ValueError("HEADRACE_TENSOR_SPLIT: expected at most 16 shares such as 3,1")
    return shares


def _files(environment: Mapping[str, str], name: str, limit: int, read: Any) -> Any:
    try:
        value = json.loads(environment.get(name) or "[]")
        if not isinstance(value, list) or len(value) > limit:
            raise ValueError
        return tuple(read(name, item) for item in value)
    except (ValueError, KeyError, TypeError) as error:
        message = f'{name}: expected a JSON list of at most {limit} objects {{"path": …, "sha256": …}}'
        raise ValueError(message) from error


def _model_file(name: str, item: Mapping[str, Any]) -> ModelFile:
    return ModelFile(Path(item["path"]), _sha256(name, item.get("sha256") or ""))


def _adapter_file(name: str, item: Mapping[str, Any]) -> AdapterFile:
    scale = float(item.get("scale", 1))
    if not math.isfinite(scale) or abs(scale) > 100:
        raise ValueError(f"{name}: a scale is a number from -100 to 100")
    return AdapterFile(Path(item["path"]), _sha256(name, item.get("sha256") or ""), scale)


def _sha256(name: str, text: str) -> str | None:
    digest = text.strip().lower() or None
    if digest is not None and (len(digest) != 64 or set(digest) - set("0123456789abcdef")):
        raise ValueError(f"{name}: expected 64 hexadecimal digits")
    return digest
