"""What calls hold of this replica, for all and for each identity: pure accounting."""

from collections import Counter
from typing import Final

from headrace_facade.calls.failures import TooManyCalls

CALLS_SHARE: Final = 2
BYTES_SHARE: Final = 4
"""One identity has at most a half of the calls, and a quarter of the bytes."""


class Held:
    """Prompts on their way, and answers until they are sent."""

    def __init__(self, calls_limit: int, bytes_limit: int) -> None:
        self._calls_limit = calls_limit
        self._bytes_limit = bytes_limit
        self._calls: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()

    def enter(self, identity: str) -> None:
        """One call more. Raises TooManyCalls."""
        if self._calls.total() >= self._calls_limit:
            raise TooManyCalls(f"this replica has {self._calls_limit} calls under way: try again", 1)
        if self._calls[identity] >= max(1, self._calls_limit // CALLS_SHARE):
            raise TooManyCalls(f"you have {self._calls[identity]} calls under way on this replica: wait for some", 1)
        self._calls[identity] += 1

    def take(self, identity: str, size_bytes: int) -> None:
        """So many bytes more, of one that has entered. Raises TooManyCalls."""
        if self._bytes.total() + size_bytes > self._bytes_limit:
            raise TooManyCalls("this replica holds as much of calls as it may: try again", 1)
        if self._bytes[identity] + size_bytes > self._bytes_limit // BYTES_SHARE:
            raise TooManyCalls("your calls on this replica hold as much as they may: wait for some", 1)
        self._bytes[identity] += size_bytes

    def leave(self, identity: str, size_bytes: int) -> None:
        """One call less, with all that it took."""
        self._calls[identity] -= 1
        self._bytes[identity] -= size_bytes
        if not self._calls[identity]:
            # Counters keep what is zero.
            del self._calls[identity]
            del self._bytes[identity]
