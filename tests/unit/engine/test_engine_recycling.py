"""When an engine is replaced between tasks because its memory has grown."""

import os
from pathlib import Path

import pytest

from headrace_runner.engine.recycling import Growth, anonymous_bytes, limit_bytes, recycle
from headrace_runner.engine.settings import EngineSettings

MIB = 1024 * 1024


def test_memory_of_a_mapped_file_does_not_count(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tx\nVmRSS:\t  900 kB\nRssAnon:\t  300 kB\nRssFile:\t  600 kB\n")
    assert anonymous_bytes(status) == 300 * 1024
    status.write_text("Name:\tx\n")
    with pytest.raises(ValueError, match="no RssAnon"):
        anonymous_bytes(status)


def test_this_process_grows_by_what_it_writes_to() -> None:
    before = anonymous_bytes()
    block = bytearray(os.urandom(32 * MIB))
    assert anonymous_bytes() - before >= 31 * MIB
    del block


@pytest.mark.parametrize(
    ("setting", "container", "limit"),
    [
        (None, "1073741824", 1073741824 * 90 // 100),
        (None, "max", None),
        (None, "what", None),
        (512, "1073741824", 512 * MIB),
        (0, "1073741824", None),
    ],
)
def test_the_limit_is_the_setting_or_the_containers(
    tmp_path: Path, setting: int | None, container: str, limit: int | None
) -> None:
    file = tmp_path / "memory.max"
    file.write_text(container)
    assert limit_bytes(setting, file) == limit
    assert limit_bytes(None, tmp_path / "none") is None


@pytest.mark.parametrize(("raw", "setting"), [("", None), ("0", 0), ("2048", 2048)])
def test_the_setting_is_read_from_the_environment(raw: str, setting: int | None) -> None:
    environment = {"HEADRACE_MODEL_PATH": "m", "HEADRACE_ENGINE_RECYCLE_MIB": raw}
    assert EngineSettings.from_environment(environment).recycle_mib == setting


def test_who_begins_above_the_limit_has_to_grow_by_a_sixteenth_of_it() -> None:
    small, large = Growth(1600, begun_bytes=200), Growth(1600, begun_bytes=1590)
    assert [small.is_too_much(each) for each in (200, 1600, 1601)] == [False, False, True]
    assert [large.is_too_much(each) for each in (1590, 1690, 1691)] == [False, False, True]


async def test_it_leaves_when_idle_and_drains_only_after_a_while() -> None:
    said: list[str] = []
    sizes = iter((100, 100, 900, 1100))

    async def sleep(seconds: float) -> None:
        said.append(f"slept {seconds:.0f}")

    await recycle(1000, lambda: next(sizes), lambda: said.append("leave"), lambda: said.append("drain"), sleep)
    assert said == ["slept 1", "slept 1", "leave", "slept 60", "drain"]
