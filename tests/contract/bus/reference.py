"""The bus in plain Python, without a clock: what `test_bus_machine` holds the Lua transitions against."""

from dataclasses import dataclass, field

from headrace_bus import (
    CALLS_PER_TASK,
    EnqueueOutcome,
    EntryState,
    Envelope,
    Interrupt,
    Interruption,
    LeaseToken,
    ReturnReason,
    WorkClass,
)
from headrace_bus.order import score


@dataclass
class Held:
    envelope: Envelope
    state: EntryState
    sequence: int = 0
    nonce: str | None = None
    due: bool = False
    """Of a lease or a delay: its time has come."""
    reason: ReturnReason | None = None

    @property
    def place(self) -> tuple[int, int]:
        return score(self.envelope.created_ms, self.envelope.priority), self.sequence


@dataclass
class Ring:
    """One class: virtual start time of every waiting namespace, next start of idle ones."""

    virtual_time: float = 0
    start: dict[str, float] = field(default_factory=dict)
    finish: dict[str, float] = field(default_factory=dict)

    def enter(self, namespace: str) -> None:
        if namespace not in self.start:
            self.start[namespace] = max(self.virtual_time, self.finish.pop(namespace, 0))

    def leave(self, namespace: str, start: float) -> None:
        del self.start[namespace]
        if not self.start:
            self.virtual_time = 0
            self.finish.clear()
        elif start > self.virtual_time:
            self.finish[namespace] = start


@dataclass
class Reference:
    held: dict[str, Held] = field(default_factory=dict)
    completed: dict[str, int] = field(default_factory=dict)
    rings: dict[WorkClass, Ring] = field(default_factory=lambda: {kind: Ring() for kind in WorkClass})
    weights: dict[str, float] = field(default_factory=dict)
    told: list[Interrupt] = field(default_factory=list)
    """What stands in the inbox of the one worker, the latest last."""
    calls_in_a_row: int = 0
    sequence: int = 0

    def in_state(self, state: EntryState) -> list[Held]:
        return [each for each in self.held.values() if each.state is state]

    def queue(self, kind: WorkClass, namespace: str) -> list[Held]:
        """In the order of delivery."""
        waiting = (
            each
            for each in self.in_state(EntryState.QUEUED)
            if each.envelope.kind is kind and each.envelope.namespace == namespace
        )
        return sorted(waiting, key=lambda each: each.place)

    def enqueue(self, envelope: Envelope, *, delayed: bool) -> EnqueueOutcome:
        present = self.held.get(envelope.uid)
        if present is not None and present.envelope.attempt == envelope.attempt:
            self._reorder(present, envelope)
            return EnqueueOutcome.DUPLICATE
        if present is not None and present.envelope.attempt > envelope.attempt:
            return EnqueueOutcome.STALE
        if self.completed.get(envelope.uid, 0) >= envelope.attempt:
            return EnqueueOutcome.STALE
        if present is not None:
            self.interrupt(envelope.uid, Interruption.DROP)
            self._detach(present)
        entry = Held(envelope, EntryState.DELAYED)
        self.held[envelope.uid] = entry
        if not delayed:
            self._push(entry)
        return EnqueueOutcome.ENQUEUED if present is None else EnqueueOutcome.SUPERSEDED

    def _reorder(self, present: Held, envelope: Envelope) -> None:
        waits = present.state in (EntryState.QUEUED, EntryState.DELAYED)
        if waits and present.envelope.priority != envelope.priority:
            present.envelope = envelope

    def _push(self, entry: Held) -> None:
        self.sequence += 1
        entry.state, entry.sequence, entry.due = EntryState.QUEUED, self.sequence, False
        self.rings[entry.envelope.kind].enter(entry.envelope.namespace)

    def _detach(self, entry: Held) -> None:
        was, kind, namespace = entry.state, entry.envelope.kind, entry.envelope.namespace
        del self.held[entry.envelope.uid]
        if was is EntryState.QUEUED and not self.queue(kind, namespace):
            self.rings[kind].leave(namespace, self.rings[kind].start[namespace])

    def _forget_when_empty(self) -> None:
        if not self.held:
            self.calls_in_a_row = 0

    def sweep(self, limit: int) -> int:
        moved = 0
        for state in (EntryState.LEASED, EntryState.DELAYED):
            for entry in sorted(self.in_state(state), key=lambda each: each.envelope.uid):
                if entry.due and moved < limit:
                    moved += 1
                    if state is EntryState.LEASED:
                        self._return(entry, ReturnReason.LEASE_EXPIRED)
                    else:
                        self._push(entry)
        return moved

    def claim(self, count: int) -> list[Envelope]:
        """The caller notes the nonce of what it got."""
        self.sweep(100)
        got: list[Envelope] = []
        while len(got) < count and (entry := self._next()) is not None:
            got.append(entry.envelope)
        return got

    def _next(self) -> Held | None:
        waiting = [kind for kind in WorkClass if self.rings[kind].start]
        if not waiting:
            return None
        kind = waiting[0]
        if len(waiting) == 2:
            kind = WorkClass.TASK if self.calls_in_a_row >= CALLS_PER_TASK else WorkClass.CALL
        if kind is WorkClass.TASK:
            self.calls_in_a_row = 0
        elif len(waiting) == 2:
            self.calls_in_a_row += 1
        ring = self.rings[kind]
        start, namespace = min((start, namespace) for namespace, start in ring.start.items())
        entry = self.queue(kind, namespace)[0]
        entry.state, entry.due = EntryState.LEASED, False
        finish = start + max(1, entry.envelope.cost_tokens) / self.weights.get(namespace, 1)
        ring.virtual_time = start
        if self.queue(kind, namespace):
            ring.start[namespace] = finish
        else:
            ring.leave(namespace, finish)
        ring.finish = {each: at for each, at in ring.finish.items() if at > start}
        return entry

    def holder(self, token: LeaseToken) -> Held | None:
        entry = self.held.get(token.uid)
        if entry is None or entry.state is not EntryState.LEASED:
            return None
        return entry if (entry.envelope.attempt, entry.nonce) == (token.attempt, token.nonce) else None

    def renew(self, token: LeaseToken) -> bool:
        entry = self.holder(token)
        if entry is not None:
            entry.due = False
        return entry is not None

    def complete(self, token: LeaseToken) -> bool:
        entry = self.holder(token)
        if entry is not None:
            self._detach(entry)
            self.completed[token.uid] = token.attempt
            self._forget_when_empty()
        return entry is not None

    def hand_back(self, token: LeaseToken, reason: ReturnReason) -> bool:
        entry = self.holder(token)
        if entry is not None:
            self._return(entry, reason)
        return entry is not None

    def _return(self, entry: Held, reason: ReturnReason) -> None:
        entry.state, entry.reason, entry.nonce, entry.due = EntryState.RETURNED, reason, None, False

    def remove(self, uid: str) -> bool:
        entry = self.held.get(uid)
        if entry is not None:
            self.interrupt(uid, Interruption.DROP)
            self._detach(entry)
        had_result = self.completed.pop(uid, None) is not None
        self._forget_when_empty()
        return entry is not None or had_result

    def withdraw(self, uid: str, attempt: int, seen: EntryState | None) -> bool:
        entry = self.held.get(uid)
        if entry is not None:
            present = entry.envelope.attempt
            kept = entry.state is EntryState.LEASED or entry.reason is ReturnReason.PARKED
            if seen is EntryState.LEASED:
                kept = present != attempt or entry.state is not seen
            elif seen is EntryState.RETURNED and present == attempt and entry.state is seen:
                kept = False
            if kept and present >= attempt:
                return False
            self.interrupt(uid, Interruption.DROP)
            self._detach(entry)
        self._forget_when_empty()
        return True

    def interrupt(self, uid: str, word: Interruption) -> bool:
        entry = self.held.get(uid)
        if entry is None or entry.state is not EntryState.LEASED:
            return False
        assert entry.nonce is not None
        told = Interrupt(uid, entry.envelope.attempt, word, entry.nonce)
        self.told = [each for each in self.told if _line(each) != _line(told)] + [told]
        return True


def _line(told: Interrupt) -> tuple[str, int, str, str]:
    return told.uid, told.attempt, told.word, told.nonce
