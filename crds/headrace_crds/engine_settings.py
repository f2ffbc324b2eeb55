"""What the engine is told about a model: the same settings in a pod and under ``headrace run``."""

import json
from collections.abc import Callable

from headrace_crds.model import Adapter, Capability, KvCache, LLMModelSpec, Local
from headrace_crds.source import WeightsPart

DEFAULT_CAPABILITIES = (Capability.CHAT, Capability.COMPLETION)


def engine_environment(spec: LLMModelSpec, local: Local, place: Callable[[str], str]) -> dict[str, str]:
    """The engine's variables for this model; ``place`` gives the file behind a path inside the volume."""
    parts = local.source.parts
    environment = {
        "HEADRACE_MODEL_PATH": place(parts[0].path) if parts else "",
        "HEADRACE_CONTEXT_TOKENS": str(local.context_tokens),
        "HEADRACE_PARALLELISM": str(local.parallelism),
    }
    if parts and local.source.sha256 is not None:
        environment["HEADRACE_MODEL_SHA256"] = local.source.sha256
    # Only what differs from the engine's defaults: another variable would start every pod anew.
    if len(parts) > 1:
        environment["HEADRACE_MODEL_PARTS"] = _files(parts, place)
    if local.adapters:
        environment["HEADRACE_ADAPTERS"] = _files(local.adapters, place)
    cache = local.kv_cache or KvCache()
    optional = {
        "HEADRACE_KV_TYPE_K": (cache.key_type.value, "F16"),
        "HEADRACE_KV_TYPE_V": (cache.value_type.value, "F16"),
        "HEADRACE_KV_UNIFIED": ("true" if cache.unified else "false", "false"),
        "HEADRACE_FLASH_ATTENTION": (local.flash_attention.value, "Auto"),
        "HEADRACE_MEMORY_MAP": ("true" if local.memory_map else "false", "true"),
        "HEADRACE_POOLING": (local.pooling.value if local.pooling else "", ""),
        "HEADRACE_CAPABILITIES": (",".join(spec.capabilities), ",".join(DEFAULT_CAPABILITIES)),
    }
    if local.gpu is not None:
        environment["HEADRACE_GPU_LAYERS"] = local.gpu.layers
        optional["HEADRACE_GPU_COUNT"] = (str(local.gpu.count), "1")
        optional["HEADRACE_TENSOR_SPLIT"] = (",".join(map(str, local.gpu.tensor_split or ())), "")
    return {**environment, **{name: value for name, (value, default) in optional.items() if value != default}}


def _files(files: list[WeightsPart] | list[Adapter], place: Callable[[str], str]) -> str:
    return json.dumps([{**file.dump(), "path": place(file.path)} for file in files])
