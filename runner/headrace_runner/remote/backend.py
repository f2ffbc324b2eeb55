"""A model behind somebody's API, as the runner's other parts see it: a Backend.

It is ready while the provider has started and the gate is open. That a model which nobody asks has lost its key is
seen by a cheap request now and then; what it says goes through the gate, as what a call says does. So is that a
provider is back: a breaker closes by a call that goes well, and a model that tasks have been moved away from has none.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import structlog

from headrace_crds.model import Capability
from headrace_crds.reasons import Reason
from headrace_runner.attempt import Attempt
from headrace_runner.engine.client import EngineState, Stage
from headrace_runner.providers.protocol import Fault, Provider, ProviderError
from headrace_runner.providers.registry import ProviderNotFound
from headrace_runner.remote.call_gate import HEALTH_PREFIX, CallGate, NotAdmitted
from headrace_runner.remote.engine import Line, RemoteEngine, said
from headrace_runner.remote.gate_state import Breaker, GateState
from headrace_runner.streaming import CallStream

HEALTH_EVERY_SECONDS: Final = 30.0
KEY_LOOK_SECONDS: Final = 2.0
HEALTH_SECONDS: Final = 25.0
PROBE_EVERY_SECONDS: Final = 5.0
"""From one look at the breaker to the next."""
ONLY_A_CALL_TELLS: Final = frozenset(
    {Reason.CREDENTIALS_REFUSED, Reason.REMOTE_MODEL_NOT_FOUND, Reason.PROVIDER_QUOTA_EXHAUSTED}
)
"""A health check spends nothing, and may go without the key: that it is answered does not say that a call would be."""
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
        return (self._gate.run(), self._serve(), self._watch_key(), self._probe())

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
            self._provider,
            self._gate,
            self._capabilities,
            on_success=self._succeeded,
            serves=lambda: not self._silent(),
            monotonic=self._monotonic,
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
        health = await self._asked_health()
        if health.fault is not None:
            await self._settle(_health_id(), health)

    async def _probe(self) -> None:
        """While the breaker lets one call through and no task sends it, a health check is that call. Where such checks
        go well and calls go on failing, the tasks that come next pay for opening the breaker again.
        """
        await self._started.wait()
        while True:
            await asyncio.sleep(PROBE_EVERY_SECONDS)
            state = self._gate.state()
            if state.breaker is not Breaker.HALF_OPEN or state.reason in ONLY_A_CALL_TELLS:
                continue
            call_id, health = _health_id(), _Health(reason=Reason.CANCELLED)
            # Not admitted: a task's call is on its way, or another pod's.
            with contextlib.suppress(NotAdmitted):
                try:
                    await self._gate.admit(call_id, 0)
                    health = await self._asked_health()
                except asyncio.CancelledError:
                    await self._settle(call_id, health)
                    raise
                await self._settle(call_id, health)

    async def _asked_health(self) -> "_Health":
        assert self._provider is not None  # noqa: S101  it has started
        try:
            async with asyncio.timeout(HEALTH_SECONDS):
                await self._provider.check_health()
            return _Health()
        except ProviderError as error:
            found = _Health(error.fault, error.reason, said(error.message), error.retry_after_seconds)
        except TimeoutError:
            message = f"the provider has not answered a health check within {HEALTH_SECONDS:.0f} s"
            found = _Health(Fault.TRANSIENT, Reason.PROVIDER_UNREACHABLE, message)
        except Exception as error:
            _log.error("provider broke", error=type(error).__name__)
            return _Health(reason=Reason.CANCELLED)
        _log.warning("provider unhealthy", fault=str(found.fault), reason=str(found.reason))
        return found

    async def _settle(self, call_id: str, health: "_Health") -> None:
        await self._gate.settle(call_id, **asdict(health), tokens=0)


@dataclass(frozen=True)
class _Health:
    """What a check says to the gate: without a fault that all is well, or with the reason Cancelled nothing."""

    fault: Fault | None = None
    reason: str = ""
    message: str = ""
    retry_after_seconds: float | None = None


def _health_id() -> str:
    return f"{HEALTH_PREFIX}{uuid.uuid4().hex}"
