"""What the page asks for, how often, and what it says where it is refused."""

import hashlib
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from headrace_facade.caller import Caller
from headrace_facade.errors import FacadeError, Forbidden, Throttled, Unavailable
from headrace_facade.native.monitor_schema import MonitorStatus
from headrace_facade.page.live import LiveOverview
from headrace_facade.page.service import NEEDS_A_TOKEN, TASKS_KEPT_S, VIEWERS_EACH, Pages
from headrace_facade.schema import TaskList

ALICE = Caller("team-a", "alice", token="a.b.c")


@dataclass
class Tasks:
    asked: list[tuple[str | None, str]] = field(default_factory=list)
    refusal: FacadeError | None = None

    async def list(self, namespace: str | None, limit: int, continue_: str | None, token: str) -> TaskList:
        self.asked.append((namespace, token))
        if self.refusal is not None:
            raise self.refusal
        return TaskList.model_validate({"items": [], "continue": None})


class Monitor:
    async def status(self, caller: Caller) -> MonitorStatus:
        return MonitorStatus(namespace=caller.namespace, queues=[], left_off=0, models=[], gpus=[], away=[])


@dataclass
class World:
    tasks: Tasks = field(default_factory=Tasks)
    now: float = 0.0

    def pages(self) -> Pages:
        return Pages(
            None,  # type: ignore[arg-type]
            self.tasks,  # type: ignore[arg-type]
            None,  # type: ignore[arg-type]
            Monitor(),  # type: ignore[arg-type]
            None,  # type: ignore[arg-type]
            clock=lambda: self.now,
            today=lambda: datetime(2026, 1, 1, tzinfo=UTC),
        )


async def told(pages: Pages, caller: Caller) -> str:
    return (await pages.overview(caller)).tables["live-tasks"].empty


async def test_a_list_is_asked_once_for_all_windows_of_a_token_and_namespace() -> None:
    world = World()
    pages = world.pages()
    for _ in range(3):
        assert await told(pages, ALICE) == "No task waits or runs."
    assert world.tasks.asked == [("team-a", "a.b.c")]
    await told(pages, Caller("team-b", "alice", token="a.b.c"))
    await told(pages, Caller("team-a", "bob", token="x.y.z"))
    assert world.tasks.asked[1:] == [("team-b", "a.b.c"), ("team-a", "x.y.z")]
    world.now = TASKS_KEPT_S
    await told(pages, ALICE)
    assert len(world.tasks.asked) == 4


async def test_a_refused_list_hides_no_model_and_is_asked_for_again() -> None:
    world = World()
    pages = world.pages()
    world.tasks.refusal = Forbidden("alice may not list llmtasks")
    for _ in range(2):
        assert await told(pages, ALICE) == "Tasks cannot be listed: alice may not list llmtasks"
    assert len(world.tasks.asked) == 2


async def test_for_a_key_no_task_is_asked_for() -> None:
    world = World()
    pages = world.pages()
    key = Caller("team-a", "key:x")
    assert await told(pages, key) == NEEDS_A_TOKEN
    assert world.tasks.asked == []
    with pytest.raises(Forbidden, match="token"):
        await pages.task(key, "team-a.t")


@pytest.mark.parametrize(
    ("error", "events"), [(Unavailable("away"), 0), (Forbidden("no more"), 1)], ids=["later", "never"]
)
async def test_a_stream_ends_with_what_the_browser_cannot_mend(error: FacadeError, events: int) -> None:
    pages, sent = World().pages(), []
    answers = [ALICE]

    async def again() -> Caller:
        if not answers:
            raise error
        return answers.pop()

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    await LiveOverview(pages, ALICE, again, every_s=0)._work(send)  # type: ignore[arg-type]
    assert sent[0]["status"] == 200
    bodies = [bytes(message["body"]) for message in sent[1:]]  # type: ignore[call-overload]
    assert bodies[0].startswith(b"event: state\n")
    assert [body.startswith(b"event: refused\n") for body in bodies[1:-1]] == [True] * events
    assert bodies[-1] == b""
    assert pages.seats.held == 0


async def test_one_identity_holds_so_many_windows() -> None:
    pages = World().pages()
    sent: list[object] = []

    async def again() -> Caller:
        raise Unavailable("enough")

    async def send(message: object) -> None:
        sent.append(message)

    with ExitStack() as windows:
        for _ in range(VIEWERS_EACH):
            windows.enter_context(pages.seats.taken(hashlib.sha256(b"alice").digest()))
        with pytest.raises(Throttled, match="look at this page"):
            await LiveOverview(pages, ALICE, again)._work(send)
        assert sent == []
        await LiveOverview(pages, Caller("team-a", "bob", token="x.y.z"), again)._work(send)
    assert sent
