"""The window opens when the store knows what could be handed out, and not before."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from operator_cases import MODEL, queued, task_body

from headrace_crds.quota import LLMQuotaSpec
from headrace_operator import census
from headrace_operator.context import Context
from headrace_operator.decide.window import Bounds
from headrace_operator.errors import KubeUnavailable
from headrace_operator.grants import Grants
from headrace_operator.kube import Resource
from headrace_operator.store import Store
from headrace_operator.views import task_view
from headrace_operator.window import Window


def body(uid: str, version: str, status: dict[str, Any] | None = None) -> dict[str, Any]:
    made = task_body(status)
    made["metadata"] |= {"uid": uid, "name": uid, "resourceVersion": version}
    return made


class ApiServer:
    """What the leader is told when it lists; the first questions fail as often as asked for."""

    def __init__(self, *bodies: dict[str, Any], away: int = 0) -> None:
        self.bodies, self.away, self.probed = list(bodies), away, 0

    async def listed(self, *_: Any, **__: Any) -> AsyncIterator[dict[str, Any]]:
        if self.away:
            self.away -= 1
            raise KubeUnavailable("away")
        for body in self.bodies:
            yield body

    async def probe(self, _: Resource, __: str, name: str) -> dict[str, Any] | None:
        self.probed += 1
        return next((body for body in self.bodies if body["metadata"]["name"] == name), None)

    async def read(self, _: str) -> dict[str, Any]:
        return {"items": []}


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> Callable[[ApiServer], Context]:
    monkeypatch.setattr(census, "PATIENCE_SECONDS", 0.01)
    monkeypatch.setattr(census, "LOOK_SECONDS", 0.001)

    def built(kube: ApiServer) -> Context:
        store, grants, asked = Store(), Grants(LLMQuotaSpec()), list[str]()
        window = Window(Bounds(1, 2**20, 1, 2**20), grants.of, lambda _: None)
        store.listeners.append(window)
        return cast(
            "Context",
            SimpleNamespace(
                kube=kube,
                store=store,
                window=window,
                grants=grants,
                monotonic=time.monotonic,
                settings=SimpleNamespace(watch_namespaces=()),
                enqueue_everything=lambda: asked.append("everything"),
                asked=asked,
            ),
        )

    return built


async def looked(kube: ApiServer, times: int) -> None:
    async with asyncio.timeout(20):
        while kube.probed < times:  # noqa: ASYNC110  a counter has no event
            await asyncio.sleep(0)


async def test_nobody_gets_a_seat_before_the_store_has_caught_up(build: Callable[[ApiServer], Context]) -> None:
    kube = ApiServer(body("a", "7", queued()), body("b", "9"), away=1)
    ctx = build(kube)
    ctx.store.put_task(task_view(body("a", "5")))
    ctx.store.put_task(task_view(body("b", "9")))
    opening = asyncio.create_task(census.open_window(ctx))
    await looked(kube, 3)
    assert not ctx.window.is_open, "what the former leader wrote last is not known yet"
    ctx.store.put_task(task_view(body("a", "7", queued())))
    await opening
    assert ctx.window.is_open
    assert ctx.window.handed_out(MODEL) == 1
    assert ctx.window.ask(task_view(body("b", "9"))) is not None
    assert ctx.asked == ["everything"]  # type: ignore[attr-defined]  # of the stand-in


async def test_what_is_gone_is_not_waited_for(build: Callable[[ApiServer], Context]) -> None:
    kube = ApiServer(body("a", "7"))
    ctx = build(kube)
    opening = asyncio.create_task(census.open_window(ctx))
    await looked(kube, 2)
    assert not ctx.window.is_open
    kube.bodies = [body("b", "8")]
    await opening
    assert ctx.window.is_open
