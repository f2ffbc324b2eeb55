"""Who comes first: the numbers of the queue's order, which `lua/shared/ring.lua` carries out.

1. Classes: a Call before a Task, but of every `CALLS_PER_TASK + 1` deliveries while both wait, one is a Task.
2. Namespaces of a class: start-time fair queueing (Goyal, Vin, Cheng, SIGCOMM '96) by virtual time,
   `start = max(v, finish of its last delivery)`, `finish = start + cost_tokens / weight`, smallest start first,
   `v` = start of the delivery made last. A namespace that was idle starts at `v`: it banks no credit, and it is served
   after at most one delivery of each other waiting namespace of its class.
3. Within a namespace: the smallest `score` first, equal scores in the order of their enqueueing.

**Starvation bound**: within its namespace and class no entry is overtaken by one whose object was created more than
2,000 s after its own (`STARVATION_BOUND_MS`), whatever the priorities.
"""

from typing import Final

PRIORITY_MIN: Final = -100
PRIORITY_MAX: Final = 100

PRIORITY_AGE_MS: Final = 10_000
"""What one point of priority is worth: it counts like ten more seconds of age."""

STARVATION_BOUND_MS: Final = (PRIORITY_MAX - PRIORITY_MIN) * PRIORITY_AGE_MS
"""2,000,000 ms: an entry created this much later never goes first within a namespace and class."""

CALLS_PER_TASK: Final = 4
"""Calls delivered in a row while a Task waits, before one Task is: Tasks keep a share of 1 in 5."""

WEIGHT_MIN: Final = 0.001
WEIGHT_MAX: Final = 1000
"""A namespace of this weight is served a thousand times as many tokens as one of weight 1."""

COST_TOKENS_MAX: Final = 1_000_000_000
"""Keeps virtual time far below 2^53, where doubles stop counting."""


def score(created_ms: int, priority: int) -> int:
    """The place within a namespace: the creation time, moved ahead by the priority's worth of age (milliseconds)."""
    return created_ms - priority * PRIORITY_AGE_MS
