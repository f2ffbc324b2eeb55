"""The state file: one writer, readers that never see half of it."""

import json
from pathlib import Path

import pytest

from headrace_runner.engine.state import EngineModel, EngineState, Stage, read_state, write_state

MODEL = EngineModel("llama", 1024, 4, "Q4_1", 135, 98, "ab" * 32, 0, ("a note",))


def test_a_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    state = EngineState(sandboxed=True).enter(Stage.SERVING, restarts=2, engine=MODEL)
    write_state(tmp_path / "engine.json", state)
    assert read_state(tmp_path / "engine.json") == state
    assert [path.name for path in tmp_path.iterdir()] == ["engine.json"]


def test_a_file_that_is_not_there_yet_reads_as_starting(tmp_path: Path) -> None:
    assert read_state(tmp_path / "engine.json") == EngineState()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"state": "Dancing"}', json.dumps({"state": "Serving"})])
def test_anything_else_is_a_value_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "engine.json").write_text(content)
    with pytest.raises(ValueError):
        read_state(tmp_path / "engine.json")


def test_the_time_of_entering_moves_with_the_state_alone() -> None:
    loading = EngineState().enter(Stage.LOADING, percent=5)
    assert loading.since_ms > 0
    assert EngineState(Stage.LOADING, since_ms=7).enter(Stage.LOADING, percent=9).since_ms == 7
    assert EngineState(Stage.LOADING, since_ms=7).enter(Stage.SERVING).since_ms > 7
    assert loading.enter(Stage.SERVING).percent is None
