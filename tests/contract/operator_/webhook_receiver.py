"""Receivers of webhooks on loopback, which answer as they are told and remember what they got."""

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from standardwebhooks.webhooks import Webhook

KEY = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OLD_KEY = "whsec_" + base64.b64encode(bytes(range(32, 64))).decode()


@dataclass
class Received:
    """One request; `at` is monotonic."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float = field(default_factory=time.monotonic)

    def verified(self, key: str = KEY) -> dict[str, Any]:
        """Judged by somebody else's code. Raises WebhookVerificationError."""
        return dict(Webhook(key).verify(self.body, {name.lower(): value for name, value in self.headers.items()}))


Reply = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Receiver:
    """Gives the answers in turn, the last one for ever; without any it answers 204."""

    port: int = 0
    answers: list[int | Reply] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)
    hanging: asyncio.Event = field(default_factory=asyncio.Event)
    """Set: those that hang are let go."""

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}/hook?token=in-the-query"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.received.append(Received(request.path, dict(request.headers), await request.read()))
        reply: int | Reply = 204
        if self.answers:
            reply = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return web.Response(status=reply) if isinstance(reply, int) else await reply(request)

    async def hang(self, _: web.Request) -> web.StreamResponse:
        await self.hanging.wait()
        return web.Response(status=204)

    async def got(self, count: int) -> bool:
        return len(self.received) >= count


@asynccontextmanager
async def receiver(*answers: int | Reply, tls: Any = None) -> AsyncIterator[Receiver]:
    made = Receiver(answers=list(answers))
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    made.port = runner.addresses[0][1]
    try:
        yield made
    finally:
        made.hanging.set()
        await runner.cleanup()


def secret(*keys: str, labels: dict[str, str] | None = None) -> dict[str, Any]:
    """The Secret that tasks here refer to."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "hook-keys", "labels": {"headrace.dev/webhook": "true"} if labels is None else labels},
        "stringData": {"signing": "\n".join(keys or (KEY,))},
    }


def hook(url: str, *, events: Iterable[str] = ()) -> dict[str, Any]:
    return {
        "url": url,
        "secretRef": {"name": "hook-keys", "key": "signing"},
        **({"events": list(events)} if events else {}),
    }
