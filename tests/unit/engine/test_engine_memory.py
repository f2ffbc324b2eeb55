"""The memory plan: what a model will need against what machine, container and GPUs can really give."""

from dataclasses import replace
from pathlib import Path

import pytest

from headrace_runner.engine.failures import EngineRefusal
from headrace_runner.engine.gguf import Tensor
from headrace_runner.engine.gpu import GpuDevice
from headrace_runner.engine.header import ModelHeader
from headrace_runner.engine.memory import (
    available_bytes,
    check_gpus,
    check_ram,
    compare,
    plan_gpu,
    plan_ram,
    usable_bytes,
)
from headrace_runner.engine.settings import EngineSettings

MIB = 1 << 20
SMOLLM2 = ModelHeader(
    architecture="llama",
    quantization="Q4_1",
    block_count=30,
    embedding_length=576,
    feed_forward_length=1536,
    heads=9,
    kv_heads=(3,) * 30,
    key_length=64,
    value_length=64,
    vocabulary=49152,
    tensors={
        name: Tensor(name, (32,), 0, size * MIB)
        for name, size in {"token_embd.weight": 20, **{f"blk.{n}.attn_q.weight": 2 for n in range(30)}}.items()
    },
)


def served(**changes: object) -> EngineSettings:
    return replace(EngineSettings(Path("m.gguf"), context_tokens=1024), **changes)


def kv(settings: EngineSettings) -> float:
    return plan_ram(SMOLLM2, 0, settings).kv_bytes / MIB


def test_the_kv_cache_of_a_known_model() -> None:
    # What llama.cpp itself reports for SmolLM2-135M.
    assert kv(served()) == 22.5
    assert kv(served(context_tokens=2048, parallelism=4)) == 180
    assert round(kv(served(context_tokens=2048, parallelism=4, kv_type_k="Q8_0", kv_type_v="Q8_0")), 2) == 95.62


def test_what_is_computed_in() -> None:
    # Logits of a batch, or without flash attention its scores: reported as 98.25 and 166.38 MiB; and the output's rows.
    assert abs(plan_ram(SMOLLM2, 0, served()).compute_bytes / MIB - 98.25 - 3.19) < 0.1
    long = served(context_tokens=8192, flash_attention="Disabled")
    assert abs(plan_ram(SMOLLM2, 0, long).compute_bytes / MIB - 166.38 - 3.19) < 1


def test_layers_go_to_the_gpu_from_the_end_with_their_kv_cache() -> None:
    assert plan_gpu(SMOLLM2, served()) is None
    ten = plan_gpu(SMOLLM2, served(gpu_layers=10))
    # Nine layers and the output, which is the table of token embeddings here.
    assert ten is not None
    assert (ten.weights_bytes, ten.kv_bytes) == ((18 + 20) * MIB, 22.5 * MIB / 3)
    assert plan_ram(SMOLLM2, 0, served(gpu_layers=10)).weights_bytes == (60 - 18) * MIB
    every = plan_gpu(SMOLLM2, served(gpu_layers="All"))
    assert every is not None
    assert (every.weights_bytes, every.kv_bytes) == (80 * MIB, 22.5 * MIB)


def refusal(settings: EngineSettings, available: int) -> EngineRefusal:
    with pytest.raises(EngineRefusal) as info:
        check_ram(plan_ram(SMOLLM2, 0, settings), settings, available)
    return info.value


def test_a_context_that_does_not_fit_is_refused_with_one_that_would() -> None:
    settings = served(context_tokens=8192, parallelism=4)
    plan = plan_ram(SMOLLM2, 0, settings)
    check_ram(plan, settings, plan.total_bytes)
    found = refusal(settings, plan.total_bytes - 360 * MIB)
    assert found.reason == "ContextTooLarge"
    assert "4 sequences of 8192 tokens needs" in found.message
    assert "720 of KV cache" in found.message
    assert "lower contextTokens (to 4096), parallelism" in found.message
    fits = replace(settings, context_tokens=4096)
    check_ram(plan_ram(SMOLLM2, 0, fits), fits, plan.total_bytes - 360 * MIB)


def test_weights_that_do_not_fit_are_another_matter() -> None:
    found = refusal(served(), 50 * MIB)
    assert found.reason == "InsufficientMemory"
    assert "50 MiB of memory are available" in found.message


def gpu(total: int, used: int, name: str = "A") -> GpuDevice:
    return GpuDevice(f"GPU-{name}", name, total * MIB, (total - used) * MIB, used * MIB)


def test_neither_reserve_nor_share_of_use_may_be_broken() -> None:
    assert usable_bytes(gpu(10_000, 0), served()) == (10_000 - 1024) * MIB
    assert usable_bytes(gpu(100_000, 10_000), served()) == 85_000 * MIB
    assert usable_bytes(gpu(1000, 0), served()) == 0
    assert usable_bytes(gpu(1000, 0), served(vram_reserve_mib=0, max_vram_usage_percent=50)) == 500 * MIB


def test_gpus_share_a_model_as_they_are_told_to() -> None:
    settings = served(gpu_layers="All", gpu_count=2, vram_reserve_mib=0, max_vram_usage_percent=100)
    plan = plan_gpu(SMOLLM2, settings)
    assert plan is not None
    half = plan.total_bytes // MIB // 2 + 1
    check_gpus(plan, settings, [gpu(2 * half, half, "A"), gpu(half, 0, "B")])
    check_gpus(plan, replace(settings, tensor_split=(1, 1)), [gpu(half, 0), gpu(half, 0)])
    uneven = replace(settings, tensor_split=(3, 1))
    with pytest.raises(EngineRefusal, match=r"lower gpu\.layers") as info:
        check_gpus(plan, uneven, [gpu(half, 0, "A"), gpu(half, 0, "B")])
    assert f"A has {half} of {half} MiB free, B has" in info.value.message


def test_the_estimates_error_is_told() -> None:
    assert compare(110 * MIB, 100 * MIB) == "The plan was 110 MiB, llama.cpp took 100 MiB: +10 %."


def machine(root: Path, **cgroup: str) -> Path:
    (root / "proc").mkdir()
    (root / "proc/meminfo").write_text("MemTotal: 900 kB\nMemAvailable:  500 kB\n")
    (root / "sys/fs/cgroup").mkdir(parents=True)
    for name, content in cgroup.items():
        (root / "sys/fs/cgroup" / name.replace("_", ".", 1)).write_text(content)
    return root


@pytest.mark.parametrize(
    ("limit", "current", "stat", "expected"),
    [
        ("max", "1", "inactive_file 0", 500 * 1024),
        ("100000", "40000", "anon 7\nactive_file 0\ninactive_file 0", 60_000),
        ("100000", "40000", "active_file 10000\ninactive_file 20000", 90_000),
        ("100000", "200000", "anon 1", 0),
        ("999999999", "5", "anon 1", 500 * 1024),
        ("100000", "garbage", "anon 1", 500 * 1024),
    ],
)
def test_the_smaller_of_machine_and_cgroup(tmp_path: Path, limit: str, current: str, stat: str, expected: int) -> None:
    root = machine(tmp_path, memory_max=f"{limit}\n", memory_current=f"{current}\n", memory_stat=f"{stat}\n")
    assert available_bytes(root) == expected


def test_a_machine_without_cgroup_v2(tmp_path: Path) -> None:
    assert available_bytes(machine(tmp_path)) == 500 * 1024
