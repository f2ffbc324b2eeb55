"""The memory plan: what a model will need, and whether there is as much, asked before llama.cpp asks the kernel.

Linux promises memory it does not have; without this check a context that is too large ends as an OOM kill, minutes
later and without a word, and one on a GPU in the middle of a load. llama.cpp has no such estimate of its own. The
formulas follow what it reports about its buffers; after the load the plan is compared with that report.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from headrace_runner.engine.failures import EngineRefusal
from headrace_runner.engine.gpu import GpuDevice
from headrace_runner.engine.header import ModelHeader
from headrace_runner.engine.settings import EngineSettings

BATCH_TOKENS: Final = 512
"""Tokens of one batch: what compute buffers are sized by."""
_CELLS_MULTIPLE: Final = 256
_PREFIX_SEQUENCES: Final = 16
_FLOAT_BYTES: Final = 4
_MASK_BYTES: Final = 2
# ggml's types: bytes of a block of 32 elements.
_KV_BLOCK_BYTES: Final[dict[str, int]] = {
    **{"F32": 128, "F16": 64, "BF16": 64, "Q8_0": 34, "Q5_1": 24, "Q5_0": 22, "Q4_1": 20, "Q4_0": 18},
}


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes that a model needs in one place: on its GPUs together, or in RAM."""

    weights_bytes: int
    kv_bytes: int
    compute_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.kv_bytes + self.compute_bytes

    def words(self) -> str:
        """The parts in MiB, for people."""
        return (
            f"{_mib(self.total_bytes)} MiB ({_mib(self.weights_bytes)} of weights, {_mib(self.kv_bytes)} of KV cache, "
            f"{_mib(self.compute_bytes)} to compute in)"
        )


def plan_ram(header: ModelHeader, adapters_bytes: int, settings: EngineSettings) -> MemoryPlan:
    """What the CPU's side needs: everything, but for the layers that go to a GPU."""
    kv = compute = 0
    on_gpu = _gpu_layers(header, settings)
    if settings.generates:
        kv = _kv_bytes(header, settings, range(header.block_count - min(on_gpu, header.block_count)))
        compute = 0 if on_gpu > header.block_count else _compute_bytes(header, settings, BATCH_TOKENS)
        # A row of logits for each sequence, those that hold prefixes among them.
        compute += (settings.parallelism + _PREFIX_SEQUENCES) * header.vocabulary * _FLOAT_BYTES
    if settings.embeds:
        compute += _embedding_bytes(header, settings)
    return MemoryPlan(header.weights_bytes - _gpu_weights(header, on_gpu) + adapters_bytes, kv, compute)


def plan_gpu(header: ModelHeader, settings: EngineSettings) -> MemoryPlan | None:
    """What the GPUs need together; None where the model runs on the CPU."""
    on_gpu = _gpu_layers(header, settings)
    if not on_gpu:
        return None
    kv = compute = 0
    if settings.generates:
        kv = _kv_bytes(header, settings, range(max(0, header.block_count - on_gpu), header.block_count))
        # Each GPU computes its own layers.
        compute = settings.gpu_count * _compute_bytes(header, settings, BATCH_TOKENS)
    if settings.embeds:
        compute += settings.gpu_count * _embedding_bytes(header, settings)
    return MemoryPlan(_gpu_weights(header, on_gpu), kv, compute)


def check_ram(plan: MemoryPlan, settings: EngineSettings, available: int) -> None:
    """Raises EngineRefusal: ContextTooLarge where a smaller context would fit, else InsufficientMemory."""
    if plan.total_bytes > available:
        remedy = "give the engine more memory" + (", or set gpu.layers" if settings.gpu_layers is None else "")
        _refuse(plan, settings, f"{_mib(available)} MiB of memory are available", available, remedy)


def check_gpus(plan: MemoryPlan, settings: EngineSettings, devices: Sequence[GpuDevice]) -> None:
    """Compare with what the GPUs have left. Raises EngineRefusal as ``check_ram`` does."""
    usable = [usable_bytes(device, settings) for device in devices]
    shares: tuple[int, ...] = settings.tensor_split[: len(devices)]
    if len(shares) == len(devices) and any(shares):
        # The GPU with the least room for its share decides.
        room = min(left * sum(shares) // share for left, share in zip(usable, shares, strict=True) if share)
    else:
        room = sum(usable)
    if plan.total_bytes > room:
        found = ", ".join(
            f"{device.name} has {_mib(device.free_bytes)} of {_mib(device.total_bytes)} MiB free" for device in devices
        )
        kept = f"VRAM_RESERVE_MB {settings.vram_reserve_mib}, MAX_VRAM_USAGE_PERCENT {settings.max_vram_usage_percent}"
        _refuse(plan, settings, f"{_mib(room)} MiB may be used: {found}; {kept}", room, "lower gpu.layers")


def usable_bytes(device: GpuDevice, settings: EngineSettings) -> int:
    """What may still be taken of a GPU: neither reserve nor share of use may be broken."""
    by_share = device.total_bytes * settings.max_vram_usage_percent // 100 - device.used_bytes
    return max(0, min(by_share, device.free_bytes - settings.vram_reserve_mib * 1024 * 1024))


def compare(planned_bytes: int, measured_bytes: int) -> str:
    """The estimate's error after the load, in words."""
    error = 100 * (planned_bytes - measured_bytes) / max(measured_bytes, 1)
    return f"The plan was {_mib(planned_bytes)} MiB, llama.cpp took {_mib(measured_bytes)} MiB: {error:+.0f} %."


def available_bytes(root: Path = Path("/")) -> int:
    """Give what this process can still allocate: the machine's MemAvailable, capped by the cgroup's (v2) limit."""
    available = 1 << 62
    for line in (root / "proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    cgroup = root / "sys/fs/cgroup"
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        current = int((cgroup / "memory.current").read_text())
        # Page cache counts as current, but the kernel gives it back: a mapped model file is such cache.
        for line in (cgroup / "memory.stat").read_text().splitlines():
            if line.startswith(("inactive_file ", "active_file ")):
                current -= int(line.split()[1])
    except (OSError, ValueError):
        return available
    return available if limit == "max" else min(available, max(0, int(limit) - current))


def embedding_tokens(header: ModelHeader, settings: EngineSettings) -> int:
    """Longest input of the embedding context: it has to fit into one batch, and into what the model was trained for."""
    return min(settings.context_tokens, header.context_length or settings.context_tokens)


def _refuse(plan: MemoryPlan, settings: EngineSettings, found: str, room: int, remedy: str) -> None:
    tokens = f"{settings.parallelism} sequences of {settings.context_tokens} tokens"
    message = f"the model with {tokens} needs {plan.words()}; {found}"
    if plan.kv_bytes and plan.total_bytes - plan.kv_bytes < room:
        fits = settings.context_tokens * (room - plan.total_bytes + plan.kv_bytes) // plan.kv_bytes
        message += f": lower contextTokens (to {fits}), parallelism or the precision of kvCache; or {remedy}"
        raise EngineRefusal("ContextTooLarge", message)
    raise EngineRefusal("InsufficientMemory", f"{message}: {remedy}, or take a smaller quantization")


def _gpu_layers(header: ModelHeader, settings: EngineSettings) -> int:
    # The output layer counts as one.
    most = header.block_count + 1
    return most if settings.gpu_layers == "All" else min(int(settings.gpu_layers or 0), most)


def _gpu_weights(header: ModelHeader, on_gpu: int) -> int:
    """llama.cpp takes layers from the end; the token embeddings stay, and are copied where they are the output too."""
    if not on_gpu:
        return 0
    first = header.block_count + 1 - on_gpu
    total = 0
    for name, tensor in header.tensors.items():
        layer = name.split(".", 2)[1] if name.startswith("blk.") else ""
        if layer.isdecimal() and int(layer) < first:
            continue
        is_input = name.startswith(("token_embd", "position_embd", "per_layer_token_embd"))
        if not is_input or (name == "token_embd.weight" and "output.weight" not in header.tensors):
            total += tensor.size_bytes
    return total


def _kv_bytes(header: ModelHeader, settings: EngineSettings, layers: range) -> int:
    cells = -(-settings.context_tokens * settings.parallelism // _CELLS_MULTIPLE) * _CELLS_MULTIPLE
    heads = sum(header.kv_heads[layer] for layer in layers if layer < len(header.kv_heads))
    blocks = heads * cells / 32
    key, value = _KV_BLOCK_BYTES[settings.kv_type_k], _KV_BLOCK_BYTES[settings.kv_type_v]
    return int(blocks * (header.key_length * key + header.value_length * value))


def _compute_bytes(header: ModelHeader, settings: EngineSettings, batch: int) -> int:
    """The largest of what is alive at once: logits, attention, feed-forward; for one batch, in F32."""
    cells = settings.context_tokens * settings.parallelism
    width = header.embedding_length
    logits = batch * (header.vocabulary + 2 * width) * _FLOAT_BYTES
    feed_forward = batch * (2 * header.feed_forward_length + 3 * width) * _FLOAT_BYTES
    if settings.flash_attention == "Disabled":
        attention = batch * (cells * (header.heads + 1) + 6 * width) * _FLOAT_BYTES
    else:
        attention = batch * (cells * _MASK_BYTES + 6 * width * _FLOAT_BYTES)
    return max(logits, feed_forward, attention)


def _embedding_bytes(header: ModelHeader, settings: EngineSettings) -> int:
    batch = embedding_tokens(header, settings)
    rows = 2 * header.feed_forward_length + 6 * header.embedding_length + batch * (header.heads + 1)
    # A model with a head for tokens computes them for every row of the batch, and keeps the batch's KV in F16.
    logits = header.vocabulary if header.causal else 0
    kv = sum(header.kv_heads) * (header.key_length + header.value_length) * 2 if header.causal else 0
    return batch * (max(rows, logits) * _FLOAT_BYTES + kv)


def _mib(size_bytes: int) -> int:
    return -(-size_bytes // (1024 * 1024))
