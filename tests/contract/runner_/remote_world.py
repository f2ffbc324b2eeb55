"""A chat API on loopback, and a provider for it that is installed beside the runner."""

import asyncio
import json
import os
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

KEY = "sk-one"
RETRY_AFTER_SECONDS = 2


class ChatApi:
    """What it does is in the last message: ``hang`` says two words and no more, ``busy`` is refused once."""

    def __init__(self) -> None:
        self.base = ""
        self.keys: list[str] = []
        self.valid = {KEY}
        self.asked_at: dict[str, list[float]] = {}
        self.spoke, self.left = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["ChatApi"]:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_get("/v1/models", self._models)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.base = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
            yield self
        finally:
            await runner.cleanup()

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": []}, status=200 if self._key(request) in self.valid else 401)

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body: dict[str, Any] = await request.json()
        self.keys.append(self._key(request))
        said: str = body["messages"][-1]["content"]
        before = self.asked_at.setdefault(said, [])
        before.append(time.monotonic())
        if self.keys[-1] not in self.valid:
            return web.json_response({"error": {"message": "no"}}, status=401)
        if said == "busy" and len(before) == 1:
            return web.Response(status=429, headers={"Retry-After": str(RETRY_AFTER_SECONDS)})
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        for word in ("so ", "far") if said == "hang" else ("Hel", "lo."):
            await self._send(answer, choices=[{"delta": {"content": word}}])
        if said == "hang":
            self.spoke.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.left.set()
        await self._send(answer, choices=[], usage={"prompt_tokens": 11, "completion_tokens": 2})
        await answer.write(b"data: [DONE]\n\n")
        return answer

    async def _send(self, answer: web.StreamResponse, **chunk: Any) -> None:
        await answer.write(f"data: {json.dumps(chunk)}\n\n".encode())

    def _key(self, request: web.Request) -> str:
        return request.headers.get("Authorization", "").removeprefix("Bearer ")


def install_provider(folder: Path) -> str:
    """Lay a distribution with the provider ``Loopback`` into the folder; gives a PYTHONPATH that has it."""
    info = folder / "loopback_provider-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: loopback-provider\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[headrace.providers]\nLoopback = loopback_provider:create\n")
    shutil.copy(Path(__file__).with_name("their_provider") / "loopback_provider.py", folder)
    return os.pathsep.join([str(folder), os.environ["PYTHONPATH"]])


def remote_settings(folder: Path, api: ChatApi, **spec: Any) -> dict[str, str]:
    """What the operator gives the pod of a remote model; the key's file is ``key`` in the folder."""
    folder.mkdir(exist_ok=True)
    (folder / "key").write_text(f"{KEY}\n")
    credentials = {"secretKeyRef": {"name": "provider", "key": "key"}}
    remote = {"provider": "Loopback", "model": "m", "baseURL": api.base, "credentials": credentials, **spec}
    host = api.base.removeprefix("http://").removesuffix("/v1")
    return {
        "PYTHONPATH": install_provider(folder / "site"),
        "HEADRACE_REMOTE": json.dumps(remote),
        "HEADRACE_CAPABILITIES": "Chat",
        "HEADRACE_ALLOWED_HOSTS": host,
        "HEADRACE_EXEMPT_HOSTS": host,
        "HEADRACE_CREDENTIAL_FILE": str(folder / "key"),
    }
