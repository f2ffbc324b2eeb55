"""The stub provider as the runner's own code meets it: what it answers in each mode, and what it writes down."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from headrace_crds.hosts import parse_hosts
from headrace_crds.remote import Remote
from headrace_runner.engine.protocol import Delta, Generate, GenerationResult, Message
from headrace_runner.providers import registry, transport
from headrace_runner.providers.protocol import Fault, ProviderError, Setting
from tests.chaos.journal import Journal
from tests.chaos.world import until
from tests.stub_engine.script import Journal as Sink
from tests.stub_engine.script import Script
from tests.stub_provider import telling
from tests.stub_provider.behaviour import Behaviour
from tests.stub_provider.server import application


@dataclass
class Stub:
    provider: Any
    behaviour_file: Path
    journal: Journal

    def behave(self, mode: str) -> None:
        Behaviour(mode, "good").write(self.behaviour_file)

    async def ask(self, ms: float = 10, on_delta: Any = lambda _: None) -> GenerationResult:
        prompt = Script(ms=ms, name="t").line()
        asked = Generate(id="a/uid-1/3", messages=(Message("user", prompt),))
        result: GenerationResult = await self.provider.generate(asked, on_delta)
        return result

    def written(self) -> list[tuple[str, int, str, str, str | None]]:
        self.journal.read()
        return [
            (each.uid, each.attempt, each.pod, each.model, each.ending) for each in self.journal.executions.values()
        ]


@asynccontextmanager
async def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str = "good") -> AsyncIterator[Stub]:
    telling.install(tmp_path / "plugins")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "plugins")])
    monkeypatch.setenv("HEADRACE_POD", "pod-1")
    file, log = tmp_path / "behaviour.json", tmp_path / "log"
    Behaviour(key="good").write(file)
    journal = Journal(log)
    sink = Sink({"STUB_ENGINE_LOG": str(log), "STUB_ENGINE_POD": "provider", "STUB_ENGINE_MODEL": "ns/m"})
    runner = web.AppRunner(application(file, sink), handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host = f"127.0.0.1:{runner.addresses[0][1]}"
    remote = Remote.model_validate({"provider": telling.NAME, "model": "m", "baseURL": f"http://{host}/v1"})
    http = transport.client(remote, parse_hosts(host), parse_hosts(host))
    try:
        yield Stub(registry.find(telling.NAME)(Setting(remote, http, lambda: key)), file, journal)
    finally:
        await http.aclose()
        await runner.cleanup()
        journal.close()


async def test_an_answer_says_whose_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with stub(tmp_path, monkeypatch) as it:
        await it.provider.check_health()
        result = await it.ask()
        assert '"uid": "uid-1", "attempt": 3' in result.text
        assert '"name": "t"' in result.text
        assert it.written() == [("uid-1", 3, "pod-1", "ns/m", "end")]


@pytest.mark.parametrize(
    ("mode", "status", "fault"),
    [
        ("limited", 429, Fault.RATE_LIMITED),
        ("overloaded", 529, Fault.OVERLOADED),
        ("unavailable", 503, Fault.OVERLOADED),
    ],
)
async def test_a_refusal_begins_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, status: int, fault: Fault
) -> None:
    async with stub(tmp_path, monkeypatch) as it:
        it.behave(mode)
        with pytest.raises(ProviderError) as refused:
            await it.ask()
        assert (refused.value.fault, refused.value.retry_after_seconds) == (fault, 1)
        assert it.written() == []
        assert it.journal.refused == {("provider", status): 1}


async def test_another_key_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with stub(tmp_path, monkeypatch, key="another") as it:
        with pytest.raises(ProviderError) as refused:
            await it.ask()
        assert refused.value.fault is Fault.UNAVAILABLE
        assert it.written() == []
        assert it.journal.refused == {("provider", 401): 1}


@pytest.mark.parametrize("mode", ["cut", "garbage"])
async def test_a_broken_stream_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    async with stub(tmp_path, monkeypatch) as it:
        it.behave(mode)
        with pytest.raises(ProviderError) as broken:
            await it.ask()
        assert broken.value.fault is Fault.TRANSIENT
        assert it.written() == [("uid-1", 3, "pod-1", "ns/m", "fail")]


@pytest.mark.parametrize(("mode", "ms"), [("stall", 0), ("answer", 60_000)])
async def test_who_hangs_up_ends_the_generation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, ms: float
) -> None:
    async with stub(tmp_path, monkeypatch) as it:
        it.behave(mode)
        begun = asyncio.Event()

        def first(_: Delta) -> None:
            begun.set()

        asking = asyncio.create_task(it.ask(ms, first))
        await asyncio.wait_for(begun.wait(), 5)
        asking.cancel()
        await asyncio.wait({asking})

        async def aborted() -> bool:
            return it.written() == [("uid-1", 3, "pod-1", "ns/m", "abort")]

        await until(aborted, "the end of the generation", 5)


def test_a_mode_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="mode is one of answer, cut"):
        Behaviour("sing")
