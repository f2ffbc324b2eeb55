"""Loads a vocabulary alone with llama.cpp."""

from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama

from headrace_runner.engine.gguf import InvalidModelFile
from headrace_runner.engine.native import NativeLog

_LOG = NativeLog()


def load_vocabulary(path: Path) -> Any:
    """Give llama.cpp's pointer; it lives as long as the process. Raises InvalidModelFile."""
    llama.llama_backend_init()
    parameters = llama.llama_model_default_params()
    parameters.vocab_only = True
    parameters.n_gpu_layers = 0
    model = llama.llama_model_load_from_file(str(path).encode(), parameters)
    if not model:
        raise InvalidModelFile(f"llama.cpp cannot load the vocabulary: {_LOG.last_error()}")
    return llama.llama_model_get_vocab(model)
