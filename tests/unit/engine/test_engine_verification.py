"""Verification: every way in which a model file can be wrong has its reason and says what to do."""

import hashlib
import os
from pathlib import Path

import pytest
from gguf_files import GgufFile

from headrace_runner.engine.failures import EngineRefusal
from headrace_runner.engine.settings import EngineSettings
from headrace_runner.engine.verification import verify


def meant(path: Path, models_dir: Path, sha256: str | None = None) -> EngineSettings:
    return EngineSettings(path, models_dir=models_dir, model_sha256=sha256)


def refused(path: Path, models_dir: Path, sha256: str | None = None) -> EngineRefusal:
    with pytest.raises(EngineRefusal) as info:
        verify(meant(path, models_dir, sha256), lambda percent: None)
    return info.value


def test_a_good_file_is_loaded_through_its_descriptor(tmp_path: Path) -> None:
    raw = GgufFile().build()
    (tmp_path / "m.gguf").write_bytes(raw)
    told: list[int] = []
    file = verify(meant(tmp_path / "m.gguf", tmp_path, hashlib.sha256(raw).hexdigest()), told.append)
    (tmp_path / "m.gguf").unlink()
    assert [Path(path).read_bytes() for path in file.load_paths] == [raw]
    assert (file.size_bytes, told) == (len(raw), [100])
    assert file.sha256 == hashlib.sha256(raw).hexdigest()


def test_no_checksum_is_computed_where_none_is_expected(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(GgufFile().build())
    told: list[int] = []
    assert verify(meant(tmp_path / "m.gguf", tmp_path), told.append).sha256 is None
    assert told == []


def test_a_missing_file_is_named_as_in_the_spec_and_the_others_are_listed(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in [f"m{n:02}.gguf" for n in range(10)] + ["sub/deep.gguf", "notes.txt"]:
        (tmp_path / name).touch()
    refusal = refused(tmp_path / "qwen.gguf", tmp_path)
    assert refusal.reason == "ModelFileNotFound"
    assert "'qwen.gguf' does not exist" in refusal.message
    assert "m00.gguf, " in refusal.message
    assert "m09.gguf and more" in refusal.message
    assert str(tmp_path) not in refusal.message


def test_an_empty_volume_says_so(tmp_path: Path) -> None:
    assert "there is no *.gguf file" in refused(tmp_path / "x" / "qwen.gguf", tmp_path).message


def test_a_folder_and_a_fifo_are_not_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.gguf")
    assert refused(tmp_path / "fifo.gguf", tmp_path).reason == "ModelFileNotFound"
    assert "is not a file" in refused(tmp_path, tmp_path.parent).message


def test_a_wrong_checksum_gives_both(tmp_path: Path) -> None:
    raw = GgufFile().build()
    (tmp_path / "m.gguf").write_bytes(raw)
    refusal = refused(tmp_path / "m.gguf", tmp_path, "0" * 64)
    assert refusal.reason == "ChecksumMismatch"
    assert hashlib.sha256(raw).hexdigest() in refusal.message
    assert "0" * 64 in refusal.message


@pytest.mark.parametrize("content", [b"", b"not a model", b"GGUF"])
def test_garbage_is_an_invalid_model_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.gguf").write_bytes(content)
    refusal = refused(tmp_path / "m.gguf", tmp_path)
    assert refusal.reason == "InvalidModelFile"
    assert "'m.gguf' cannot be loaded" in refusal.message
