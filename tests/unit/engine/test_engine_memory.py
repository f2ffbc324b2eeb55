"""The memory plan: what a KV cache needs against what the kernel can really give."""

from pathlib import Path

import pytest

from headrace_runner.engine.memory import available_bytes, kv_cache_bytes


def test_the_kv_cache_of_a_known_model() -> None:
    # SmolLM2-135M: llama.cpp itself reports 22.50 MiB for 1,024 tokens.
    assert kv_cache_bytes(layers=30, kv_heads=3, heads=9, embedding=576, tokens=1024) == int(22.5 * 2**20)


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
