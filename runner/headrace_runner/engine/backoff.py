"""How long the supervisor waits before it starts the engine again."""

from typing import Final

FIRST_SECONDS: Final = 1.0
LAST_SECONDS: Final = 300.0
SERVED_LAST_SECONDS: Final = 2.0
"""After an engine that served. Its tasks wait: whose generation it was that ended it is found out by trying them."""
STABLE_SECONDS: Final = 60.0


class Backoff:
    """Doubles from one second to five minutes where engines do not come to serve, to two seconds where they do.

    An engine that served for a minute starts from one second again.
    """

    def __init__(self) -> None:
        self._next_seconds = FIRST_SECONDS

    def next_seconds(self, served_seconds: float) -> float:
        """Give the seconds to wait after an engine that served for ``served_seconds`` (0: never) ended."""
        if served_seconds >= STABLE_SECONDS:
            self._next_seconds = FIRST_SECONDS
        longest = SERVED_LAST_SECONDS if served_seconds > 0 else LAST_SECONDS
        delay = min(self._next_seconds, longest)
        self._next_seconds = min(2 * delay, longest)
        return delay
