"""Claims, real bus and all, in this process: where a process of its own could not be held at the right moment."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headrace_bus import Bus, BusSettings, Delivery, ModelKey
from headrace_runner.commit import Committer
from headrace_runner.engine.protocol import Generate, GenerationResult, Timings, Usage
from headrace_runner.engine_link import EngineFiles, EngineLink
from headrace_runner.flight import Deck
from headrace_runner.kube import Answer, Operation, TaskStatus
from headrace_runner.lease import LeaseKeeper
from headrace_runner.local_backend import LocalBackend
from headrace_runner.metrics import Metrics
from headrace_runner.slots import Slots
from headrace_runner.streaming import TokenStreams
from headrace_runner.validate import Validator

MODEL = ModelKey("ns", "smol")
LEASE_MS = 30_000


class LateBus(Bus):
    """A real bus whose claims have taken their leases before the answer is let through."""

    def __init__(self, settings: BusSettings) -> None:
        super().__init__(settings)
        self.taken, self.let_through = asyncio.Event(), asyncio.Event()

    async def claim(self, model: ModelKey, **options: Any) -> list[Delivery]:
        deliveries = await super().claim(model, **options)
        self.taken.set()
        await self.let_through.wait()
        return deliveries


class NoObjects:
    async def patch(self, namespace: str, name: str, operations: list[Operation]) -> Answer:
        raise AssertionError("nothing was generated")


class Answering(EngineLink):
    """An engine that is connected and counts what it is asked."""

    def __init__(self, folder: Path) -> None:
        super().__init__(EngineFiles(folder / "sock", folder / "state"))
        self.asked = 0
        self.closed = asyncio.Event()

    @property
    def client(self) -> Any:
        return self

    async def generate(
        self, request: Generate, *, on_progress: Callable[[int], None] | None = None
    ) -> GenerationResult:
        self.asked += 1
        return GenerationResult(request.id, "hi", "Stop", Usage(1, 0, 1), Timings(0, 1, 1))

    async def abort(self, generation_id: str) -> None:
        raise AssertionError("it ends at once")


class Objects:
    """Takes every patch."""

    def __init__(self) -> None:
        self.outcomes: list[str] = []

    async def patch(self, namespace: str, name: str, operations: list[Operation]) -> Answer:
        self.outcomes += [each["value"] for each in operations if each["path"] == "/status/outcome"]
        return Answer(200, {})


def deck_of(
    bus: Bus, url: str, folder: Path, *, tasks: TaskStatus | None = None, engine: EngineLink | None = None
) -> Deck:
    """By default no engine and nothing to commit to."""
    tasks = NoObjects() if tasks is None else tasks
    engine = EngineLink(EngineFiles(folder / "sock", folder / "state")) if engine is None else engine
    engine.serving.set()
    metrics = Metrics()
    return Deck(
        bus=bus,
        model=MODEL,
        pod="p-0",
        tasks=tasks,
        committer=Committer(tasks),
        leases=LeaseKeeper(lambda: Bus.connect(url), MODEL, lease_ms=LEASE_MS),
        backend=LocalBackend(engine),
        validator=Validator(),
        slots=Slots(2),
        metrics=metrics,
        streams=TokenStreams(bus, MODEL, metrics),
    )
