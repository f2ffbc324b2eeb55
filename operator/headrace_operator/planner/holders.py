"""Replicas that may have to make room, and which of them would."""

from collections.abc import Iterable, Set
from dataclasses import dataclass, field
from enum import Enum
from math import inf
from typing import Final

from headrace_operator.planner.claims import Load, Tier, turn_ms
from headrace_operator.planner.facts import GpuNeed, ModelFacts, Policy, Replica, ReplicaState
from headrace_operator.planner.packing import Room
from headrace_operator.planner.wanted import start_ms

STUCK_STARTS: Final = 4.0
"""A replica that has not begun to serve after so many times its start gives way like one that serves."""
_CLEARED_AT: Final = 32
"""So many that have gone are looked at again by everybody who asks later."""


@dataclass(frozen=True, slots=True, order=True)
class Holder:
    """A replica on its GPUs. The smallest goes first: what claims least, of equals what was used least lately."""

    tier: Tier
    claim: float
    last_work_ms: int
    since_ms: int
    ref: str
    pod: str
    node: str = field(compare=False)
    count: int = field(compare=False)
    free_at_ms: float = field(compare=False)
    """When it has served its residency: it need not leave sooner."""
    turn_at_ms: float = field(compare=False)
    """The same where somebody starves and it has a backlog."""
    calls_at_ms: float = field(compare=False)
    """The same where calls ask for its place."""


def holders(
    model: ModelFacts, placed: list[Replica], may_go: int, load: Load, now_ms: int, policy: Policy
) -> Iterable[Holder]:
    """Of `placed` (in the order in which they go) so many as `may_go`; each claims as much as the share of the work
    that it has once those before it are gone.
    """
    work, residency, need = load.waiting + load.in_flight, policy.residency_seconds * 1000, model.gpu
    assert need is not None  # noqa: S101
    for index, replica in enumerate(placed[:may_go]):
        last = index == len(placed) - 1
        free_at = turn_at = calls_at = now_ms + 0.0
        if work and replica.state is ReplicaState.STARTING:
            promised = max(now_ms + 1.0, replica.since_ms + start_ms(model)) + residency
            # One that does not get up holds its place no longer than that.
            free_at = turn_at = calls_at = min(promised, replica.since_ms + STUCK_STARTS * start_ms(model) + residency)
        elif load.waiting or replica.busy:
            free_at = turn_at = replica.since_ms + residency
            if load.waiting:
                turn_at = replica.since_ms + turn_ms(model, policy)
            calls_at = free_at if load.calls else min(free_at, replica.since_ms + policy.call_residency_seconds * 1000)
        yield Holder(
            tier=Tier.STARVING if last and load.starving else Tier.CALLS if load.calls else Tier.TASKS,
            claim=load.holds(len(placed) - index) if work else 0.0,
            last_work_ms=model.last_work_ms,
            since_ms=replica.since_ms,
            ref=model.ref,
            pod=replica.pod,
            node=replica.node,
            count=need.count,
            free_at_ms=free_at,
            turn_at_ms=turn_at,
            calls_at_ms=calls_at,
        )


class Against(Enum):
    """Which of a holder's times counts."""

    CLAIM = "free_at_ms"
    TURN = "turn_at_ms"
    CALLS = "calls_at_ms"


@dataclass(frozen=True, slots=True)
class Ask:
    """Who asks for a place."""

    ref: str
    need: GpuNeed
    tier: Tier
    claim: float
    against: Against


class Holders:
    """All holders of GPUs of one resource, until they have gone."""

    def __init__(self, everybody: Iterable[Holder], now_ms: int, policy: Policy) -> None:
        self._gain = policy.swap_gain
        self._now_ms = now_ms
        self._all = sorted(everybody)
        self._ready = {
            Against.CLAIM: [holder for holder in self._all if holder.free_at_ms <= now_ms],
            Against.TURN: [holder for holder in self._all if holder.turn_at_ms <= now_ms],
            Against.CALLS: [holder for holder in self._all if holder.calls_at_ms <= now_ms],
        }
        self._gone: set[tuple[str, str]] = set()
        self._since_cleared = 0
        self.next_ms = min((h.free_at_ms for h in self._all if h.free_at_ms > now_ms), default=None)
        """When the next of them has served its residency."""

    def making_room(self, ask: Ask, room: Room, closed: Set[str]) -> list[Holder]:
        """Those on one node that give way, the fewest and least; none where it must wait. They are gone then."""
        by_node: dict[str, list[Holder]] = {}
        for holder in self._ready[ask.against]:
            if not self._gives_way(holder, ask):
                return []
            if holder.ref == ask.ref or holder.node in closed or holder.node not in ask.need.nodes:
                continue
            if (holder.ref, holder.pod) in self._gone:
                continue
            there = by_node.setdefault(holder.node, [])
            there.append(holder)
            if (spare := room.soon(ask.need, holder.node) + sum(each.count for each in there) - ask.need.count) >= 0:
                return self._leave(there, spare)
        return []

    def opens_first(self, ask: Ask, room: Room, closed: Set[str]) -> str | None:
        """The node on which enough of them have served their residency first, whatever they claim."""
        found: tuple[float, str] = (inf, "")
        by_node: dict[str, list[Holder]] = {}
        for holder in self._all:
            if (
                holder.node in ask.need.nodes
                and holder.node not in closed
                and (holder.ref, holder.pod) not in self._gone
            ):
                by_node.setdefault(holder.node, []).append(holder)
        for node, there in sorted(by_node.items()):
            free = room.soon(ask.need, node)
            for holder in sorted(there, key=lambda each: each.turn_at_ms):
                free += holder.count
                if free >= ask.need.count:
                    found = min(found, (holder.turn_at_ms, node))
                    break
        return found[1] or None

    def _gives_way(self, holder: Holder, ask: Ask) -> bool:
        if ask.tier is not holder.tier:
            return ask.tier > holder.tier
        return ask.tier is Tier.STARVING or ask.claim > self._gain * holder.claim

    def _leave(self, there: list[Holder], spare: int) -> list[Holder]:
        """Of those that would do, without the strongest that need not."""
        leaving = []
        for holder in reversed(there):
            if holder.count <= spare:
                spare -= holder.count
            else:
                leaving.append(holder)
                self._gone.add((holder.ref, holder.pod))
        self._since_cleared += len(leaving)
        if self._since_cleared > _CLEARED_AT:
            self._since_cleared = 0
            for against, ready in self._ready.items():
                self._ready[against] = [holder for holder in ready if (holder.ref, holder.pod) not in self._gone]
        return leaving
