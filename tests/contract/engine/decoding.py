"""A decode loop on a model in this process, stepped by a thread of its own."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from headrace_runner.engine.constraint import Constraint
from headrace_runner.engine.loop import DecodeLoop
from headrace_runner.engine.model import LoadedModel
from headrace_runner.engine.protocol import Delta, Event, Failure, GenerationResult, Parameters
from headrace_runner.engine.sequence import Job

ANSWER_SECONDS = 90.0


class Steps:
    """In the place of the heartbeat: calls back on the decode thread before every step, with its number."""

    def __init__(self) -> None:
        self.count = 0
        self.before: Callable[[int], None] = lambda count: None

    def busy(self) -> None:
        self.count += 1
        self.before(self.count)

    def idle(self) -> None:
        pass


class Asked:
    """One request and what came of it."""

    def __init__(self, key: int, tokens: list[int], parameters: Parameters) -> None:
        self.key, self.tokens, self.parameters = key, tokens, parameters
        self.events: list[Event] = []
        self.ended = threading.Event()

    def emit(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, GenerationResult | Failure):
            self.ended.set()

    def result(self) -> GenerationResult:
        assert self.ended.wait(ANSWER_SECONDS), f"request {self.key} has no end"
        assert isinstance(self.events[-1], GenerationResult), self.events[-1]
        return self.events[-1]

    def streamed(self, index: int = 0) -> str:
        """What the deltas of a completion are together."""
        return "".join(each.text for each in self.events if isinstance(each, Delta) and each.index == index)


class Decoding:
    """Submits to a loop that runs."""

    def __init__(self, model: LoadedModel, cells: int | None) -> None:
        self.model = model
        self.steps = Steps()
        self.loop = DecodeLoop(model, self.steps, cells)  # type: ignore[arg-type]  # stands in for the heartbeat
        self._keys = itertools.count()

    def submit(
        self,
        prompt: str | list[int],
        constraint: Constraint | None = None,
        scope: str | None = "tests",
        **parameters: object,
    ) -> Asked:
        given = {"temperature": 0.0, "max_tokens": 16, **parameters}
        tokens = self.model.tokenize([prompt]) if isinstance(prompt, str) else prompt
        asked = Asked(next(self._keys), tokens, Parameters(**given))  # type: ignore[arg-type]  # passed through
        self.loop.submit(
            Job(
                asked.key,
                str(asked.key),
                tokens,
                asked.parameters,
                constraint,
                asked.emit,
                time.monotonic(),
                stream=True,
                cache_scope=scope,
            )
        )
        return asked

    def ask(self, prompt: str | list[int], **parameters: object) -> GenerationResult:
        return self.submit(prompt, **parameters).result()  # type: ignore[arg-type]  # passed through


@contextmanager
def decoding(model: LoadedModel, cells: int | None = None) -> Iterator[Decoding]:
    running = Decoding(model, cells)
    running.loop.warm_up()
    died: list[BaseException] = []

    def run() -> None:
        try:
            running.loop.run()
        except BaseException as error:
            died.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield running
    finally:
        running.loop.stop()
        thread.join()
        if died:
            raise died[0]
