"""Who gets GPUs when there may be too few: whose work waits longest is asked first, of equals who claims most. It takes
what is free, else what will be, else the place of those that claim least.

A replica has a place to lose once it has served its residency, or is idle. It loses it to a higher tier, or to a claim
`swap_gain` times its own; among those that starve to whoever was longer without a turn.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Final

from headrace_operator.planner.claims import Load, Tier, load
from headrace_operator.planner.facts import GpuNeed, ModelFacts, NodeFacts, Policy, Replica, ReplicaState
from headrace_operator.planner.holders import Against, Ask, Holder, Holders, holders
from headrace_operator.planner.packing import Room
from headrace_operator.planner.wanted import Want

CLOSED_OF: Final = 4
"""One node of so many may be kept for models that starve and need several GPUs at once."""


@dataclass(slots=True)
class Share:
    """What one model gets of the GPUs."""

    want: Want
    need: GpuNeed
    load: Load
    placed: list[Replica]
    """Those that have a node and stay, in the order in which they would go."""
    pending: list[Replica]
    """Those that have none; so many of them stay as are granted."""
    granted: int = 0
    """Replicas for which GPUs are free."""
    awaited: int = 0
    """Replicas for which GPUs are set aside that others have yet to leave."""
    makes_room: list[tuple[str, str]] = field(default_factory=list)
    """Pods of it that have to go, and for which model."""
    gets_room_of: list[str] = field(default_factory=list)
    """Models that make room for it."""
    exists: bool = True
    """A node could hold a replica."""

    @property
    def has(self) -> int:
        return len(self.placed) + self.granted + self.awaited

    @property
    def floor(self) -> int:
        scaling = self.want.model.scaling
        return scaling.min_replicas if scaling.manual is None else scaling.manual


Rank = tuple[int, int, float, str, int]
"""Smallest first: tier, last turn of those that starve or else age, claim, name; and the replicas that it had then."""


class Sharing:
    """One round: `shares` by model when it has ended. `wants` and `nodes` come in the order of their names."""

    def __init__(self, wants: Sequence[Want], nodes: Sequence[NodeFacts], now_ms: int, policy: Policy) -> None:
        self._now_ms = now_ms
        self._policy = policy
        self._room = Room(nodes)
        self._closed_most = max(1, len(nodes) // CLOSED_OF)
        self.shares: dict[str, Share] = {}
        everybody: dict[str, list[Holder]] = {}
        for want in wants:
            if want.model.gpu is not None:
                share = self._seated(want, want.model.gpu)
                self.shares[want.model.ref] = share
                may_go = max(0, len(share.placed) - share.floor)
                everybody.setdefault(share.need.resource, []).extend(
                    holders(want.model, share.placed, may_go, share.load, now_ms, policy)
                )
        self._holders = {resource: Holders(all_of_it, now_ms, policy) for resource, all_of_it in everybody.items()}
        self._closed: dict[str, set[str]] = {}
        """By resource the nodes that are kept for somebody who starves and needs more of them than are there yet."""
        self._admit_pending()
        self._auction()

    def next_ms(self, resource: str) -> float | None:
        """When the next replica on that resource has served its residency."""
        return self._holders[resource].next_ms if resource in self._holders else None

    def _seated(self, want: Want, need: GpuNeed) -> Share:
        """Its replicas on their nodes; what drains or is surplus frees its GPUs when it has ended."""
        kept = want.kept
        share = Share(
            want=want,
            need=need,
            load=load(want.model, self._policy),
            placed=[replica for replica in kept if replica.node],
            pending=[replica for replica in kept if not replica.node],
            exists=self._room.exists(need),
        )
        for replica in share.placed:
            self._room.hold(need, replica.node)
        for replica in (*want.surplus, *(r for r in want.model.replicas if r.state is ReplicaState.DRAINING)):
            if replica.node:
                self._room.drain(need, replica.node)
        return share

    def _admit_pending(self) -> None:
        """Pods that wait for the scheduler were promised their GPUs: they come first, for as long as a residency."""
        waiting = [(self._rank(share), share) for share in self.shares.values() if share.pending]
        for _, share in sorted(waiting, key=lambda pair: pair[0]):
            patience_ms = self._policy.residency_seconds * 1000
            for replica in share.pending:
                if share.has >= share.floor and self._now_ms - replica.since_ms > patience_ms:
                    continue
                if not self._room.take_now(share.need):
                    break
                share.granted += 1

    def _auction(self) -> None:
        asking = {ref for ref, share in self.shares.items() if share.exists and share.has < share.want.need}
        stopped: set[str] = set()
        heap = [self._rank(self.shares[ref]) for ref in asking]
        heapify(heap)
        while heap:
            rank = heappop(heap)
            share = self.shares[rank[-2]]
            if rank[-1] != share.has:  # It has lost one meanwhile.
                heappush(heap, self._rank(share))
                continue
            asking.discard(rank[-2])
            losers = self._serve(share, rank)
            if losers is None:
                stopped.add(rank[-2])
                continue
            for ref in (rank[-2], *losers):
                each = self.shares[ref]
                if ref not in asking and ref not in stopped and each.exists and each.has < each.want.need:
                    asking.add(ref)
                    heappush(heap, self._rank(each))

    def _serve(self, share: Share, rank: Rank) -> list[str] | None:
        """One more replica for it; the models that make room for that, None where it has to wait."""
        if self._room.take_now(share.need):
            share.granted += 1
            return []
        if self._room.take_soon(share.need):
            share.awaited += 1
            return []
        holding = self._holders.get(share.need.resource)
        if holding is None or not (share.has < share.floor or share.load.worth_a_place(share.has + 1)):
            return None
        ask, closed = self._ask(share, rank), self._closed.setdefault(share.need.resource, set())
        leaving = holding.making_room(ask, self._room, closed)
        if not leaving:
            if ask.tier >= Tier.STARVING and share.need.count > 1 and len(closed) < self._closed_most:
                self._close(share.need, holding.opens_first(ask, self._room, closed))
            return None
        for holder in leaving:
            loser = self.shares[holder.ref]
            loser.placed = [replica for replica in loser.placed if replica.pod != holder.pod]
            loser.makes_room.append((holder.pod, ask.ref))
            share.gets_room_of.append(holder.ref)
            self._room.let_go(loser.need, holder.node)
        self._room.set_aside(share.need, leaving[0].node)
        share.awaited += 1
        return [holder.ref for holder in leaving]

    def _close(self, need: GpuNeed, node: str | None) -> None:
        """Nobody else begins there: else its GPUs would never be free together."""
        if node is not None:
            self._closed[need.resource].add(node)
            self._room.close(need, node)

    def _tier(self, share: Share) -> Tier:
        if share.has < share.floor:
            return Tier.GUARANTEED
        if share.has == 0 and share.load.starving:
            return Tier.STARVING
        return Tier.CALLS if share.load.calls else Tier.TASKS

    def _rank(self, share: Share) -> Rank:
        tier = self._tier(share)
        # A first replica counts with the age of its oldest work, a second one with half of that, and so on.
        turn = -share.load.oldest_seconds * 1000 // (share.has + 1)
        if tier is Tier.STARVING:
            turn = _last_turn_ms(share.want.model, self._now_ms)
        return (-tier, turn, -share.load.asks(share.has + 1), share.want.model.ref, share.has)

    @staticmethod
    def _ask(share: Share, rank: Rank) -> Ask:
        tier, claim = Tier(-rank[0]), -rank[2]
        against = Against.CLAIM
        if tier is Tier.CALLS or (tier is Tier.STARVING and share.load.calls_starve):
            against = Against.CALLS
        elif tier is Tier.STARVING:
            against = Against.TURN
        return Ask(share.want.model.ref, share.need, tier, claim, against)


def _last_turn_ms(model: ModelFacts, now_ms: int) -> int:
    """When it last had a replica that served, as far as anybody knows."""
    turns = [model.served_ms]
    for replica in model.replicas:
        if replica.state is ReplicaState.SERVING:
            turns.append(now_ms)
        elif replica.state is ReplicaState.DRAINING:
            turns.append(replica.since_ms)
    return max(turns)
