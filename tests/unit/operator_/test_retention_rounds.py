"""The rounds of deletion: what is refused keeps no other, and is tried ever more rarely."""

from types import SimpleNamespace
from typing import Any

import pytest
from operator_cases import finished, task_body

from headrace_operator import retention
from headrace_operator.context import Memory
from headrace_operator.decide.retention import Caps
from headrace_operator.errors import KubeError, KubeRefused, KubeUnavailable
from headrace_operator.metrics import Metrics
from headrace_operator.views import TaskView, task_view


class Server:
    """Deletes what it does not refuse."""

    def __init__(self, refuses: dict[str, KubeError]) -> None:
        self.refuses = refuses
        self.asked: list[str] = []

    async def delete(self, _: Any, __: str, name: str, **___: Any) -> None:
        self.asked.append(name)
        if name in self.refuses:
            raise self.refuses[name]


def view(number: int) -> TaskView:
    body = task_body(finished(), ttlSecondsAfterFinished=0)
    body["metadata"] |= {"name": f"t{number:02}", "uid": f"uid-{number:02}"}
    return task_view(body)


def context(server: Server, views: list[TaskView]) -> Any:
    async def now_ms() -> int:
        return 2_000_000_000_000

    seconds = [0.0]
    return SimpleNamespace(
        kube=server,
        clock=SimpleNamespace(now_ms=now_ms),
        store=SimpleNamespace(tasks=lambda: [each for each in views if each.ref.name not in deleted(server)]),
        settings=SimpleNamespace(retention=Caps(0, 0)),
        memory=Memory(),
        metrics=Metrics(),
        seconds=seconds,
        monotonic=lambda: seconds[0],
    )


def deleted(server: Server) -> set[str]:
    return set(server.asked) - set(server.refuses)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "DELETIONS_PER_SECOND", 10**9)


async def test_what_is_refused_keeps_no_other() -> None:
    server = Server({f"t{n:02}": KubeRefused("forbidden") for n in range(11)})
    ctx = context(server, [view(n) for n in range(25)])
    await retention.delete_due(ctx)
    assert deleted(server) == {f"t{n:02}" for n in range(11, 25)}
    assert sorted(server.asked) == [f"t{n:02}" for n in range(25)]


async def test_what_is_refused_is_tried_ever_more_rarely_and_then_goes() -> None:
    server = Server({"t00": KubeRefused("forbidden")})
    ctx = context(server, [view(0)])
    tries = []
    for second in range(0, 1_000, 10):
        ctx.seconds[0] = float(second)
        before = len(server.asked)
        await retention.delete_due(ctx)
        tries += [second] if len(server.asked) > before else []
    assert tries == [0, 60, 180, 420, 900]
    server.refuses.clear()
    ctx.seconds[0] = 1e6
    server.asked.clear()
    await retention.delete_due(ctx)
    assert deleted(server) == {"t00"}
    assert ctx.memory.refused_deletions == {}


async def test_an_end_that_lies_ahead_does_not_keep_a_task_for_ever() -> None:
    body = task_body({**finished(), "completionTime": "2100-01-01T00:00:00Z"}, ttlSecondsAfterFinished=60)
    server = Server({})
    await retention.delete_due(context(server, [task_view(body)]))
    assert len(server.asked) == 1


async def test_what_is_due_no_more_is_forgotten() -> None:
    views = [view(0)]
    ctx = context(Server({"t00": KubeRefused("forbidden")}), views)
    await retention.delete_due(ctx)
    assert set(ctx.memory.refused_deletions) == {views[0].ref}
    views.clear()
    await retention.delete_due(ctx)
    assert ctx.memory.refused_deletions == {}


async def test_a_server_that_is_away_ends_the_round() -> None:
    server = Server({f"t{n:02}": KubeUnavailable("away") for n in range(25)})
    ctx = context(server, [view(n) for n in range(25)])
    await retention.delete_due(ctx)
    assert sorted(server.asked) == [f"t{n:02}" for n in range(10)]
    await retention.delete_due(ctx)
    assert len(server.asked) == 20
    assert ctx.memory.refused_deletions == {}
