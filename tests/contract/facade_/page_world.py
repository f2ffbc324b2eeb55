"""The page with services that are played: its pages are made, sent and kept alive by the facade's own code."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.datastructures import Headers

from headrace_facade.bearer import bearer_token
from headrace_facade.caller import Caller
from headrace_facade.errors import Forbidden, NotFound, Unauthenticated
from headrace_facade.native.monitor_schema import GpuView, MonitorStatus, QueueView
from headrace_facade.native.report import report
from headrace_facade.native.schema import ModelCapability, ModelView
from headrace_facade.objects import to_summary, to_task
from headrace_facade.page.cells import State
from headrace_facade.page.one_task import task_state
from headrace_facade.page.overview import overview
from headrace_facade.page.service import NEEDS_A_TOKEN, token_of
from headrace_facade.schema import TaskList, TaskStatus, Why
from headrace_facade.watches import Seats
from tests.fake_calls.service import FakeContext

TOKEN, KEY, POOR = "alice.has.a-token", "hr_alice_key", "poor.has.no-right"
NAMES = {TOKEN: "system:serviceaccount:team-a:alice", KEY: "key:headrace-key-alice", POOR: "poor"}
HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=2</script>"\'&\u202e'


@dataclass
class Callers:
    """Knows two, both of team-a; the token may name team-b as well."""

    known: set[str] = field(default_factory=lambda: {TOKEN, KEY, POOR})

    async def authenticate(self, headers: Headers, *, namespace: str | None = None) -> Caller:
        text = bearer_token(headers.get("Authorization"))
        if text not in self.known:
            raise Unauthenticated("the API server does not accept this token")
        allowed = {TOKEN: ("team-a", "team-b"), KEY: ("team-a",), POOR: ()}[text]
        if (namespace or "team-a") not in allowed:
            raise Forbidden(f"{NAMES[text]!r} may not create llmtasks.headrace.dev in namespace {namespace!r}")
        return Caller(namespace or "team-a", NAMES[text], token=text if text != KEY else None)


def model(name: str, phase: str = "Serving", **more: Any) -> ModelView:
    serves = phase == "Serving"
    told = {
        "model": name,
        "namespace": "team-a",
        "name": name,
        "kind": "local",
        "capabilities": [ModelCapability.CHAT, ModelCapability.STREAMING],
        "phase": phase,
        "ready": True,
        "available": serves,
        "reason": "" if serves else phase,
        "message": "",
        "replicas": 2,
        "ready_replicas": 2 if serves else 0,
        "context_tokens": 8192,
    }
    return ModelView.model_validate({**told, **more})


def queue(name: str, **more: Any) -> QueueView:
    told = {"queued": 0, "queued_together": 0, "delayed": 0, "running": 0, "slots": 8}
    return QueueView.model_validate({"model": name, **told, **more})


def gpu(name: str = "NVIDIA H200", used: int = 61, **more: Any) -> GpuView:
    told = {"model": "qwen3-8b", "pod": "headrace-qwen3-8b-0", "utilization_percent": 87, "temperature_celsius": 61}
    sizes = {"total_bytes": 141 << 30, "used_bytes": used << 30, "power_milliwatts": 512_000}
    return GpuView.model_validate({"name": name, **told, **sizes, **more})


def ago(seconds: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat()


def task(name: str, phase: str, age: float = 60, model: str = "qwen3-8b", **status: Any) -> dict[str, Any]:
    """An LLMTask's body."""
    ended = {"outcome": phase, "completionTime": ago(age - 9)} if phase in ("Complete", "Failed", "Cancelled") else {}
    started = {} if phase in ("Waiting", "Queued") else {"startTime": ago(age - 2)}
    return {
        "metadata": {"name": name, "namespace": "team-a", "uid": f"uid-{name}", "creationTimestamp": ago(age)},
        "spec": {"modelRef": {"name": model}, "prompt": "the secret question"},
        "status": {"phase": phase, "attempt": 1, **ended, **started, **status},
    }


@dataclass
class PlayedPages:
    """What stands in it is shown; `changed` wakes who follows a task."""

    models: list[ModelView] = field(default_factory=list)
    queues: list[QueueView] = field(default_factory=list)
    gpus: list[GpuView] = field(default_factory=list)
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    why: Why | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    seats: Seats = field(default_factory=Seats)

    def put(self, *tasks: dict[str, Any]) -> None:
        self.tasks.update({f"{each['metadata']['namespace']}.{each['metadata']['name']}": each for each in tasks})
        self.changed.set()

    async def overview(self, caller: Caller) -> State:
        own = caller.namespace == "team-a"
        seen = MonitorStatus(
            namespace=caller.namespace,
            queues=self.queues if own else [],
            left_off=0,
            models=self.models if own else [],
            gpus=self.gpus if own else [],
            away=[],
        )
        found = [each for each in self.tasks.values() if each["metadata"]["namespace"] == caller.namespace]
        tasks = TaskList.model_validate({"items": [to_summary(each) for each in found], "continue": None})
        return overview(seen, NEEDS_A_TOKEN if caller.token is None else tasks, datetime.now(UTC))

    async def task(self, caller: Caller, task_id: str) -> State:
        token_of(caller)
        found = self.tasks.get(task_id)
        if found is None:
            raise NotFound("no such task")
        return task_state(report(found), to_task(found), self.why, datetime.now(UTC))

    @property
    def following(self) -> "PlayedPages":
        return self

    async def happenings(self, task_id: str, token: str) -> AsyncGenerator[Any, None]:
        while True:
            self.changed.clear()
            told = to_task(self.tasks[task_id])
            open_ = told.status in (TaskStatus.CREATED, TaskStatus.QUEUED, TaskStatus.PROCESSING)
            yield "waiting" if open_ else told.status.value, told
            if not open_:
                return
            await self.changed.wait()


@dataclass
class PageContext(FakeContext):
    callers: Callers = field(default_factory=Callers)
    pages: PlayedPages = field(default_factory=PlayedPages)
