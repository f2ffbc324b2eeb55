"""Settings: what the environment says, and which variable is wrong where it makes no sense."""

from pathlib import Path

import pytest

from headrace_runner.engine.settings import EngineSettings, available_cpus

MINIMAL = {"HEADRACE_MODEL_PATH": "/models/m.gguf"}


def test_defaults() -> None:
    settings = EngineSettings.from_environment(MINIMAL)
    assert settings.model_path == Path("/models/m.gguf")
    assert settings.socket_path == Path("/run/headrace/engine.sock")
    assert settings.sandbox == "Required"
    assert settings.gpu_layers is None
    assert settings.threads == available_cpus() >= 1


def test_all_values() -> None:
    settings = EngineSettings.from_environment(
        {
            **MINIMAL,
            "HEADRACE_MODEL_SHA256": "AB" * 32,
            "HEADRACE_CONTEXT_TOKENS": "8192",
            "HEADRACE_PARALLELISM": "16",
            "HEADRACE_GPU_LAYERS": "All",
            "HEADRACE_THREADS": "3",
            "HEADRACE_ENGINE_STALL_SECONDS": "7",
            "HEADRACE_ENGINE_SANDBOX": "BestEffort",
        }
    )
    assert settings.model_sha256 == "ab" * 32
    assert (settings.context_tokens, settings.parallelism, settings.threads) == (8192, 16, 3)
    assert settings.stall_seconds == 7
    assert (settings.gpu_layers, settings.sandbox) == ("All", "BestEffort")
    assert EngineSettings.from_environment({**MINIMAL, "HEADRACE_GPU_LAYERS": "20"}).gpu_layers == 20
    assert EngineSettings.from_environment({**MINIMAL, "HEADRACE_GPU_LAYERS": "0"}).gpu_layers is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HEADRACE_MODEL_PATH", ""),
        ("HEADRACE_MODEL_SHA256", "abc"),
        ("HEADRACE_CONTEXT_TOKENS", "many"),
        ("HEADRACE_CONTEXT_TOKENS", "0"),
        ("HEADRACE_PARALLELISM", "257"),
        ("HEADRACE_GPU_LAYERS", "all"),
        ("HEADRACE_GPU_LAYERS", "10000"),
        ("HEADRACE_MODEL_PARTS", "[1]"),
        ("HEADRACE_MODEL_PARTS", '[{"path": "a", "sha256": "12"}]'),
        ("HEADRACE_ADAPTERS", '{"path": "a"}'),
        ("HEADRACE_ADAPTERS", '[{"path": "a", "scale": "nan"}]'),
        ("HEADRACE_KV_TYPE_K", "Q2_K"),
        ("HEADRACE_FLASH_ATTENTION", "auto"),
        ("HEADRACE_MEMORY_MAP", "yes"),
        ("HEADRACE_TENSOR_SPLIT", "0,0"),
        ("HEADRACE_TENSOR_SPLIT", "1,-1"),
        ("HEADRACE_POOLING", "Sum"),
        ("VRAM_RESERVE_MB", "-1"),
        ("MAX_VRAM_USAGE_PERCENT", "0"),
        ("HEADRACE_THREADS", "-1"),
        ("HEADRACE_ENGINE_STALL_SECONDS", "4"),
        ("HEADRACE_ENGINE_SANDBOX", "Off"),
        ("HEADRACE_ENGINE_SOCKET", "/run/" + "x" * 103),
    ],
)
def test_a_wrong_value_names_its_variable(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=name):
        EngineSettings.from_environment({**MINIMAL, name: value})
