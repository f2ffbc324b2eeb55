"""What a runner tells of a GPU is taken for what it is, or not at all."""

from typing import Any

import pytest

from headrace_facade.native.monitor import gpu_view

GPU = {"name": "A GPU", "totalBytes": 100, "usedBytes": 40, "utilizationPercent": 7}


def test_a_gpu() -> None:
    told = gpu_view("m", "pod-1", GPU)
    assert told is not None
    assert (told.total_bytes, told.used_bytes, told.utilization_percent, told.power_milliwatts) == (100, 40, 7, None)


@pytest.mark.parametrize(
    "members",
    [
        {"name": 3},
        {"totalBytes": "100"},
        {"totalBytes": True},
        {"usedBytes": -1},
        {"usedBytes": None},
        {"usedBytes": 1e3},
    ],
)
def test_what_is_no_gpu_is_left_off(members: dict[str, Any]) -> None:
    assert gpu_view("m", "pod-1", {**GPU, **members}) is None


def test_what_cannot_be_is_not_told_and_words_are_cut() -> None:
    told = gpu_view("m", "p" * 1000, {**GPU, "name": "x\x1b[2J" * 100, "utilizationPercent": 1 << 60})
    assert told is not None
    assert told.utilization_percent is None
    assert (len(told.pod), len(told.name)) == (128, 128)
    assert "\x1b" not in told.name
