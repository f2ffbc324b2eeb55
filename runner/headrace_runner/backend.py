"""What a runner's attempts run on: an engine in its pod (``local_backend``), or somebody's API (``remote.backend``)."""

from collections.abc import Coroutine, Sequence
from typing import Any, Protocol

from headrace_runner.attempt import Attempt
from headrace_runner.engine.client import EngineState
from headrace_runner.generating import Engine
from headrace_runner.remote.gate_state import GateState
from headrace_runner.streaming import CallStream


class Backend(Protocol):
    """One per runner; used from one event loop."""

    @property
    def ready(self) -> bool:
        """Whether anything should be claimed now."""

    async def wait_ready(self) -> None:
        """Wait until that was so; it may have passed again."""

    def most(self, free: int) -> int:
        """Of that many free slots so many may be filled now, at least one. Asked while it is ready."""

    def claimed(self, count: int) -> None:
        """So many attempts are on their way to a ``trial``."""

    def trial(self, attempt: Attempt, stream: CallStream | None = None) -> Engine:
        """What one attempt generates with; its text goes to ``stream`` as well. Raises EngineLost while there is none:
        nobody was asked, nobody is charged.
        """

    def state(self) -> EngineState:
        """For the report and the pod's readiness."""

    def gate_state(self) -> GateState | None:
        """For the report; None where nothing stands between runner and model."""

    def parts(self) -> Sequence[Coroutine[Any, Any, None]]:
        """What has to run in the background as long as the runner does; called once."""

    async def aclose(self) -> None:
        """After the last attempt."""
