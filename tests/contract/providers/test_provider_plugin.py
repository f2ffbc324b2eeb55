"""The example plugin as a third party ships it: built as a wheel, unpacked onto a path, found by its entry point."""

import asyncio
import importlib.metadata
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from aiohttp import web

from headrace_crds.reasons import Reason
from headrace_crds.remote import Remote
from headrace_runner.engine.embedding_request import Embed
from headrace_runner.engine.protocol import Delta, Generate, Message, Parameters, Usage
from headrace_runner.providers.protocol import (
    ENTRY_POINT_GROUP,
    Fault,
    Provider,
    ProviderError,
    ProviderFactory,
    Setting,
)

pytestmark = pytest.mark.contract

SOURCE = Path(__file__).parents[3] / "config/samples/provider-plugin"
KEY = "echo-key"
NAME = "headrace_provider_echo"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left beside the sources; hatchling itself fetches nothing."""
    copy = tmp_path_factory.mktemp("plugin") / "source"
    shutil.copytree(SOURCE, copy)
    environment = {"PATH": os.defpath, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(copy / "dist")]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = (copy / "dist").glob("*.whl")
    return built


@pytest.fixture
def factory(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProviderFactory:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    (found,) = (each for each in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP) if each.name == "Echo")
    made = found.load()
    assert Path(sys.modules[NAME].__file__ or "").parent == tmp_path
    monkeypatch.delitem(sys.modules, NAME)
    return made


class EchoApi:
    """The API that the plugin is for; it refuses what it does not know."""

    def __init__(self) -> None:
        self.status = 200
        self.answer: Any = None
        self.asked: list[dict[str, Any]] = []
        self.seen = asyncio.Event()
        self.hangs = False

    async def complete(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            return web.json_response({}, status=401)
        body = await request.json()
        self.asked.append(body)
        self.seen.set()
        if self.hangs:
            await asyncio.Event().wait()
        if set(body) != {"model", "prompt", "limit"} or self.status != 200:
            return web.json_response({}, status=400 if self.status == 200 else self.status)
        text = body["prompt"][: body["limit"]]
        told = {"text": text, "cut": len(text) < len(body["prompt"]), "tokens": {"in": 1, "out": len(text)}}
        return web.json_response(told if self.answer is None else self.answer)

    async def health(self, request: web.Request) -> web.StreamResponse:
        return web.Response(status=self.status)


@asynccontextmanager
async def running(factory: ProviderFactory, api: EchoApi, key: str = KEY) -> AsyncIterator[Provider]:
    app = web.Application()
    app.router.add_post("/complete", api.complete)
    app.router.add_route("HEAD", "/", api.health)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        base_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        remote = Remote.model_validate({"provider": "Echo", "model": "echo-1", "baseURL": base_url})
        async with httpx2.AsyncClient(trust_env=False) as client:
            provider = factory(Setting(remote, client, lambda: key))
            await provider.start()
            yield provider
            await provider.aclose()
    finally:
        await runner.cleanup()


@pytest.fixture
def api() -> EchoApi:
    return EchoApi()


REQUEST = Generate("g", messages=(Message("user", "hello"),), parameters=Parameters(max_tokens=4))


async def test_it_answers(factory: ProviderFactory, api: EchoApi) -> None:
    deltas: list[Delta] = []
    async with running(factory, api) as provider:
        await provider.check_health()
        result = await provider.generate(REQUEST, deltas.append)
    assert (result.id, result.text, result.finish_reason, result.usage) == ("g", "hell", "Length", Usage(1, 0, 4))
    assert deltas == [Delta("g", "hell", 4)]
    assert api.asked == [{"model": "echo-1", "prompt": "hello", "limit": 4}]


@pytest.mark.parametrize(
    ("status", "fault", "reason"),
    [
        (400, Fault.TERMINAL, Reason.INVALID_PARAMETERS),
        (404, Fault.UNAVAILABLE, Reason.REMOTE_MODEL_NOT_FOUND),
        (429, Fault.RATE_LIMITED, Reason.RATE_LIMITED),
        (500, Fault.TRANSIENT, Reason.PROVIDER_FAILED),
        (503, Fault.OVERLOADED, Reason.PROVIDER_OVERLOADED),
    ],
)
async def test_it_says_how_it_failed(
    factory: ProviderFactory, api: EchoApi, status: int, fault: Fault, reason: Reason
) -> None:
    api.status = status
    async with running(factory, api) as provider:
        with pytest.raises(ProviderError) as failed:
            await provider.generate(REQUEST, lambda _: None)
        assert (failed.value.fault, failed.value.reason, failed.value.status) == (fault, reason, status)
        if status >= 500:
            with pytest.raises(ProviderError):
                await provider.check_health()


async def test_a_refused_key_is_not_in_the_error(factory: ProviderFactory, api: EchoApi) -> None:
    async with running(factory, api, key="wrong-key") as provider:
        with pytest.raises(ProviderError) as failed:
            await provider.generate(REQUEST, lambda _: None)
    assert failed.value.reason is Reason.CREDENTIALS_REFUSED
    assert "wrong-key" not in str(failed.value)


@pytest.mark.parametrize("answer", [[], {"text": 5, "cut": False, "tokens": {"in": 1, "out": 1}}, {"text": "x"}])
async def test_an_answer_of_another_shape_is_invalid(factory: ProviderFactory, api: EchoApi, answer: Any) -> None:
    api.answer = answer
    async with running(factory, api) as provider:
        with pytest.raises(ProviderError) as failed:
            await provider.generate(REQUEST, lambda _: None)
    assert (failed.value.fault, failed.value.reason) == (Fault.TRANSIENT, Reason.PROVIDER_ANSWER_INVALID)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (Generate("g", prompt="p", parameters=Parameters(seed=1)), Reason.INVALID_PARAMETERS),
        (Generate("g", prompt="p", json_schema="{}"), Reason.MODEL_NOT_CAPABLE),
        (Generate("g", messages=(Message("user", "a"), Message("user", "b"))), Reason.MODEL_NOT_CAPABLE),
        (Embed("g", ("x",)), Reason.MODEL_NOT_CAPABLE),
    ],
)
async def test_what_the_api_has_no_place_for_is_refused(
    factory: ProviderFactory, api: EchoApi, request_: Generate | Embed, reason: Reason
) -> None:
    async with running(factory, api) as provider:
        embeds = isinstance(request_, Embed)
        call = provider.embed(request_) if embeds else provider.generate(request_, lambda _: None)
        with pytest.raises(ProviderError) as failed:
            await call
    assert (failed.value.fault, failed.value.reason) == (Fault.TERMINAL, reason)
    assert api.asked == []


async def test_cancelling_ends_the_call(factory: ProviderFactory, api: EchoApi) -> None:
    api.hangs = True
    async with running(factory, api) as provider:
        call = asyncio.create_task(provider.generate(REQUEST, lambda _: None))
        await asyncio.wait_for(api.seen.wait(), 10)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
