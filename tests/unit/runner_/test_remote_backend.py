"""A remote model's state, its health checks, and how many calls its gate lets a runner claim."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NoReturn

import pytest
from scripted_provider import ScriptedProvider, Settled, WatchedGate, raises

from headrace_crds.reasons import Reason
from headrace_runner.attempt import Attempt
from headrace_runner.engine.client import Stage
from headrace_runner.engine.protocol import Generate
from headrace_runner.providers.protocol import Fault, Provider, ProviderError
from headrace_runner.providers.registry import ProviderNotFound
from headrace_runner.remote import backend as remote_backend
from headrace_runner.remote import call_gate
from headrace_runner.remote.backend import RemoteBackend
from headrace_runner.remote.call_gate import HEALTH_PREFIX, FreeGate, NotAdmitted
from headrace_runner.remote.gate_state import Breaker, GateState
from headrace_runner.remote.refused import ProviderRefused

REVOKED = ProviderError(Fault.UNAVAILABLE, Reason.CREDENTIALS_REFUSED, "the key is revoked")


class World:
    def __init__(self, provider: ScriptedProvider | None = None, create: Callable[[], Provider] | None = None) -> None:
        self.provider = ScriptedProvider() if provider is None else provider
        self.gate, self.now, self.clients_closed, self.key = WatchedGate(), 100.0, 0, "one"
        self.backend = RemoteBackend(
            (lambda: self.provider) if create is None else create,
            self.gate,
            close=self._close,
            key_version=lambda: self.key,
            monotonic=lambda: self.now,
        )

    async def _close(self) -> None:
        self.clients_closed += 1

    @asynccontextmanager
    async def running(self, until: Callable[[], bool]) -> AsyncIterator[None]:
        parts = [asyncio.create_task(part) for part in self.backend.parts()]
        try:
            for _ in range(500):
                if until():
                    break
                await asyncio.sleep(0.01)
            assert until()
            yield
            assert not any(part.done() for part in parts), "a part that ends stops the runner"
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)
            await self.backend.aclose()

    def is_in(self, stage: Stage) -> Callable[[], bool]:
        return lambda: self.backend.state().state is stage


def _raise(error: Exception) -> NoReturn:
    raise error


async def test_it_is_ready_when_the_provider_has_started_and_the_gate_is_open() -> None:
    world = World()
    assert world.backend.state().state is Stage.STARTING
    assert world.backend.state().since_ms
    async with world.running(world.is_in(Stage.SERVING)):
        assert (world.backend.state().reason, world.backend.state().engine) == ("", None)
        assert not world.backend.ready
        waiting = asyncio.create_task(world.backend.wait_ready())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        world.gate.open.set()
        await waiting
        assert world.backend.ready
        assert world.gate.ran
    assert (world.provider.started, world.provider.closed, world.clients_closed) == (1, 1, 1)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ProviderNotFound("this runner image has no provider 'X'"), Reason.PROVIDER_NOT_FOUND),
        (ValueError("spec.remote.http.body: {{model} is not closed"), Reason.INVALID_SETTINGS),
    ],
)
async def test_a_spec_that_cannot_be_served_fails_the_model_with_the_remedy(error: Exception, reason: Reason) -> None:
    world = World(create=lambda: _raise(error))
    async with world.running(world.is_in(Stage.FAILED)):
        state = world.backend.state()
        assert (state.reason, state.message) == (reason, str(error))
        assert not world.backend.ready
    assert world.clients_closed == 1


async def test_a_spec_that_the_provider_refuses_at_its_start_fails_the_model() -> None:
    world = World()
    world.provider.on_start = lambda: _raise(ValueError("spec.remote.extraBody: no member 'x'"))
    async with world.running(world.is_in(Stage.FAILED)):
        assert world.backend.state().reason == Reason.INVALID_SETTINGS
        assert world.provider.health_checks == 0


@pytest.mark.parametrize("error", [REVOKED, OSError("sk-secret")])
async def test_a_start_that_may_succeed_later_is_tried_again(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setattr(remote_backend, "START_AGAIN_SECONDS", 0.01)
    world, seen = World(), list[str]()

    def start() -> None:
        seen.append(f"{world.backend.state().reason} {world.backend.state().message}")
        if len(seen) < 3:
            raise error

    world.provider.on_start = start
    async with world.running(world.is_in(Stage.SERVING)):
        assert world.backend.state().reason == ""
    assert ("CredentialsRefused" in seen[2]) is (error is REVOKED)
    assert "sk-secret" not in str(seen)


async def test_a_revoked_key_shows_while_nobody_asks() -> None:
    world = World()
    world.provider.on_health = lambda: _raise(REVOKED)
    async with world.running(lambda: bool(world.gate.settled)):
        ((call_id, settled),) = world.gate.settled.items()
    assert call_id.startswith(HEALTH_PREFIX)
    assert settled == Settled(Fault.UNAVAILABLE, Reason.CREDENTIALS_REFUSED, "the key is revoked", 0, None)
    # The model serves as far as the runner is concerned: what stops it is the gate's to say.
    assert world.backend.state().state is Stage.SERVING


async def test_health_is_not_asked_for_while_calls_succeed(attempt: Attempt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_backend, "HEALTH_EVERY_SECONDS", 0.01)
    world = World()

    async def checked(more: int = 1) -> None:
        most = world.provider.health_checks + more
        async with asyncio.timeout(5):
            while world.provider.health_checks < most:  # noqa: ASYNC110  the provider tells nobody
                await asyncio.sleep(0.001)

    async with world.running(world.is_in(Stage.SERVING)):
        await checked(2)
        await world.backend.trial(attempt).generate(Generate("1", prompt="x"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(checked(2), 0.2)
        world.now += 0.01
        await checked()
        world.provider.script = raises(REVOKED)
        with pytest.raises(ProviderRefused):
            await world.backend.trial(attempt).generate(Generate("1", prompt="x"))
        await checked()


async def test_a_health_check_that_hangs_or_breaks_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_backend, "HEALTH_SECONDS", 0.01)
    world = World()
    async with world.running(world.is_in(Stage.SERVING)):
        world.provider.on_health = lambda: _raise(KeyError("sk-secret"))
        await world.backend.check_health()
        assert not world.gate.settled

        async def hang() -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(world.provider, "check_health", hang)
        await world.backend.check_health()
        (settled,) = world.gate.settled.values()
        assert (settled.fault, settled.reason) == (Fault.TRANSIENT, Reason.PROVIDER_UNREACHABLE)


@pytest.mark.parametrize(
    ("error", "settled"),
    [
        (None, Settled(None, "", "", 0, None)),
        (REVOKED, Settled(Fault.UNAVAILABLE, Reason.CREDENTIALS_REFUSED, "the key is revoked", 0, None)),
        # the provider's own code: nobody knows how the provider is
        (KeyError("sk-secret"), Settled(None, Reason.CANCELLED, "", 0, None)),
    ],
)
async def test_a_half_open_breaker_that_no_task_tries_is_tried_by_a_health_check(
    monkeypatch: pytest.MonkeyPatch, error: Exception | None, settled: Settled
) -> None:
    monkeypatch.setattr(remote_backend, "PROBE_EVERY_SECONDS", 0.01)
    world = World()
    async with world.running(lambda: world.provider.health_checks == 1):
        if error is not None:
            world.provider.on_health = lambda: _raise(error)
        world.gate.now = GateState(Breaker.OPEN, Reason.CIRCUIT_OPEN)
        await asyncio.sleep(0.05)
        assert not world.gate.admitted
        world.gate.now = GateState(Breaker.HALF_OPEN, Reason.CIRCUIT_OPEN)
        async with asyncio.timeout(5):
            while not world.gate.settled:  # noqa: ASYNC110  the gate tells nobody
                await asyncio.sleep(0.001)
        world.gate.now = GateState()
        first = next(iter(world.gate.admitted))
        assert first.startswith(HEALTH_PREFIX)
        assert world.gate.settled[first] == settled


async def test_a_probe_that_is_not_admitted_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_backend, "PROBE_EVERY_SECONDS", 0.01)
    world = World()
    async with world.running(lambda: world.provider.health_checks == 1):
        world.gate.refusal = NotAdmitted(Reason.CIRCUIT_OPEN, "a call is under way to see")
        world.gate.now = GateState(Breaker.HALF_OPEN, Reason.CIRCUIT_OPEN)
        await asyncio.sleep(0.05)
        assert (world.provider.health_checks, world.gate.settled) == (1, {})


def test_no_more_is_claimed_than_the_gate_lets_through() -> None:
    world = World()
    assert world.backend.most(8) == 3
    assert world.backend.most(2) == 2
    # It may have changed its mind since it was found open: nobody spins for that.
    world.gate.places = 0
    assert world.backend.most(8) == 1
    world.backend.claimed(3)
    assert world.gate.expected == 3
    assert FreeGate().room() > 1024


async def test_a_free_gate_closes_for_as_long_as_the_provider_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_gate, "PAUSE_SECONDS", 0.0)
    gate = FreeGate()

    async def settle(fault: Fault | None, seconds: float | None) -> None:
        await gate.settle(
            "1", fault=fault, reason="RateLimited", message="later", tokens=0, retry_after_seconds=seconds
        )

    await gate.admit("1", 10)
    for fault in (None, Fault.TRANSIENT, Fault.TERMINAL):
        await settle(fault, 60.0)
        assert gate.open.is_set()
    await settle(Fault.RATE_LIMITED, 0.05)
    await settle(Fault.OVERLOADED, None)
    assert not gate.open.is_set()
    assert gate.state().reason == "RateLimited"
    await asyncio.sleep(0.01)
    assert not gate.open.is_set(), "the shorter pause has ended the longer one"
    await asyncio.wait_for(gate.open.wait(), 5)
    assert gate.state() == GateState()


async def test_another_key_is_tried_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_backend, "KEY_LOOK_SECONDS", 0.001)
    world = World()
    # A pod that starts may come from a spec that was corrected.
    async with world.running(lambda: world.gate.changes == 1):
        await asyncio.sleep(0.05)
        assert world.gate.changes == 1
        world.key = "two"
        await asyncio.sleep(0.2)
        assert world.gate.changes == 2
