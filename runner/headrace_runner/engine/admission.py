"""Whether this machine can serve the model that was verified: asked after the file is known and before it is loaded."""

from collections.abc import Mapping

from headrace_runner.engine.failures import EngineRefusal
from headrace_runner.engine.gpu import read_devices
from headrace_runner.engine.memory import available_bytes, check_gpus, check_ram, plan_gpu, plan_ram
from headrace_runner.engine.settings import EngineSettings
from headrace_runner.engine.verification import VerifiedModel


def admit(model: VerifiedModel, settings: EngineSettings, environment: Mapping[str, str]) -> None:
    """Raises EngineRefusal: GPUUnavailable, ContextTooLarge, InsufficientMemory, InvalidSettings."""
    if settings.generates and not model.header.causal:
        message = f"{model.header.architecture} is an encoder and generates no text: set capabilities: [Embedding]"
        raise EngineRefusal("InvalidSettings", message)
    if settings.flash_attention == "Disabled" and settings.kv_type_v not in ("F32", "F16", "BF16"):
        message = f"kvCache.valueType {settings.kv_type_v} needs flash attention: llama.cpp reads it by no other way"
        raise EngineRefusal("InvalidSettings", message)
    gpu = plan_gpu(model.header, settings)
    if gpu is not None:
        devices = read_devices(environment)
        if len(devices) < settings.gpu_count:
            message = f"{settings.gpu_count} GPUs were asked for, NVML shows {len(devices)} to the engine's container"
            raise EngineRefusal("GPUUnavailable", message)
        check_gpus(gpu, settings, devices)
    check_ram(plan_ram(model.header, _adapters_bytes(model), settings), settings, available_bytes())


def planned_bytes(model: VerifiedModel, settings: EngineSettings) -> int:
    """What the plan expects on GPUs and in RAM together."""
    gpu = plan_gpu(model.header, settings)
    ram = plan_ram(model.header, _adapters_bytes(model), settings)
    return ram.total_bytes + (0 if gpu is None else gpu.total_bytes)


def _adapters_bytes(model: VerifiedModel) -> int:
    return sum(adapter.header.size_bytes for adapter in model.adapters)
