"""A model that the pod's own engine has loaded."""

from collections.abc import Coroutine, Sequence
from typing import Any

from headrace_runner.attempt import Attempt
from headrace_runner.engine.client import EngineState
from headrace_runner.engine_link import EngineLink
from headrace_runner.quarantine import Quarantine, Trial
from headrace_runner.streaming import CallStream


class LocalBackend:
    """A Backend: the connection to the engine, and the quarantine of who may not be beside others on it."""

    def __init__(self, link: EngineLink) -> None:
        self._link = link
        self._quarantine = Quarantine(link)

    @property
    def ready(self) -> bool:
        return self._link.serving.is_set() and self._quarantine.open.is_set()

    async def wait_ready(self) -> None:
        await self._link.serving.wait()
        await self._quarantine.open.wait()

    def most(self, free: int) -> int:
        return free

    def claimed(self, count: int) -> None:
        """The engine has its own line."""

    def trial(self, attempt: Attempt, stream: CallStream | None = None) -> Trial:
        return self._quarantine.trial(attempt, stream)

    def state(self) -> EngineState:
        return self._link.state()

    def gate_state(self) -> None:
        return None

    def parts(self) -> Sequence[Coroutine[Any, Any, None]]:
        return (self._link.keep(),)

    async def aclose(self) -> None:
        """The connection ends with its part."""
