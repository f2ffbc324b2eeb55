"""The stub engine as the runner sees it: the real client against the real supervisor with the stub's child."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from headrace_runner.engine.client import EngineClient, EngineLost, EngineRefused, EngineState, Stage, read_state
from headrace_runner.engine.protocol import Generate
from tests.stub_engine.script import Script

ROOT = Path(__file__).parents[3]


@dataclass
class Stub:
    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def socket(self) -> Path:
        return self.folder / "e.sock"

    async def client(self) -> EngineClient:
        async with asyncio.timeout(20):
            while read_state(self.folder / "e.json").state is not Stage.SERVING:
                assert self.process.poll() is None
                await asyncio.sleep(0.02)
        return await EngineClient.connect(self.socket)

    def wait_for_another_child(self, before: int) -> None:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        deadline = time.monotonic() + 20
        while children.read_text().split() in ([], [str(before)]) or not self.socket.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def journal(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "log").read_text().splitlines()]


@pytest.fixture
def environment() -> dict[str, str]:
    return {}


@pytest.fixture
def stub(environment: dict[str, str]) -> Iterator[Stub]:
    # Not tmp_path: the path of a Unix socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="hr-stub-") as name:
        folder = Path(name)
        environment = {
            **os.environ,
            **environment,
            "PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}:{ROOT}:{ROOT / 'runner'}",
            "HEADRACE_ENGINE_SOCKET": str(folder / "e.sock"),
            "HEADRACE_ENGINE_STATE": str(folder / "e.json"),
            "HEADRACE_MODEL_PATH": "stub",
            "STUB_ENGINE_LOG": str(folder / "log"),
            "STUB_ENGINE_POD": "pod-0",
        }
        process = subprocess.Popen([sys.executable, "-P", "-m", "tests.stub_engine.supervisor"], env=environment)
        yield Stub(folder, process)
        process.terminate()
        process.wait(10)


def a_request(**script: Any) -> Generate:
    return Generate(id="u-1/3", prompt=Script(**script).line() + "\nand more")


async def test_a_result_says_whose_it_is_and_the_journal_knows_it(stub: Stub) -> None:
    async with await stub.client() as client:
        result = await client.generate(a_request(ms=20, pad_bytes=5, name="t"))
    told = json.loads(result.text.removesuffix("xxxxx"))
    begun, ended = stub.journal()
    assert told == {"uid": "u-1", "attempt": 3, "execution": begun["execution"], "name": "t"}
    assert (begun["event"], ended["event"], begun["pod"]) == ("start", "end", "pod-0")
    assert ended["at"] - begun["at"] >= 0.02


async def test_what_is_not_brought_to_an_end_has_none_in_the_journal(stub: Stub) -> None:
    async with await stub.client() as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await client.generate(a_request(ms=60_000))
        with pytest.raises(EngineRefused) as refused:
            await client.generate(a_request(ending="fail"))
        assert refused.value.retryable
        with pytest.raises(EngineLost):
            await client.generate(a_request(ending="crash"))
    assert [line["event"] for line in stub.journal()] == ["start", "abort", "start", "fail", "start"]


async def test_an_engine_that_leaves_is_replaced_at_once_and_nothing_is_lost(stub: Stub) -> None:
    async with await stub.client() as client:
        beside = asyncio.create_task(client.generate(replace(a_request(ms=1500), id="beside")))
        await asyncio.sleep(0)  # its request is the first to be written
        assert (await client.generate(a_request(ending="leave"))).text
        with pytest.raises(EngineRefused) as refused:
            await client.generate(a_request())
        # It ends what it has begun, and says goodbye then.
        assert refused.value.left
        assert not client.closed.is_set()
        assert (await beside).text
        await client.closed.wait()
        assert client.goodbye == "as a task asked"
        with pytest.raises(EngineRefused) as gone:
            await client.generate(a_request())
        assert gone.value.left
    await asyncio.to_thread(stub.wait_for_another_child, stub.journal()[0]["pid"])
    async with await stub.client() as client:
        assert (await client.generate(a_request())).text
    assert read_state(stub.folder / "e.json").restarts == 0


@pytest.mark.parametrize("environment", [{"STUB_ENGINE_FAULT": "kernels"}])
async def test_an_engine_whose_kernels_do_not_fit_the_cpu_serves_without_them_and_says_what_that_costs(
    stub: Stub,
) -> None:
    async with await stub.client() as client:
        (note,) = client.info.notes
        assert "the engine died by SIGILL while Loading (stub)" in note
        assert "half the tokens per second or less" in note
        assert read_state(stub.folder / "e.json").restarts == 1
        # One that has served goes on as it is.
        with pytest.raises(EngineLost):
            await client.generate(a_request(ending="crash"))
    await asyncio.to_thread(stub.wait_for_another_child, stub.journal()[0]["pid"])
    async with await stub.client() as client:
        assert client.info.notes == (note,)


@pytest.mark.parametrize("environment", [{"STUB_ENGINE_FAULT": "always"}])
async def test_where_the_kernels_were_not_it_the_engine_fails_with_back_off(stub: Stub) -> None:
    def failed() -> EngineState:
        deadline = time.monotonic() + 20
        while (state := read_state(stub.folder / "e.json")).state is not Stage.FAILED:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        return state

    state = await asyncio.to_thread(failed)
    assert (state.reason, state.restarts) == ("EngineCrashed", 2)
