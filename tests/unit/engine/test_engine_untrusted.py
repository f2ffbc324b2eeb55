"""What a hostile engine container can make a runner say: nothing long, nothing strange."""

import json
import os
from pathlib import Path

import pytest

from headrace_runner.engine.events import decode_event
from headrace_runner.engine.frames import ProtocolError
from headrace_runner.engine.protocol import Failure
from headrace_runner.engine.state import EngineState, Stage, read_state
from headrace_runner.engine.untrusted import MAX_COUNT, MAX_FILE_BYTES, sentence

ENGINE = {
    **{"architecture": "llama", "context_tokens": 1, "parallelism": 1, "quantization": "Q4_1", "parameters": 1},
    **{"size_bytes": 1, "gpu_layers": 0},
}
STATE = {"state": "Serving", "reason": "", "message": "", "restarts": 0, "since_ms": 0, "engine": ENGINE}


def read(folder: Path, **changes: object) -> EngineState:
    (folder / "engine.json").write_text(json.dumps({**STATE, **changes}))
    return read_state(folder / "engine.json")


@pytest.mark.parametrize(
    ("reason", "read_as"),
    [
        ("EngineCrashed", "EngineCrashed"),
        ("A" * 64, "A" * 64),
        ("A" * 65, "EngineStateUnreadable"),
        ("Engine\n", "EngineStateUnreadable"),
        ("1st", "EngineStateUnreadable"),
        ("Überlauf", "EngineStateUnreadable"),
        ("a b", "EngineStateUnreadable"),
        (7, "EngineStateUnreadable"),
        ("", ""),
    ],
)
def test_a_reason_is_a_word(tmp_path: Path, reason: object, read_as: str) -> None:
    assert read(tmp_path, reason=reason).reason == read_as


@pytest.mark.parametrize(
    ("message", "read_as"),
    [
        ("all well", "all well"),
        ("a\x1b[2J\r\nb", "a [2J b"),
        ("a\u202eb\u2028c\x9bd", "a b c d"),
        ("x" * 10_000, "x" * 512),
        ("\n" * 10_000, " "),
    ],
)
def test_a_message_is_one_short_line(tmp_path: Path, message: str, read_as: str) -> None:
    assert read(tmp_path, message=message).message == read_as
    event = decode_event({"type": "error", "id": "1", "reason": "DecodeFailed", "message": message, "retryable": True})
    assert isinstance(event, Failure)
    assert event.message == read_as


@pytest.mark.parametrize("number", [-1, 1.5, True, "1", MAX_COUNT + 1, 1 << 70, float("nan"), float("inf"), None])
@pytest.mark.parametrize("member", ["restarts", "since_ms"])
def test_a_number_is_finite_and_bounded(tmp_path: Path, member: str, number: object) -> None:
    with pytest.raises(ValueError, match="integer"):
        read(tmp_path, **{member: number})


@pytest.mark.parametrize(
    "engine",
    [
        {**ENGINE, "parameters": 1 << 63},
        {**ENGINE, "sha256": "x" * 64},
        {**ENGINE, "notes": {"a": 1}},
        {**ENGINE, "architecture": "\ud800"},
        [],
    ],
)
def test_an_engine_that_makes_no_sense_is_refused(tmp_path: Path, engine: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        read(tmp_path, engine=engine)
    with pytest.raises(ProtocolError):
        decode_event({"type": "hello", "engine": engine})


def test_names_are_short(tmp_path: Path) -> None:
    engine = read(tmp_path, engine={**ENGINE, "architecture": "l" * 9000, "notes": ["n" * 900] * 20}).engine
    assert engine is not None
    assert len(engine.architecture) == 64
    assert [len(note) for note in engine.notes] == [512] * 16


def test_a_link_a_pipe_and_a_folder_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "target").write_text(json.dumps(STATE))
    (tmp_path / "link").symlink_to(tmp_path / "target")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("link", "pipe", "folder"):
        with pytest.raises((OSError, ValueError)):
            read_state(tmp_path / name)


def test_a_file_is_small_and_flat(tmp_path: Path) -> None:
    path = tmp_path / "engine.json"
    path.write_text(json.dumps(STATE) + " " * MAX_FILE_BYTES)
    with pytest.raises(ValueError, match="65536 bytes"):
        read_state(path)
    path.write_text("[" * 60_000)
    with pytest.raises(ValueError, match="nested"):
        read_state(path)
    path.write_text(json.dumps(STATE))
    assert read_state(path).state is Stage.SERVING


def test_a_result_that_cannot_be_encoded_breaks_the_connection() -> None:
    numbers = {"prompt_tokens": 1, "cached_tokens": 0, "completion_tokens": 1}
    timings = {"queued_ms": 0, "first_token_ms": 0, "generation_ms": 0}
    done = {"type": "done", "id": "1", "text": "hi", "finish_reason": "Stop", "usage": numbers, "timings": timings}
    assert decode_event(done) is not None
    for broken in ({"text": "\ud800"}, {"usage": {**numbers, "prompt_tokens": 1 << 62}}, {"text": None}):
        with pytest.raises(ProtocolError):
            decode_event({**done, **broken})


def test_a_reason_of_an_event_is_a_word_too() -> None:
    event = decode_event({"type": "error", "id": "1", "reason": "x\ny", "message": "m", "retryable": False})
    assert isinstance(event, Failure)
    assert event.reason == "EngineStateUnreadable"


def test_a_sentence_needs_a_string() -> None:
    with pytest.raises(ValueError, match="string"):
        sentence(None)
