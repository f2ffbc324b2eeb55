"""The GPUs of this container, as NVML sees them: which are ours, how much memory is free, how they fare.

NVML lists devices that CUDA will not use, and CUDA counts in another order: devices are matched by UUID, a MIG instance
by its own handle. The library, ``libnvidia-ml.so.1``, is the driver's and is loaded only where a GPU is asked for.
"""

import contextlib
import importlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from headrace_runner.engine.failures import EngineRefusal
from headrace_runner.engine.untrusted import count, read_small_file, word

EVERY_SECONDS: Final = 2.0
MAX_DEVICES: Final = 16
_NONE_VISIBLE: Final = frozenset({"void", "none", "no-dev-files"})
_UUID: Final = re.compile(r"(GPU|MIG)-[0-9A-Za-z/-]{1,90}")


@dataclass(frozen=True, slots=True)
class GpuDevice:
    """One GPU, or one MIG instance, at one moment. Memory in bytes; None where the device does not tell."""

    uuid: str
    name: str
    total_bytes: int
    free_bytes: int
    used_bytes: int
    utilization_percent: int | None = None
    temperature_celsius: int | None = None
    power_milliwatts: int | None = None

    @classmethod
    def from_json(cls, value: object) -> "GpuDevice":
        """Take a decoded object. Raises ValueError where a field is missing or of another type."""
        if not isinstance(value, dict):
            raise ValueError("gpu: expected an object")

        def optional(key: str) -> int | None:
            return None if value.get(key) is None else count(value[key])

        return cls(
            uuid=word(value.get("uuid")),
            name=word(value.get("name")),
            total_bytes=count(value.get("total_bytes")),
            free_bytes=count(value.get("free_bytes")),
            used_bytes=count(value.get("used_bytes")),
            utilization_percent=optional("utilization_percent"),
            temperature_celsius=optional("temperature_celsius"),
            power_milliwatts=optional("power_milliwatts"),
        )


def read_devices(environment: Mapping[str, str]) -> tuple[GpuDevice, ...]:
    """Look at the container's GPUs. Raises EngineRefusal: GPUUnavailable, with what NVML says."""
    try:
        with _nvml() as nvml:
            devices = tuple(_describe(nvml, handle) for handle in _handles(nvml, environment))
    except ImportError as error:
        raise EngineRefusal("GPUUnavailable", f"a GPU was asked for, but {error.name} is not installed") from error
    except _NvmlFailed as error:
        raise EngineRefusal("GPUUnavailable", f"a GPU was asked for, but NVML says: {error}") from error
    if not devices:
        raise EngineRefusal("GPUUnavailable", "a GPU was asked for, but none is visible in the engine's container")
    return devices[:MAX_DEVICES]


class Telemetry:
    """Writes the devices to a file every two seconds, for the runner to publish. ``start`` returns at once."""

    def __init__(self, path: Path, environment: Mapping[str, str]) -> None:
        self._path = path
        self._environment = dict(environment)

    def start(self) -> None:
        """Begin; the thread ends with the process, and nobody waits for it."""
        threading.Thread(target=self._run, name="telemetry", daemon=True).start()

    def write(self) -> None:
        """Replace the file once: a reader sees the old or the new content. Raises EngineRefusal and OSError."""
        write_devices(self._path, read_devices(self._environment))

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            # What cannot be read now may be later; what is old, its reader drops by its age.
            with contextlib.suppress(EngineRefusal, OSError):
                self.write()
            pause.wait(EVERY_SECONDS)


def telemetry_path(state_path: Path) -> Path:
    """Where the file lies: beside the engine's state file, on the volume that both containers share."""
    return state_path.with_name("gpus.json")


def write_devices(path: Path, devices: tuple[GpuDevice, ...]) -> None:
    """Replace the file. Raises OSError."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(json.dumps([asdict(device) for device in devices]), encoding="utf-8")
    scratch.chmod(0o644)
    scratch.replace(path)


def read_telemetry(path: Path) -> tuple[GpuDevice, ...]:
    """What the engine wrote last; trusted no more than its state file. Raises OSError and ValueError."""
    try:
        value = json.loads(read_small_file(path))
    except RecursionError as error:
        raise ValueError("gpus: nested too deep") from error
    if not isinstance(value, list):
        raise ValueError("gpus: expected a list")
    return tuple(GpuDevice.from_json(each) for each in value[:MAX_DEVICES])


class _NvmlFailed(Exception):
    """NVML's own words."""


@contextlib.contextmanager
def _nvml() -> Iterator[Any]:
    # Late: most engines have no GPU, and nothing of it is typed.
    nvml: Any = importlib.import_module("pynvml")
    try:
        nvml.nvmlInit()
        try:
            yield nvml
        finally:
            with contextlib.suppress(nvml.NVMLError):
                nvml.nvmlShutdown()
    except nvml.NVMLError as error:
        raise _NvmlFailed(str(error)) from error


def _handles(nvml: Any, environment: Mapping[str, str]) -> list[Any]:
    """CUDA's own choice comes first, then the container runtime's; where both say nothing, all that NVML sees."""
    for variable in ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"):
        named = [part.strip() for part in environment.get(variable, "").split(",") if part.strip()]
        if not named or named == ["all"]:
            continue
        if named[0] in _NONE_VISIBLE:
            return []
        if all(_UUID.fullmatch(each) for each in named):
            return [nvml.nvmlDeviceGetHandleByUUID(each) for each in named]
        # An index of the runtime's is the host's; inside the container all that is left is ours.
        if variable == "CUDA_VISIBLE_DEVICES" and all(each.isdecimal() for each in named):
            visible = _visible(nvml)
            return [visible[int(each)] for each in named if int(each) < len(visible)]
    return _visible(nvml)


def _visible(nvml: Any) -> list[Any]:
    found: list[Any] = []
    for index in range(nvml.nvmlDeviceGetCount()):
        device = nvml.nvmlDeviceGetHandleByIndex(index)
        instances = _mig_instances(nvml, device)
        # The memory of a GPU that is cut into instances is theirs.
        found += [device] if instances is None else instances
    return found


def _mig_instances(nvml: Any, device: Any) -> list[Any] | None:
    mode = _told(nvml, lambda: nvml.nvmlDeviceGetMigMode(device))
    if mode is None or mode[0] != nvml.NVML_DEVICE_MIG_ENABLE:
        return None
    most = _told(nvml, lambda: nvml.nvmlDeviceGetMaxMigDeviceCount(device)) or 0
    instances = []
    for index in range(most):
        # Places without an instance are not found.
        with contextlib.suppress(nvml.NVMLError):
            instances.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(device, index))
    return instances


def _describe(nvml: Any, handle: Any) -> GpuDevice:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    # MIG instances tell their memory and little else.
    rates = _told(nvml, lambda: nvml.nvmlDeviceGetUtilizationRates(handle))
    return GpuDevice(
        uuid=nvml.nvmlDeviceGetUUID(handle)[:96],
        name=nvml.nvmlDeviceGetName(handle)[:64],
        total_bytes=int(memory.total),
        free_bytes=int(memory.free),
        used_bytes=int(memory.used),
        utilization_percent=None if rates is None else int(rates.gpu),
        temperature_celsius=_told(nvml, lambda: int(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))),
        power_milliwatts=_told(nvml, lambda: int(nvml.nvmlDeviceGetPowerUsage(handle))),
    )


def _told(nvml: Any, ask: Callable[[], Any]) -> Any:
    """The answer, or None where this device gives none."""
    try:
        return ask()
    except nvml.NVMLError:
        return None
