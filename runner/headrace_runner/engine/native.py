"""What the settings mean to llama.cpp: parameters of a model and of its contexts, adapters, and its log's figures."""

import ctypes
import re
import sys
from collections.abc import Sequence
from typing import Any, Final

import llama_cpp.llama_cpp as llama

from headrace_runner.engine.failures import EngineRefusal
from headrace_runner.engine.settings import EngineSettings
from headrace_runner.engine.verification import VerifiedAdapter

_FLASH_ATTENTION: Final = {"Auto": -1, "Disabled": 0, "Enabled": 1}
# ggml's numbers.
_KV_TYPES: Final = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "BF16": 30}
_LOAD_MODE_NONE, _LOAD_MODE_MMAP = 0, 1
_SPLIT_MODE_LAYER: Final = 1
_OFFLOADED: Final = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")
_BUFFER: Final = re.compile(r"(\S+) +(?:model|KV|RS|compute|output|LoRA) buffer size = +([\d.]+) MiB")
_ERROR_LEVEL: Final = 3
_CALLBACKS: Final[list[Any]] = []


class NativeLog:
    """Receives llama.cpp's log: errors are kept for messages; offloaded layers and buffers are only told there.

    ``buffer_bytes`` is the sum of all buffers by the backend that has them, ``CPU_Mapped`` among them.
    """

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.offloaded_layers = 0
        self.buffer_bytes: dict[str, int] = {}
        callback = llama.llama_log_callback(self._receive)
        # ctypes keeps no reference to a callback that C holds, and C calls the last one also when its model is gone.
        _CALLBACKS.append(callback)
        llama.llama_log_set(callback, ctypes.c_void_p(0))

    def last_error(self) -> str:
        """Give llama.cpp's last words on a failure."""
        return "; ".join(self.errors[-3:])[:1000] or "llama.cpp gave no reason"

    def _receive(self, level: int, text: bytes, _user_data: object) -> None:
        line = text.decode("utf-8", "replace").strip()
        if found := _OFFLOADED.search(line):
            self.offloaded_layers = int(found[1])
        if found := _BUFFER.search(line):
            self.buffer_bytes[found[1]] = self.buffer_bytes.get(found[1], 0) + int(float(found[2]) * 1024 * 1024)
        if level >= _ERROR_LEVEL and level != 5 and line:  # 5 continues a line of any level
            del self.errors[:-20]
            self.errors.append(line[:500])
            sys.stderr.write(f"llama.cpp: {line}\n")


def set_model_parameters(parameters: Any, settings: EngineSettings) -> object:
    """Fill in how the weights are loaded; keep what is returned until they are."""
    parameters.load_mode = _LOAD_MODE_MMAP if settings.memory_map else _LOAD_MODE_NONE
    parameters.use_extra_bufts = not settings.plain_kernels_because
    wanted = settings.gpu_layers
    # 0 and not the default: a GPU that was not asked for belongs to somebody else.
    parameters.n_gpu_layers = 0 if wanted is None else -1 if wanted == "All" else int(wanted)
    if not settings.tensor_split:
        return None
    # As long as llama.cpp's table of devices: it reads that many.
    shares = (ctypes.c_float * max(llama.llama_max_devices(), 16))(*map(float, settings.tensor_split))
    parameters.split_mode = _SPLIT_MODE_LAYER
    parameters.tensor_split = shares
    return shares


def set_context_parameters(parameters: Any, settings: EngineSettings) -> None:
    """Fill in how the KV cache is stored and read."""
    parameters.type_k = _KV_TYPES[settings.kv_type_k]
    parameters.type_v = _KV_TYPES[settings.kv_type_v]
    parameters.flash_attn_type = _FLASH_ATTENTION[settings.flash_attention]
    parameters.n_threads = settings.threads
    parameters.n_threads_batch = settings.threads


def load_weights(paths: Sequence[str], parameters: Any) -> Any:
    """Load one file, or all parts of a split GGUF in order; None where llama.cpp cannot."""
    if len(paths) == 1:
        return llama.llama_model_load_from_file(paths[0].encode(), parameters)
    parts = (ctypes.c_char_p * len(paths))(*(path.encode() for path in paths))
    return llama.llama_model_load_from_splits(parts, len(paths), parameters)


class Adapters:
    """The LoRAs on a model. They are read once, and applied to each context as a whole, never to one sequence."""

    def __init__(self, model: Any, adapters: Sequence[VerifiedAdapter], log: NativeLog) -> None:
        """Read them. Raises EngineRefusal: ModelLoadFailed."""
        self._scales = [adapter.scale for adapter in adapters]
        self._handles = []
        for adapter in adapters:
            handle = llama.llama_adapter_lora_init(model, adapter.file.load_path.encode())
            if not handle:
                message = f"llama.cpp cannot load the adapter {adapter.file.name!r}: {log.last_error()}"
                raise EngineRefusal("ModelLoadFailed", message)
            self._handles.append(handle)

    def apply(self, context: Any) -> None:
        """Have a context use them. Raises EngineRefusal: ModelLoadFailed."""
        count = len(self._handles)
        if not count:
            return
        handles = (llama.llama_adapter_lora_p_ctypes * count)(*self._handles)
        scales = (ctypes.c_float * count)(*self._scales)
        if (code := llama.llama_set_adapters_lora(context, handles, count, scales)) != 0:
            raise EngineRefusal("ModelLoadFailed", f"llama.cpp cannot apply the adapters: {code}")
