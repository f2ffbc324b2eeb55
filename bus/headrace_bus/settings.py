"""How to reach Redis."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class BusSettings:
    """`url` is redis://, rediss:// or unix://; credentials given here win over those in it."""

    url: str = field(repr=False)
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    connect_timeout_s: float = 3.0
    socket_timeout_s: float = 5.0
    """For one reply. A blocking read has this on top of the time it may block."""
    call_timeout_s: float | None = None
    """For a call that does not block, everything included: connecting, both tries, replies. None leaves
    it at the sum of the parts, which is several times `connect_timeout_s + socket_timeout_s`.
    """
    max_waiters: int = 256
    """Concurrent blocking reads, each on a connection of its own."""
