"""Who may touch what in the cache: locks of other processes, eviction, a file that an engine has open."""

import asyncio
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from weights_server import gguf_of

from headrace_crds.reasons import Reason
from headrace_runner.engine.settings import EngineSettings
from headrace_runner.engine.verification import verify
from headrace_runner.weights.cache import Cache
from headrace_runner.weights.failures import WeightsFailure

A, B, C, D = (digit * 64 for digit in "abcd")
SIZE = 10_000
HOLD = """
import fcntl, sys
file = open(sys.argv[1], sys.argv[2])
fcntl.flock(file, fcntl.LOCK_SH if sys.argv[2] == "rb" else fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def put(cache: Cache, sha256: str, *, age: int, size: int = SIZE) -> None:
    folder = cache.folder(sha256)
    folder.mkdir()
    cache.file(sha256).write_bytes(bytes(size))
    cache.touch(sha256)
    stamp = folder / "used"
    now = stamp.stat().st_mtime
    os.utime(stamp, (now - age, now - age))


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    cache = Cache(tmp_path, limit_bytes=3 * SIZE)
    for age, sha256 in enumerate((C, B, A)):
        put(cache, sha256, age=age * 100)
    return cache


def held_by_another(path: Path, mode: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), mode], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def let_go(process: "subprocess.Popen[str]") -> None:
    process.communicate("", timeout=20)


@pytest.fixture
def engine(cache: Cache) -> Iterator["subprocess.Popen[str]"]:
    process = held_by_another(cache.file(A), "rb")
    yield process
    let_go(process)


def test_those_used_longest_ago_go_first_and_no_more_than_need_be(cache: Cache) -> None:
    assert [entry.sha256 for entry in cache.entries()] == [A, B, C]
    assert cache.make_room(D, 1) == [A]
    assert [entry.sha256 for entry in cache.entries()] == [B, C]
    assert cache.make_room(D, 1) == []
    assert cache.make_room(D, 3 * SIZE) == [B, C]


def test_nothing_goes_for_what_can_never_fit(cache: Cache) -> None:
    with pytest.raises(WeightsFailure) as full:
        cache.make_room(D, 3 * SIZE + 1)
    assert full.value.reason == Reason.DISK_FULL
    assert [entry.sha256 for entry in cache.entries()] == [A, B, C]


def test_what_is_asked_for_again_is_not_the_oldest(cache: Cache) -> None:
    assert cache.present(A) == SIZE
    assert cache.make_room(D, 1) == [B]


def test_what_an_engine_has_open_stays(cache: Cache, engine: "subprocess.Popen[str]") -> None:
    assert cache.make_room(D, 2 * SIZE) == [B, C]
    with pytest.raises(WeightsFailure, match=f"limit of {3 * SIZE} bytes has {2 * SIZE} bytes free and needs") as full:
        cache.make_room(D, 2 * SIZE + 1)
    assert full.value.reason == Reason.DISK_FULL
    let_go(engine)
    assert cache.make_room(D, 2 * SIZE + 1) == [A]


def test_the_engine_itself_keeps_its_file(tmp_path: Path) -> None:
    """As the engine opens it, from a volume that it cannot write."""
    cache = Cache(tmp_path, limit_bytes=1)
    content = gguf_of(100)
    cache.folder(A).mkdir()
    cache.file(A).write_bytes(content)
    cache.file(A).chmod(0o440)
    settings = EngineSettings.from_environment({"HEADRACE_MODEL_PATH": str(cache.file(A))})
    opened = []
    try:
        with pytest.raises(Exception, match="cannot be loaded"):
            # It is no model, and stays open as one that is.
            opened.append(verify(settings, lambda _: None))
        with pytest.raises(WeightsFailure, match="needs"):
            cache.make_room(D, 1)
    finally:
        for number in os.listdir("/proc/self/fd"):
            if os.path.exists(f"/proc/self/fd/{number}") and os.readlink(f"/proc/self/fd/{number}") == str(
                cache.file(A)
            ):
                os.close(int(number))
    assert cache.file(A).exists()


def test_what_somebody_downloads_stays(cache: Cache) -> None:
    (cache.root / ".locks").mkdir()
    process = held_by_another(cache.root / ".locks" / A, "wb")
    assert cache.make_room(D, 1) == [B]
    let_go(process)


async def test_a_digest_is_one_processs_at_a_time(cache: Cache) -> None:
    (cache.root / ".locks").mkdir()
    process = held_by_another(cache.root / ".locks" / D, "wb")
    waited = asyncio.Event()
    order: list[str] = []

    async def ours() -> None:
        async with cache.held(D, waited.set):
            order.append("ours")

    task = asyncio.create_task(ours())
    await waited.wait()
    order.append("theirs")
    let_go(process)
    await task
    assert order == ["theirs", "ours"]


def test_a_process_that_dies_lets_go(cache: Cache) -> None:
    (cache.root / ".locks").mkdir()
    process = held_by_another(cache.root / ".locks" / A, "wb")
    process.kill()
    process.communicate()
    with (cache.root / ".locks" / A).open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_without_a_limit_nothing_goes(cache: Cache) -> None:
    assert Cache(cache.root).make_room(D, SIZE) == []


def test_more_than_the_filesystem_has_is_told_with_numbers(tmp_path: Path) -> None:
    with pytest.raises(WeightsFailure, match=rf"has \d+ bytes free and needs {1 << 60} bytes: enlarge it") as full:
        Cache(tmp_path).make_room(D, 1 << 60)
    assert full.value.reason == Reason.DISK_FULL


def test_a_cache_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / ".locks").write_text("a file where a folder belongs")
    with pytest.raises(WeightsFailure) as failure:
        Cache(tmp_path, 2).make_room(D, 2)
    assert failure.value.reason in (Reason.DOWNLOAD_FAILED, Reason.CACHE_NOT_WRITABLE)
