"""Headrace's bus: everything two of its processes share through Redis.

It is an index over objects that can be rebuilt from them, not a record. `Bus` is the door, `records`
tells the states, `order` the order and its bounds, `errors` what is raised, `lua/` the transitions.

Keys of a model begin with `headrace:{ns/name}:`, one hash tag per model, so that in a Redis Cluster
they share a slot. Times are the server's. What ends with its entries is owned by the operator, which removes entries
whose object is gone and purges deleted models. Scripts get that prefix as KEYS[1] and derive every other key from it.

| key after the prefix | type   | holds                                            | ends                             |
|----------------------|--------|--------------------------------------------------|----------------------------------|
| `index`              | hash   | uid → attempt, every entry                       | with its entries                 |
| `entry:<uid>`        | hash   | attempt, request, state, place, lease, return    | complete, remove, purge          |
|                      |        | of a call its reader, too; it is in no index     | hang_up, its attempt's end       |
| `envelope:<uid>`     | string | the envelope, JSON                               | with the entry, or when returned |
| `queue:<class>:<ns>` | zset   | `<sequence>:<uid>` → score (order.py)            | with its entries                 |
| `ring:<class>`       | zset   | namespace → virtual start time of its head       | with its queues                  |
| `finish:<class>`     | zset   | namespace → next start, while idle and ahead     | when nothing is queued           |
| `clock`              | hash   | virtual time per class; Calls delivered in a row | with the last entry              |
| `seq`                | string | counter that orders equal scores                 | with the last entry              |
| `weights`            | hash   | namespace → weight, 1 where absent               | purge (operator)                 |
| `queued`             | zset   | uid → ms at which it was queued                  | with its entries                 |
| `delayed`            | zset   | uid → ms at which it is due                      | with its entries                 |
| `leases`             | zset   | uid → ms at which the lease ends                 | with its entries                 |
| `pulse`              | hash   | when leases were last served; their grace        | with the last lease, at a reap   |
| `returned`           | zset   | uid → ms at which it came back                   | remove, a later attempt          |
| `parked:<uid>`       | string | payload of an entry that came back as Parked     | with the entry                   |
| `parked`             | zset   | uid → ms at which it was parked, 64 at most      | with its entries                 |
| `inbox:<worker>`     | list   | `<uid> <attempt> <nonce> <word>`, 256 at most    | when read, TTL 60 s              |
| `service`            | hash   | mean_ms from claim to result; count of results   | purge                            |
| `wake`               | list   | one token while work is queued                   | with the queue                   |
| `done:<n>`           | hash   | uid → attempt completed, request; of 10 min      | TTL 20 min                       |
| `result:<uid>`       | string | result JSON of a completed entry, where kept     | TTL of `complete` (1 min)        |
| `results`            | zset   | uid → ms at which its result ends, 256 at most   | TTL of the longest result        |
| `report:<worker>`    | string | a runner's report, JSON                          | TTL of `report`                  |
| `gpus:<worker>`      | string | a runner's GPUs as NVML tells them, JSON         | TTL of `telemetry` (5 s)         |
| `workers`            | zset   | worker → ms at which its report ends             | TTL of the longest report        |
| `tokens:<reader>`    | stream | uid → `<replay id> <id before> <event>`, 512     | TTL 60 s                         |
| `replay:<uid>`       | stream | a call's events, 256 KiB; an id counts its bytes | TTL 10 min                       |
| `waiter:<reader>`    | string | a facade's replica waits for calls of this model | TTL of `call`, `waiting` (10 s)  |
| `gate`               | hash   | a remote model's buckets, AIMD, pause, breaker   | TTL 2 h; purge                   |
| `calls`              | zset   | call → ms at which its lease ends                | settled, lease over; TTL 2 h     |
| `waiting`            | zset   | call that is to be admitted → ms of its end      | admitted; TTL 1 s                |
| `booked`             | hash   | call → `<tokens> <ms at which it was admitted>`  | with the call; TTL 2 h           |
| `requests:<n>`       | hash   | request id → reply, of 30 s; `timed` with a TTL  | TTL 60 s                         |

Outside of every model: the budgets' keys (`budget`), the identities' rates (`rates`), and of facades alone their
sessions (`sessions`) and tickets (`tickets`); `headrace:models`, a set of `ns/name` written by the operator alone; and
the channels `headrace:wake:<ns>/<name>`, which carry empty messages to the operator.
"""

from headrace_bus.acl import FACADE_ACL, OPERATOR_ACL, acl_rules
from headrace_bus.budget import BudgetLedger, Line, NoRoom, Totals
from headrace_bus.bus import PARKED_KEPT, Bus
from headrace_bus.callers import CallBus
from headrace_bus.envelope import ENVELOPE_MAX_BYTES, ENVELOPE_VERSION, Envelope, WorkClass
from headrace_bus.errors import (
    BusCorrupt,
    BusDenied,
    BusError,
    BusMisconfigured,
    BusOutOfMemory,
    BusUnavailable,
    EnvelopeInvalid,
    EnvelopeTooNew,
    PayloadTooLarge,
    TooManyParked,
)
from headrace_bus.gate import Breaker, Call, GateLimits, GateState, Settlement, Turn
from headrace_bus.keys import ModelKey
from headrace_bus.order import CALLS_PER_TASK, PRIORITY_AGE_MS, STARVATION_BOUND_MS
from headrace_bus.rates import RateLedger
from headrace_bus.reader import PARKED_MAX_BYTES, REPORT_MAX_BYTES, RESULT_MAX_BYTES, BusReader
from headrace_bus.records import (
    Delivery,
    EnqueueOutcome,
    Entry,
    EntryState,
    Failure,
    Interrupt,
    Interruption,
    LeaseToken,
    Returned,
    ReturnReason,
    ServerState,
    Stats,
    UidPage,
    UidState,
)
from headrace_bus.sessions import (
    SESSION_BYTES,
    SESSIONS_BYTES,
    SESSIONS_MOST,
    Appended,
    SessionExists,
    SessionFacts,
    SessionLedger,
    SessionsFull,
    SessionText,
)
from headrace_bus.settings import BusSettings
from headrace_bus.tickets import TicketLedger
from headrace_bus.tokens import EVENT_MAX_BYTES, EVENTS_AT_ONCE, FIRST, REPLAY_BYTES, StreamEvent, Token

__all__ = [
    "CALLS_PER_TASK",
    "ENVELOPE_MAX_BYTES",
    "ENVELOPE_VERSION",
    "EVENTS_AT_ONCE",
    "EVENT_MAX_BYTES",
    "FACADE_ACL",
    "FIRST",
    "OPERATOR_ACL",
    "PARKED_KEPT",
    "PARKED_MAX_BYTES",
    "PRIORITY_AGE_MS",
    "REPLAY_BYTES",
    "REPORT_MAX_BYTES",
    "RESULT_MAX_BYTES",
    "SESSIONS_BYTES",
    "SESSIONS_MOST",
    "SESSION_BYTES",
    "STARVATION_BOUND_MS",
    "Appended",
    "Breaker",
    "BudgetLedger",
    "Bus",
    "BusCorrupt",
    "BusDenied",
    "BusError",
    "BusMisconfigured",
    "BusOutOfMemory",
    "BusReader",
    "BusSettings",
    "BusUnavailable",
    "Call",
    "CallBus",
    "Delivery",
    "EnqueueOutcome",
    "Entry",
    "EntryState",
    "Envelope",
    "EnvelopeInvalid",
    "EnvelopeTooNew",
    "Failure",
    "GateLimits",
    "GateState",
    "Interrupt",
    "Interruption",
    "LeaseToken",
    "Line",
    "ModelKey",
    "NoRoom",
    "PayloadTooLarge",
    "RateLedger",
    "ReturnReason",
    "Returned",
    "ServerState",
    "SessionExists",
    "SessionFacts",
    "SessionLedger",
    "SessionText",
    "SessionsFull",
    "Settlement",
    "Stats",
    "StreamEvent",
    "TicketLedger",
    "Token",
    "TooManyParked",
    "Totals",
    "Turn",
    "UidPage",
    "UidState",
    "WorkClass",
    "acl_rules",
]
