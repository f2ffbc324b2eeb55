"""`headrace-weights` as its Job runs it: killed, stopped, on a full disk; what it says at its end."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from weights_server import FileServer, gguf_of, serving_apart

from headrace_crds.weights import WeightsEnd, read_end

CHUNK = 65_536
SIZE = 2_000_000
COMMAND = (sys.executable, "-P", "-m", "headrace_runner.weights.main")


def until(condition: Callable[[], Any], within_seconds: float = 30) -> Any:
    deadline = time.monotonic() + within_seconds
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return value


@dataclass
class Job:
    """One cache, and downloads into it."""

    server: FileServer
    folder: Path

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def file(self) -> Path:
        return self.cache / self.server.sha256 / "model.gguf"

    def environment(self, source: dict[str, Any] | None = None, **more: str) -> dict[str, str]:
        named = source or {"http": {"url": self.server.url()}}
        return {
            **os.environ,
            "HEADRACE_WEIGHTS_SOURCE": json.dumps({"sha256": self.server.sha256, **named}),
            "HEADRACE_WEIGHTS_CACHE": str(self.cache),
            "HEADRACE_WEIGHTS_CHUNK_BYTES": str(CHUNK),
            "HEADRACE_EXEMPT_HOSTS": f"127.0.0.1:{self.server.port}",
            "HEADRACE_MODEL": "team-a/m",
            "HEADRACE_NODE": "node-a",
            "HEADRACE_TERMINATION_LOG": str(self.folder / "termination-log"),
            **more,
        }

    def start(self, *before: str, **more: Any) -> "subprocess.Popen[bytes]":
        return subprocess.Popen([*before, *COMMAND], env=self.environment(**more), stdout=subprocess.PIPE)

    def run(self, *before: str, **more: Any) -> tuple[int, WeightsEnd, str]:
        process = self.start(*before, **more)
        out, _ = process.communicate(timeout=60)
        end = read_end((self.folder / "termination-log").read_text())
        assert end is not None
        return process.returncode, end, out.decode()

    def kept_bytes(self) -> int:
        journal = self.file.with_name("model.gguf.part.json")
        if not journal.exists():
            return 0
        return sum(end - start for start, end in json.loads(journal.read_text())["spans"])


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    (tmp_path / "cache").mkdir()
    with serving_apart(FileServer(gguf_of(SIZE))) as server:
        yield Job(server, tmp_path)


def test_it_says_that_it_is_there(job: Job) -> None:
    code, end, log = job.run()
    assert code == 0
    assert end == WeightsEnd(reason="WeightsVerified", size_bytes=len(job.server.content), node="node-a")
    assert job.file.read_bytes() == job.server.content
    assert json.loads(log.splitlines()[-1])["event"] == "weights verified"


@pytest.mark.parametrize("times", [1, 3])
def test_killed_in_the_middle_it_goes_on_where_it_was(job: Job, times: int) -> None:
    job.server.bytes_per_second = 150_000
    for _ in range(times):
        before = job.kept_bytes()
        process = job.start()
        until(lambda before=before: job.kept_bytes() > before + CHUNK)
        process.kill()
        process.communicate()
        until(lambda: job.server.connections == 0)
        assert not job.file.exists()
    job.server.bytes_per_second = None
    kept, asked = job.kept_bytes(), len(job.server.asked)
    assert kept > times * CHUNK
    code, _, _ = job.run()
    assert code == 0
    assert job.file.read_bytes() == job.server.content
    assert job.server.asked_bytes(asked) == len(job.server.content) - kept


def test_stopped_it_keeps_what_came_and_asks_to_be_run_again(job: Job) -> None:
    job.server.bytes_per_second = 150_000
    process = job.start()
    until(lambda: job.server.sent_bytes > 6 * CHUNK)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 75
    assert job.kept_bytes() > 0


def test_two_processes_download_once(job: Job) -> None:
    job.server.bytes_per_second = 400_000
    both = [job.start(), job.start()]
    assert [process.wait(60) for process in both] == [0, 0]
    for process in both:
        process.communicate()
    assert job.server.sent_bytes == len(job.server.content)


@pytest.mark.parametrize("space", ["300k", "1500k"], ids=["sparse", "later"])
def test_a_full_disk_is_a_reason_with_numbers_and_no_loop(job: Job, space: str) -> None:
    """A filesystem of its own, as small as that."""
    mount = f'mount -t tmpfs -o size={space} none {job.cache} && exec "$@"'
    code, end, _ = job.run("unshare", "--mount", "--map-root-user", "--user", "sh", "-c", mount, "sh")
    assert code == 65
    assert end.reason == "DiskFull"
    assert f"needs {len(job.server.content)} bytes" in end.message
    assert job.server.sent_bytes <= 2 * CHUNK


def test_a_disk_that_becomes_full_meanwhile_is_the_same_reason(job: Job) -> None:
    """Somebody else takes the room that was there at the beginning."""
    job.server.bytes_per_second = 150_000
    other = f"dd if=/dev/zero of={job.cache}/other bs=1k status=none 2>/dev/null"
    command = f'mount -t tmpfs -o size=2500k none {job.cache}; (sleep 1.5; {other}) & exec "$@"'
    code, end, _ = job.run("unshare", "--mount", "--map-root-user", "--user", "sh", "-c", command, "sh")
    assert (code, end.reason) == (65, "DiskFull")
    assert "0 bytes free" in end.message


def test_a_wrong_digest_is_final(job: Job) -> None:
    source = {"http": {"url": job.server.url()}, "sha256": "0" * 64}
    code, end, log = job.run(source=source)
    assert (code, end.reason) == (65, "WrongDigest")
    assert job.server.sha256 in end.message
    assert job.server.url() not in log


def test_a_server_that_is_away_is_tried_again_by_another_pod(job: Job) -> None:
    job.server.statuses = [503] * 2
    environment = {"source": {"http": {"url": job.server.url("/m.gguf?signature=s3cret")}}}
    code, end, log = job.run(**environment, HEADRACE_WEIGHTS_TRIES="2")
    assert (code, end.reason) == (75, "SourceUnreachable")
    assert "s3cret" not in log + end.message


def test_a_secret_without_the_key_is_named(job: Job, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    credentials = {"secretKeyRef": {"name": "hub", "key": "token"}}
    source = {"http": {"url": job.server.url(), "credentials": credentials}}
    code, end, _ = job.run(source=source, HEADRACE_WEIGHTS_SECRET_DIR=str(tmp_path / "secret"))
    assert (code, end.reason) == (65, "CredentialsNotFound")
    assert "'token'" in end.message


def test_s3_through_a_store_that_checks_who_asks(job: Job, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    for name, value in {"AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": "s3cret"}.items():
        (secret / name).write_text(f"{value}\n")
    endpoint = f"http://127.0.0.1:{job.server.port}"
    s3 = {"bucket": "models", "key": "a b.gguf", "endpoint": endpoint, "credentials": {"secretName": "x"}}
    code, _, log = job.run(source={"s3": s3}, HEADRACE_WEIGHTS_SECRET_DIR=str(secret))
    assert code == 0
    assert {each.path for each in job.server.asked} == {"/models/a%20b.gguf"}
    signed = [each.headers["authorization"] for each in job.server.asked]
    assert all(each.startswith("AWS4-HMAC-SHA256 Credential=AKID/") for each in signed)
    assert all("host;" in each and "range;" in each for each in signed)
    assert "s3cret" not in log


def test_hugging_face_through_a_mirror(job: Job) -> None:
    job.server.redirects = {"/a/b/resolve/main/m.gguf": "/store/m.gguf?X-Signed=1"}
    source = {"huggingFace": {"repo": "a/b", "file": "m.gguf"}}
    mirror = f"http://127.0.0.1:{job.server.port}"
    code, _, _ = job.run(source=source, HEADRACE_WEIGHTS_HUGGING_FACE=mirror)
    assert code == 0
    assert job.file.read_bytes() == job.server.content


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"HEADRACE_WEIGHTS_SOURCE": "{}"}, "HEADRACE_WEIGHTS_SOURCE"),
        ({"HEADRACE_MODEL": "m"}, "HEADRACE_MODEL"),
        ({"HEADRACE_WEIGHTS_PARALLEL": "0"}, "HEADRACE_WEIGHTS_PARALLEL"),
    ],
    ids=["source", "model", "parallel"],
)
def test_wrong_settings_are_named_and_final(job: Job, change: dict[str, str], says: str) -> None:
    process = job.start(**change)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 78
    assert says in out.decode()
