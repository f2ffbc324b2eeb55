"""How much memory the KV cache needs and how much there is, asked before llama.cpp asks the kernel.

Linux promises memory it does not have; without this check a context that is too large ends as an OOM kill, minutes
later and without a word.
"""

from pathlib import Path
from typing import Final

_KV_BYTES: Final = 2  # F16, llama.cpp's default for K and V


def kv_cache_bytes(*, layers: int, kv_heads: int, heads: int, embedding: int, tokens: int) -> int:
    """Give the size of keys and values for ``tokens`` in all sequences together, for plain attention."""
    return 2 * _KV_BYTES * layers * kv_heads * (embedding // max(heads, 1)) * tokens


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
