"""What a model's gate says of itself; it goes into the runner's report."""

from dataclasses import dataclass
from enum import StrEnum


class Breaker(StrEnum):
    CLOSED = "Closed"
    HALF_OPEN = "HalfOpen"
    """One call goes through, to see."""
    OPEN = "Open"


@dataclass(frozen=True, slots=True)
class GateState:
    """``reason`` and ``message`` say why nothing is called at present, empty while calls are let through.

    ``retry_in_seconds`` from now on they are again; None where that is not known or nothing stops them.
    ``concurrency``: so many calls at a time, over all pods of the model; None where nothing bounds them but the
    runner's own slots.
    """

    breaker: Breaker = Breaker.CLOSED
    reason: str = ""
    message: str = ""
    retry_in_seconds: float | None = None
    concurrency: int | None = None
