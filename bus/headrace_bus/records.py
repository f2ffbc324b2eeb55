"""What the bus tells about its entries: values without behaviour.

    enqueue ──► QUEUED ──claim──► LEASED ──complete──► gone (its attempt is remembered)
       │          ▲                  │
       └► DELAYED ┘ due              ├─ fail ────────► RETURNED(FAILED)
                                     ├─ park ────────► RETURNED(PARKED)
                                     ├─ release ─────► RETURNED(RELEASED)
                                     └─ lease ran out ► RETURNED(LEASE_EXPIRED)

A RETURNED entry waits for the operator, who reads the object and enqueues a later attempt or removes it.
`remove` leads from every state to gone, `withdraw` from every one but LEASED and RETURNED(PARKED),
and from one of these where the caller has seen it there.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from headrace_bus.envelope import Envelope
from headrace_crds.cost import Spend


class EnqueueOutcome(StrEnum):
    """What `enqueue` found."""

    ENQUEUED = "Enqueued"
    DUPLICATE = "Duplicate"
    """The same attempt is there already, in whatever state; while it waits it takes over a changed priority."""
    SUPERSEDED = "Superseded"
    """The copy of an earlier attempt was replaced; a lease on it is lost."""
    STALE = "Stale"
    """A later attempt is there, or this one was completed a short while ago: nothing was done."""


class EntryState(StrEnum):
    """Where an entry stands."""

    QUEUED = "Queued"
    DELAYED = "Delayed"
    LEASED = "Leased"
    RETURNED = "Returned"


class ReturnReason(StrEnum):
    """Why a delivery came back instead of being completed."""

    LEASE_EXPIRED = "LeaseExpired"
    FAILED = "Failed"
    RELEASED = "Released"
    PARKED = "Parked"
    """With a result too large for the runner to commit; `Bus.parked` reads it."""


class Interruption(StrEnum):
    """What the operator tells the holder of a lease."""

    CANCEL = "Cancel"
    """Abort and commit as cancelled what there is."""
    SUSPEND = "Suspend"
    """Abort and release."""
    DROP = "Drop"
    """Abort and tell nobody: the entry is gone."""


@dataclass(frozen=True)
class LeaseToken:
    """Proof of one delivery: a later attempt, a later claim, an expiry or a removal makes it worthless."""

    uid: str
    attempt: int
    nonce: str


@dataclass(frozen=True)
class Delivery:
    """One claimed envelope; times are the server's."""

    envelope: Envelope
    token: LeaseToken
    claimed_ms: int
    enqueued_ms: int
    lease_until_ms: int


@dataclass(frozen=True)
class Failure:
    """Why an attempt failed: `reason` is a PascalCase word people can act on."""

    reason: str
    message: str
    retryable: bool = True
    spent: Spend | None = None
    """What it took all the same, as far as the runner knows; None: nothing."""


@dataclass(frozen=True)
class Interrupt:
    """A word to the holder of a lease. Who holds the uid by another nonce is not meant: that word came late."""

    uid: str
    attempt: int
    word: Interruption
    nonce: str = field(default="", compare=False)
    """Of the lease that was interrupted."""


@dataclass(frozen=True)
class Returned:
    """A delivery that came back. `failure` is the runner's word: for RELEASED its reason with an empty message, for
    PARKED and LEASE_EXPIRED None.
    """

    uid: str
    attempt: int
    namespace: str
    name: str
    reason: ReturnReason
    worker: str
    claimed_ms: int
    returned_ms: int
    failure: Failure | None


@dataclass(frozen=True)
class Entry:
    """What the bus holds under a uid; `worker` only while LEASED, `returned` only while RETURNED."""

    uid: str
    attempt: int
    state: EntryState
    namespace: str
    name: str
    since_ms: int
    worker: str | None
    returned: Returned | None


@dataclass(frozen=True)
class Stats:
    """Counts of a model's entries. `by_namespace` counts the queued ones of the first 1,000 namespaces."""

    queued: int
    delayed: int
    leased: int
    returned: int
    oldest_queued_ms: int | None
    """Server time at which the entry that is queued for the longest was queued."""
    by_namespace: dict[str, int] = field(default_factory=dict)
    mean_service_ms: float | None = None
    """From claim to result; the last ten or so count most. None before the first."""
    queued_calls: int = 0
    """Of the queued ones those of class Call, of the first 1,000 namespaces."""


@dataclass(frozen=True)
class UidState:
    """What a page of uids tells of an entry."""

    attempt: int
    state: EntryState


@dataclass(frozen=True)
class UidPage:
    """A part of all entries by uid. `cursor` 0 says that the scan is complete; an entry may come twice."""

    cursor: int
    entries: dict[str, UidState]

    @property
    def attempts(self) -> dict[str, int]:
        """uid → attempt."""
        return {uid: entry.attempt for uid, entry in self.entries.items()}


@dataclass(frozen=True)
class ServerState:
    """`run_id` changes when the server restarts: grants are lost then, and so is whatever was not on disk."""

    run_id: str
    version: str
    maxmemory_policy: str
    maxmemory_bytes: int
    used_memory_bytes: int
