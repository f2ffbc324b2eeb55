"""An engine that leaves is not one that died: nobody is suspected or charged, and the next engine is asked."""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from headrace_crds.reasons import Reason
from headrace_runner.attempt import Attempt
from headrace_runner.engine.client import EngineClient, EngineLost, EngineRefused
from headrace_runner.engine.frames import encode_frame, read_frame
from headrace_runner.engine.protocol import Failure, Generate, GenerationResult, Hello, Timings, Usage
from headrace_runner.engine.state import EngineModel
from headrace_runner.engine_link import EngineLink
from headrace_runner.quarantine import Quarantine
from headrace_runner.verdict import GivenBack, Setback, of_error

GOODBYE = Failure("", "EngineStopping", "it has grown", retryable=True)


@pytest.fixture
async def socket() -> AsyncIterator[Path]:
    """An engine that answers the first request of a connection as the request's id says, and nothing more."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(encode_frame(Hello(EngineModel("stub", 1, 1, "none", 1, 1)).to_json()))
        body = await read_frame(reader)
        if body is not None and body["id"].endswith("goodbye"):
            writer.write(encode_frame(GOODBYE.to_json()))
        writer.close()

    with tempfile.TemporaryDirectory(prefix="hr-bye-") as folder:
        path = Path(folder) / "s"
        async with await asyncio.start_unix_server(serve, path=str(path)):
            yield path


async def test_the_client_tells_a_goodbye_from_a_death(socket: Path) -> None:
    async with await EngineClient.connect(socket) as client:
        with pytest.raises(EngineRefused) as left:
            await client.generate(Generate("goodbye", prompt="x"))
        await client.closed.wait()
        assert (left.value.left, client.goodbye) == (True, "it has grown")
        with pytest.raises(EngineRefused):
            await client.generate(Generate("late", prompt="x"))
    async with await EngineClient.connect(socket) as client:
        with pytest.raises(EngineLost):
            await client.generate(Generate("death", prompt="x"))
        assert client.goodbye is None


def test_a_goodbye_that_reaches_the_attempt_is_given_back() -> None:
    assert of_error(EngineRefused("EngineStopping", "", retryable=True)) == GivenBack(Reason.ENGINE_STOPPING)
    assert isinstance(of_error(EngineRefused("EngineOverloaded", "", retryable=True)), Setback)


class Engine:
    """One that answers, or begins nothing as it leaves; its connection ends when it is told to."""

    def __init__(self, *, leaving: bool) -> None:
        self.closed = asyncio.Event()
        self.asked: list[str] = []
        self._leaving = leaving

    async def generate(self, request: Generate, *, on_progress: object = None) -> GenerationResult:
        self.asked.append(request.id)
        if self._leaving:
            raise EngineRefused("EngineStopping", "it has grown", retryable=True)
        return GenerationResult(request.id, request.id, "Stop", Usage(1, 0, 1), Timings(0, 1, 1))


class Link:
    def __init__(self, client: Engine) -> None:
        self.client: Any = client
        self.serving = asyncio.Event()
        self.serving.set()


async def test_what_a_leaving_engine_did_not_begin_is_asked_of_the_next(attempt: Attempt) -> None:
    leaving, following = Engine(leaving=True), Engine(leaving=False)
    link = Link(leaving)
    quarantine = Quarantine(cast("EngineLink", link))
    fresh = replace(attempt, monotonic=time.monotonic, claimed_at=time.monotonic())
    asking = [asyncio.create_task(quarantine.trial(fresh).generate(Generate(name, prompt="x"))) for name in "abc"]
    for _ in range(20):
        await asyncio.sleep(0)
    # Not asked again and again while it ends what it had begun; nobody is suspected.
    assert leaving.asked == ["a", "b", "c"]
    assert quarantine.open.is_set()
    link.client = following
    leaving.closed.set()
    assert [result.text for result in await asyncio.gather(*asking)] == ["a", "b", "c"]
    assert quarantine.died(cast("EngineClient", leaving)) == []
    assert quarantine.open.is_set()
