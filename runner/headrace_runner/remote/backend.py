"""A model behind somebody's API, as the runner's other parts see it: a Backend.

It is ready while the provider has started and the gate is open. That a model which nobody asks has lost its key is
seen by a cheap request now and then; what it says goes through the gate, as what a call says does.
"""

import asyncio
import time
import uuid
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import replace
from typing import Any, Final

import structlog

from headrace_crds.model import Capability
from headrace_crds.reasons import Reason
from headrace_runner.attempt import Attempt
from headrace_runner.engine.client import EngineState, Stage
from headrace_runner.providers.protocol import Fault, Provider, ProviderError
from headrace_runner.providers.registry import ProviderNotFound
from headrace_runner.remote.call_gate import HEALTH_PREFIX, CallGate
from headrace_runner.remote.engine import Line, RemoteEngine, said
from headrace_runner.remote.gate_state import GateState
from headrace_runner.streaming import CallStream

HEALTH_EVERY_SECONDS: Final = 30.0
KEY_LOOK_SECONDS: Final = 2.0
HEALTH_SECONDS: Final = 25.0
START_AGAIN_SECONDS: Final = 5.0

_log = structlog.get_logger()


class RemoteBackend:
    """``create`` makes the provider; what it raises becomes the model's state, as what ``start`` raises does.

    ``key_version`` is another one after the key has changed.
    """

    def __init__(
        self,
        create: Callable[[], Provider],
        gate: CallGate,
        *,
        capabilities: Collection[Capability] = frozenset(Capability),
        close: Callable[[], Coroutine[Any, Any, None]] | None = None,
        key_version: Callable[[], object] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._create = create
        self._gate = gate
        self._capabilities = capabilities
        self._close = close
        self._key_version = key_version
        self._monotonic = monotonic
        self._state = EngineState().enter(Stage.STARTING)
        self._started = asyncio.Event()
        self._provider: Provider | None = None
        self._line: Line | None = None
        self._succeeded_at: float | None = None

    @property
    def ready(self) -> bool:
        return self._started.is_set() and self._gate.open.is_set()

    async def wait_ready(self) -> None:
        await self._started.wait()
        await self._gate.open.wait()

    def most(self, free: int) -> int:
        """What the gate would not let through is not claimed: it would only be released again."""
        return max(1, min(free, self._gate.room()))

    def claimed(self, count: int) -> None:
        self._gate.claimed(count)

    def trial(self, attempt: Attempt, stream: CallStream | None = None) -> RemoteEngine:
        """What the attempt calls the provider with. There is no trial before ``ready``."""
        assert self._line is not None  # noqa: S101  nothing is claimed before
        return RemoteEngine(self._line, stream)

    def state(self) -> EngineState:
        return self._state

    def gate_state(self) -> GateState:
        return self._gate.state()

    def parts(self) -> Sequence[Coroutine[Any, Any, None]]:
        return (self._gate.run(), self._serve(), self._watch_key())

    async def aclose(self) -> None:
        """Close the provider, then the client."""
        try:
            if self._provider is not None:
                await self._provider.aclose()
        except Exception as error:  # what it raises may quote what must not be logged
            _log.warning("provider not closed", error=type(error).__name__)
        finally:
            if self._close is not None:
                await self._close()

    async def _serve(self) -> None:
        while True:
            if await self._start():
                break
            await asyncio.sleep(START_AGAIN_SECONDS)
        while True:
            # A spec that cannot be served stays so: another one makes another pod.
            if self._line is not None and self._silent():
                await self.check_health()
            await asyncio.sleep(HEALTH_EVERY_SECONDS)

    async def _watch_key(self) -> None:
        """A pod comes from another spec or annotation, mostly; and another key may be a good one."""
        self._gate.changed()
        seen = self._key_version()
        while True:
            await asyncio.sleep(KEY_LOOK_SECONDS)
            if (found := self._key_version()) != seen:
                seen = found
                _log.info("another key")
                self._gate.changed()

    async def _start(self) -> bool:
        """False where another try may help."""
        try:
            if self._provider is None:
                self._provider = self._create()
            await self._provider.start()
        except ValueError as error:
            # The provider's own words about the spec, or the registry's.
            reason = Reason.PROVIDER_NOT_FOUND if isinstance(error, ProviderNotFound) else Reason.INVALID_SETTINGS
            self._enter(Stage.FAILED, reason, said(str(error)))
            return True
        except ProviderError as error:
            self._enter(Stage.STARTING, error.reason, said(error.message))
            return False
        except Exception as error:
            self._enter(Stage.FAILED, Reason.RUNNER_ERROR, f"the provider's code broke: {type(error).__name__}")
            return False
        self._line = Line(
            self._provider, self._gate, self._capabilities, on_success=self._succeeded, monotonic=self._monotonic
        )
        self._enter(Stage.SERVING, "", "")
        self._started.set()
        return True

    def _enter(self, stage: Stage, reason: str, message: str) -> None:
        if stage is Stage.SERVING:
            _log.info("provider serves")
        else:
            _log.error("provider does not serve", state=stage.value, reason=str(reason))
        self._state = replace(self._state.enter(stage), reason=str(reason), message=message)

    def _succeeded(self) -> None:
        self._succeeded_at = self._monotonic()

    def _silent(self) -> bool:
        return self._succeeded_at is None or self._monotonic() - self._succeeded_at >= HEALTH_EVERY_SECONDS

    async def check_health(self) -> None:
        """Ask the provider once; a failure is settled with the gate."""
        assert self._provider is not None  # noqa: S101  it has started
        try:
            async with asyncio.timeout(HEALTH_SECONDS):
                await self._provider.check_health()
            return
        except ProviderError as error:
            found = error
        except TimeoutError:
            message = f"the provider has not answered a health check within {HEALTH_SECONDS:.0f} s"
            found = ProviderError(Fault.TRANSIENT, Reason.PROVIDER_UNREACHABLE, message)
        except Exception as error:
            _log.error("provider broke", error=type(error).__name__)
            return
        _log.warning("provider unhealthy", fault=found.fault.value, reason=str(found.reason))
        await self._gate.settle(
            f"{HEALTH_PREFIX}{uuid.uuid4().hex}",
            fault=found.fault,
            reason=found.reason,
            message=said(found.message),
            tokens=0,
            retry_after_seconds=found.retry_after_seconds,
        )
