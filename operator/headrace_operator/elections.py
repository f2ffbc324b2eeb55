"""Leader election over one coordination.k8s.io Lease.

The client's own `leaderelection` keeps its lock in an annotation, measures by the wall clock, never gives up a lock on
exit and may hang in a renewal beyond its deadline; hence these lines. Another's lease counts as ended when it did not
change for its duration by *our* monotonic clock. What a deposed leader that does not know yet writes into
objects is fenced by resourceVersion and by the time that is left of its lease. Its writes into Redis (enqueue, purge,
grant, revoke) are not: `leads` is asked before a model is retired, and the next leader's sweep repairs the rest.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import structlog

from headrace_operator.errors import KubeConflict, KubeError
from headrace_operator.kube import LEASES, Body, Kube

LEASE_NAME: Final = "headrace-operator"
STOP_SECONDS: Final = 5.0
"""So long the work may take to end."""

_log = structlog.get_logger()


class LeadershipLost(Exception):
    """The lease could not be renewed in time; the work was stopped."""


@dataclass
class Election:
    """One candidate. `lease_seconds`: how long the others wait for a leader that vanished."""

    kube: Kube
    namespace: str
    identity: str
    lease_seconds: float
    give_up: Callable[[], None]
    """Ends the process at once: the work goes on after it was cancelled."""
    monotonic: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._held: Body | None = None
        self._seen: tuple[str, float] = ("", 0.0)
        self._until = -math.inf

    @property
    def retry_seconds(self) -> float:
        return self.lease_seconds / 5

    @property
    def renew_within_seconds(self) -> float:
        """Stops before the others may start."""
        return self.lease_seconds * 2 / 3

    def seconds_left(self) -> float:
        """How long the work may still write; by the clock alone, so that it holds when nothing was scheduled."""
        return self._until - self.monotonic()

    async def leads(self) -> bool:
        """Whether the lease is ours, by the clock and by the API server's word. Raises KubeError."""
        if self.seconds_left() <= 0:
            return False
        lease = await self.kube.get(LEASES, self.namespace, LEASE_NAME)
        ours = lease is not None and (lease.get("spec") or {}).get("holderIdentity") == self.identity
        return ours and self.seconds_left() > 0

    async def lead(self, work: Callable[[], Awaitable[None]]) -> None:
        """Waits to be the leader, then works until the work ends or fails, the lease is lost, or it is cancelled.

        Raises LeadershipLost, and what the work raises. The lease is given back on every way out but a lost one.
        """
        while not await self._attempt():  # noqa: ASYNC110  the API server has no event to wait for
            await asyncio.sleep(self.retry_seconds)
        _log.info("leading", identity=self.identity)
        working: asyncio.Future[None] = asyncio.ensure_future(work())
        renewing = asyncio.ensure_future(self._renew())
        try:
            await asyncio.wait({working, renewing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for future in (working, renewing):
                future.cancel()
            _, stuck = await asyncio.wait({working, renewing}, timeout=STOP_SECONDS)
            if stuck:
                _log.critical("the work does not end", identity=self.identity)
                self.give_up()
            if renewing.cancelled() or renewing.exception() is None:
                await self._release()
        for future in (working, renewing):
            if not future.cancelled():
                future.result()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self.retry_seconds)
            try:
                async with asyncio.timeout(self.seconds_left()):
                    if await self._attempt():
                        continue
            except TimeoutError:
                pass
            if self.seconds_left() <= 0 or self._held is None:
                self._until = -math.inf
                _log.error("leadership lost", identity=self.identity)
                raise LeadershipLost(self.identity)

    async def _attempt(self) -> bool:
        """Acquire or renew; False when another leads or the API server does not answer."""
        # Before the request: the others count from when the server took it, which is no earlier.
        asked = self.monotonic()
        try:
            lease = await self.kube.get(LEASES, self.namespace, LEASE_NAME)
            if lease is None:
                body = {
                    "apiVersion": LEASES.api_version,
                    "kind": "Lease",
                    "metadata": {"name": LEASE_NAME, "namespace": self.namespace},
                    "spec": self._spec({}),
                }
                self._held = await self.kube.create(LEASES, self.namespace, body)
                self._until = asked + self.renew_within_seconds
                return True
            if not self._is_free(lease):
                self._held = None
                return False
            lease["spec"] = self._spec(lease.get("spec") or {})
            self._held = await self.kube.replace(LEASES, self.namespace, LEASE_NAME, lease)
        except KubeConflict:
            return False
        except KubeError as error:
            _log.warning("lease not reached", reason=error.reason, error=str(error))
            return False
        self._until = asked + self.renew_within_seconds
        return True

    def _is_free(self, lease: Body) -> bool:
        spec = lease.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        if holder in ("", self.identity):
            return True
        version = lease["metadata"]["resourceVersion"]
        if self._seen[0] != version:
            self._seen = (version, self.monotonic())
            return False
        return self.monotonic() - self._seen[1] > float(spec.get("leaseDurationSeconds") or self.lease_seconds)

    def _spec(self, before: dict[str, Any]) -> dict[str, Any]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        ours = before.get("holderIdentity") == self.identity
        return {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": max(1, round(self.lease_seconds)),
            "acquireTime": before.get("acquireTime") if ours and before.get("acquireTime") else now,
            "renewTime": now,
            "leaseTransitions": int(before.get("leaseTransitions") or 0) + (0 if ours else 1),
        }

    async def _release(self) -> None:
        """So that the next leader need not wait; failing is no harm."""
        held, self._held = self._held, None
        if held is None:
            return
        held["spec"] = {**held["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
        with contextlib.suppress(KubeError, TimeoutError):
            async with asyncio.timeout(3):
                await self.kube.replace(LEASES, self.namespace, LEASE_NAME, held)
        _log.info("lease given back", identity=self.identity)
