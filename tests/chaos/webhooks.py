"""A receiver of webhooks that misbehaves by path, and a listener that nobody may ever be led to.

/ok answers 204. /fails answers 500 twice first, /hangs says nothing to the first request, /redirects leads the first
two to the listener on loopback; each then answers 204. What counts is by `webhook-id`.
"""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

from tests.chaos.judged import Violation
from tests.chaos.recorder import Version

KEY: Final = b"chaos-runs-sign-with-this-key-32"
MANNERS: Final = ("ok", "fails", "hangs", "redirects")
FAILURES: Final = 2


@dataclass(frozen=True)
class Told:
    """One request: whose outcome it told, and whether it was answered 204."""

    uid: str
    outcome: str
    attempt: int
    signed: bool
    taken: bool


@dataclass
class Receiver:
    """`leaked` counts requests to the listener that only a followed redirect reaches."""

    port: int = 0
    canary_port: int = 0
    told: list[Told] = field(default_factory=list)
    leaked: int = 0
    _requests: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _released: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def secret(self) -> dict[str, Any]:
        key = "whsec_" + base64.b64encode(KEY).decode()
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "hook", "labels": {"headrace.dev/webhook": "true"}},
            "stringData": {"key": key},
        }

    def spec(self, manner: str) -> dict[str, Any]:
        """`spec` members of a task."""
        return {"webhook": {"url": f"http://{self.host}/{manner}", "secretRef": {"name": "hook", "key": "key"}}}

    async def take(self, request: web.Request) -> web.StreamResponse:
        body, manner = await request.read(), request.path.strip("/")
        name = request.headers.get("webhook-id", "")
        self._requests[name] += 1
        early = self._requests[name] <= (0 if manner == "ok" else 1 if manner == "hangs" else FAILURES)
        data = json.loads(body)["data"]
        self.told.append(Told(data["uid"], data["outcome"], data["attempt"], self._signed(request, body), not early))
        if early and manner == "fails":
            return web.Response(status=500)
        if early and manner == "redirects":
            return web.Response(status=307, headers={"Location": f"http://127.0.0.1:{self.canary_port}/secret"})
        if early:
            await self._released.wait()
        return web.Response(status=204)

    async def leak(self, _: web.Request) -> web.StreamResponse:
        self.leaked += 1
        return web.Response(status=204)

    def release(self) -> None:
        self._released.set()

    @staticmethod
    def _signed(request: web.Request, body: bytes) -> bool:
        """As the specification of Standard Webhooks says, by nobody's library."""
        content = f"{request.headers.get('webhook-id')}.{request.headers.get('webhook-timestamp')}.".encode() + body
        expected = base64.b64encode(hmac.digest(KEY, content, hashlib.sha256)).decode()
        given = request.headers.get("webhook-signature", "").split(" ")
        return any(hmac.compare_digest(f"v1,{expected}", each) for each in given)

    def judge(self, finals: Iterable[Version]) -> list[Violation]:
        """`finals`: the first version with an outcome of each task that named a webhook."""
        by_uid: dict[str, list[Told]] = defaultdict(list)
        for told in self.told:
            by_uid[told.uid].append(told)
        found: list[Violation] = []
        for final in finals:
            heard = by_uid[final.uid]
            if not any(told.taken for told in heard):
                found.append(Violation("untold", final.name, f"{len(heard)} requests, none was answered 204"))
            if any((told.outcome, told.attempt) != (final.outcome, final.attempt) for told in heard):
                found.append(Violation("mistold", final.name, "a webhook told another outcome than the object's"))
            if not all(told.signed for told in heard):
                found.append(Violation("unsigned", final.name, "a webhook's signature is wrong"))
        if self.leaked:
            found.append(Violation("leak", "redirects", f"{self.leaked} requests followed a redirect to loopback"))
        return found


@contextlib.asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    async with _listening(receiver.take) as receiver.port, _listening(receiver.leak) as receiver.canary_port:
        try:
            yield receiver
        finally:
            receiver.release()


@contextlib.asynccontextmanager
async def _listening(handle: Any) -> AsyncIterator[int]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()
