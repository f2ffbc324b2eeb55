"""A plain HTTP API on the loopback that refuses what it does not know, and whatever else a test wants it to do."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
from aiohttp import web

from headrace_crds.remote import Remote
from headrace_runner.engine.protocol import Delta, Generate, GenerationResult
from headrace_runner.providers.http_api import create
from headrace_runner.providers.protocol import Provider, Setting

KEY = "key-that-is-secret"
BODY = """{
  "prompt": "{{prompt}}", "stream": %s, "format": "{{output.jsonSchema}}",
  "options": {"max": "{{parameters.maxTokens}}", "seed": "{{parameters.seed}}"}
}"""
_KNOWN = {"prompt": str, "stream": bool, "format": dict, "options": dict}
_OPTIONS = {"max": int, "seed": int}
RESPONSE = {
    "text": "/out/text",
    "finishReason": "/out/why",
    "promptTokens": "/usage/in",
    "completionTokens": "/usage/out",
    "error": "/error",
}
POLL = {
    "url": "/job/url",
    "status": "/state",
    "doneValues": ["done"],
    "failedValues": ["failed"],
    "intervalMillis": 100,
}

Behaviour = Callable[[web.Request, Any], Awaitable[web.StreamResponse]]


@dataclass
class PlainApi:
    """The API. ``answer`` is what it does with a good request, ``look`` with a look at a job."""

    port: int = 0
    answer: Behaviour | None = None
    look: Behaviour | None = None
    bodies: list[Any] = field(default_factory=list)
    looks: int = 0
    keys: list[str] = field(default_factory=list)
    good_keys: set[str] = field(default_factory=lambda: {KEY})
    health_status: int = 200
    health_headers: list[dict[str, str]] = field(default_factory=list)

    async def generate(self, request: web.Request) -> web.StreamResponse:
        self.keys.append(request.headers.get("Authorization", ""))
        if self.keys[-1].removeprefix("Bearer ") not in self.good_keys:
            return web.json_response({"error": f"unknown key {self.keys[-1]}"}, status=401)
        if request.content_type != "application/json":
            return web.json_response({"error": "JSON is wanted"}, status=415)
        body = await request.json()
        if (wrong := _wrong(body, _KNOWN) or _wrong(body.get("options", {}), _OPTIONS)) is not None:
            return web.json_response({"error": {"message": wrong}}, status=400)
        self.bodies.append(body)
        assert self.answer is not None
        return await self.answer(request, body)

    async def job(self, request: web.Request) -> web.StreamResponse:
        self.keys.append(request.headers.get("Authorization", ""))
        if self.keys[-1].removeprefix("Bearer ") not in self.good_keys:
            return web.json_response({"error": "unknown key"}, status=401)
        self.looks += 1
        assert self.look is not None
        return await self.look(request, None)

    async def health(self, request: web.Request) -> web.StreamResponse:
        self.health_headers.append(dict(request.headers))
        return web.Response(status=self.health_status if request.method == "HEAD" else 405)


def _wrong(body: Any, known: dict[str, type]) -> str | None:
    if unknown := sorted(set(body) - set(known)):
        return f"unknown member {unknown[0]}"
    return next((f"{name} is no {known[name].__name__}" for name in body if type(body[name]) is not known[name]), None)


@asynccontextmanager
async def serving(api: PlainApi) -> AsyncIterator[PlainApi]:
    app = web.Application()
    app.router.add_post("/v1/generate", api.generate)
    app.router.add_get("/v1/jobs/{name}", api.job)
    app.router.add_route("HEAD", "/v1", api.health)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    api.port = runner.addresses[0][1]
    try:
        yield api
    finally:
        await runner.cleanup()


@asynccontextmanager
async def provider_of(api: PlainApi, style: str, **http: Any) -> AsyncIterator[Provider]:
    """A started provider for it. ``http`` overrides members of the spec."""
    spec = {
        "path": "/generate",
        "headers": [{"name": "Authorization", "value": "Bearer {{credential}}"}],
        "body": BODY % json.dumps(style == "Stream"),
        "style": style,
        "response": RESPONSE,
        **({"poll": POLL} if style == "Poll" else {}),
        **http,
    }
    remote = Remote.model_validate(
        {
            "provider": "HTTP",
            "model": "m",
            "baseURL": f"http://127.0.0.1:{api.port}/v1",
            "credentials": {"secretKeyRef": {"name": "s", "key": "k"}},
            "http": spec,
        }
    )
    # It would follow redirects: the provider has to say no for every request.
    async with httpx2.AsyncClient(trust_env=False, timeout=20.0, follow_redirects=True) as client:
        provider = create(Setting(remote, client, lambda: KEY))
        await provider.start()
        try:
            yield provider
        finally:
            await provider.aclose()


async def generated(provider: Provider, request: Generate) -> tuple[GenerationResult, list[str]]:
    """The result, and the texts of its deltas."""
    texts: list[str] = []

    def grown(delta: Delta) -> None:
        assert delta.id == request.id
        texts.append(delta.text)

    return await provider.generate(request, grown), texts
