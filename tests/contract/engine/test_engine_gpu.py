"""NVML: the driver's library under its own symbol names, with GPUs that a stub of it makes up."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace_runner.engine.client import Stage
from headrace_runner.engine.gpu import GpuDevice

A, B = "GPU-aaaaaaaa-1111-2222-3333-444444444444", "GPU-bbbbbbbb-1111-2222-3333-444444444444"
TWO = f"Stub A:{A}:8192:1024,Stub B:{B}:16384:512"
CUT = f"Stub A:{A}:8192:1024:mig"
MIG_0, MIG_2 = f"MIG-{A[4:]}-0", f"MIG-{A[4:]}-2"


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a libnvidia-ml.so.1."""
    folder = tmp_path_factory.mktemp("driver")
    source = Path(__file__).with_name("nvml_stub.c")
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-O1", "-w", str(source), "-o", str(folder / "libnvidia-ml.so.1")], check=True
    )
    return folder


def look(driver: Path, **environment: str) -> tuple[list[GpuDevice], str]:
    """What a process with this driver sees; else the refusal's words."""
    script = """
import dataclasses, json, os, sys
from headrace_runner.engine.failures import EngineRefusal
from headrace_runner.engine.gpu import read_devices
try:
    print(json.dumps([dataclasses.asdict(each) for each in read_devices(os.environ)]))
except EngineRefusal as refusal:
    print(json.dumps(str(refusal)))
"""
    clean = {name: value for name, value in os.environ.items() if not name.endswith("VISIBLE_DEVICES")}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**clean, "LD_LIBRARY_PATH": str(driver), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    told = json.loads(done.stdout)
    return ([], told) if isinstance(told, str) else ([GpuDevice.from_json(each) for each in told], "")


def test_what_a_device_tells(driver: Path) -> None:
    (first, second), _ = look(driver, STUB_GPUS=TWO)
    assert first == GpuDevice(A, "Stub A", 8192 << 20, 7168 << 20, 1024 << 20, 37, 54, 71000)
    assert (second.uuid, second.free_bytes) == (B, 15872 << 20)


@pytest.mark.parametrize(
    ("gpus", "environment", "seen"),
    [
        (TWO, {}, [A, B]),
        (TWO, {"NVIDIA_VISIBLE_DEVICES": "all"}, [A, B]),
        # The runtime's order is not NVML's.
        (TWO, {"NVIDIA_VISIBLE_DEVICES": f"{B},{A}"}, [B, A]),
        (TWO, {"NVIDIA_VISIBLE_DEVICES": B}, [B]),
        # The host's index of the one device that is here.
        (f"Stub B:{B}:16384:512", {"NVIDIA_VISIBLE_DEVICES": "5"}, [B]),
        (TWO, {"NVIDIA_VISIBLE_DEVICES": "all", "CUDA_VISIBLE_DEVICES": B}, [B]),
        (TWO, {"CUDA_VISIBLE_DEVICES": "1"}, [B]),
        (CUT, {}, [MIG_0, MIG_2]),
        (CUT, {"NVIDIA_VISIBLE_DEVICES": MIG_2}, [MIG_2]),
    ],
)
def test_which_devices_are_ours(driver: Path, gpus: str, environment: dict[str, str], seen: list[str]) -> None:
    devices, _ = look(driver, STUB_GPUS=gpus, **environment)
    assert [device.uuid for device in devices] == seen


def test_an_instance_has_its_own_memory_and_tells_little_else(driver: Path) -> None:
    (first, _), _ = look(driver, STUB_GPUS=CUT)
    assert (first.total_bytes, first.used_bytes) == (4096 << 20, 256 << 20)
    assert (first.utilization_percent, first.temperature_celsius, first.power_milliwatts) == (None, None, None)


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"STUB_GPUS": ""}, "none is visible"),
        ({"STUB_GPUS": TWO, "NVIDIA_VISIBLE_DEVICES": "void"}, "none is visible"),
        ({"STUB_GPUS": TWO, "NVIDIA_VISIBLE_DEVICES": "GPU-cccccccc"}, "NVML says"),
        ({"STUB_GPUS": TWO, "STUB_INIT": "9"}, "Driver Not Loaded"),
        ({"STUB_GPUS": TWO, "LD_LIBRARY_PATH": ""}, "NVML Shared Library Not Found"),
    ],
)
def test_a_gpu_that_cannot_be_used_is_unavailable(driver: Path, environment: dict[str, str], words: str) -> None:
    devices, told = look(driver, **environment)
    assert (devices, told.partition(":")[0]) == ([], "GPUUnavailable")
    assert words in told


def test_a_model_that_the_gpu_has_no_room_for_is_refused_before_it_is_loaded(
    driver: Path, model_path: Path, start_engine: Callable
) -> None:
    engine = start_engine(
        model_path,
        HEADRACE_GPU_LAYERS="All",
        LD_LIBRARY_PATH=str(driver),
        STUB_GPUS=f"Stub A:{A}:1280:100",
        NVIDIA_VISIBLE_DEVICES=A,
    )
    state = engine.wait(lambda state: state.state in (Stage.FAILED, Stage.SERVING))
    assert (state.state, state.reason) == (Stage.FAILED, "InsufficientMemory")
    assert "156 MiB may be used: Stub A has 1180 of 1280 MiB free; VRAM_RESERVE_MB 1024" in state.message
    assert "lower gpu.layers" in state.message


def test_fewer_gpus_than_asked_for_are_unavailable(driver: Path, model_path: Path, start_engine: Callable) -> None:
    engine = start_engine(
        model_path, HEADRACE_GPU_LAYERS="All", HEADRACE_GPU_COUNT="3", LD_LIBRARY_PATH=str(driver), STUB_GPUS=TWO
    )
    state = engine.wait(lambda state: state.state in (Stage.FAILED, Stage.SERVING))
    assert (state.state, state.reason) == (Stage.FAILED, "GPUUnavailable")
    assert "3 GPUs were asked for, NVML shows 2" in state.message


def test_a_gpu_with_room_that_llama_cpp_cannot_use_is_no_cpu_run(
    driver: Path, model_path: Path, start_engine: Callable
) -> None:
    engine = start_engine(
        model_path, HEADRACE_GPU_LAYERS="All", LD_LIBRARY_PATH=str(driver), STUB_GPUS=TWO, NVIDIA_VISIBLE_DEVICES="all"
    )
    state = engine.wait(lambda state: state.state in (Stage.FAILED, Stage.SERVING))
    assert (state.state, state.reason) == (Stage.FAILED, "GPUUnavailable")
    assert "no usable GPU is visible to llama.cpp" in state.message
