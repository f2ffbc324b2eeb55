"""Which local file `headrace run` takes for weights that a cluster would fetch or mount."""

from pathlib import Path
from typing import Any

import pytest

from headrace_cli.weights import Weights, WeightsError
from headrace_crds.model import LLMModel

SHA256 = "ab" * 32
HTTP = {"http": {"url": "https://models.example.com/m.gguf"}, "sha256": SHA256}


def model(source: dict[str, Any]) -> LLMModel:
    return LLMModel.model_validate({"metadata": {"name": "m"}, "spec": {"local": {"source": source}}})


def test_a_file_stands_for_what_would_be_fetched(tmp_path: Path) -> None:
    file = tmp_path / "local.gguf"
    file.touch()
    assert list(Weights(file, None).find(model(HTTP)).values()) == [file]


def test_a_folder_is_laid_out_as_the_volume_is(tmp_path: Path) -> None:
    (tmp_path / SHA256).mkdir()
    (tmp_path / SHA256 / "model.gguf").touch()
    (tmp_path / "m.gguf").touch()
    weights = Weights(None, tmp_path)
    assert list(weights.find(model(HTTP)).values()) == [tmp_path / SHA256 / "model.gguf"]
    assert list(weights.find(model({"hostPath": {"path": "/srv/m.gguf"}})).values()) == [tmp_path / "m.gguf"]


def test_without_either_it_says_what_to_do() -> None:
    with pytest.raises(WeightsError, match="--weights FILE"):
        Weights(None, None).find(model(HTTP))
