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
    max_connections: int = 16
    """Of the pool for everything that does not block."""
    max_waiters: int = 256
    """Concurrent blocking reads, each on a connection of its own."""
