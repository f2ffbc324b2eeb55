"""When a task ended, as far as that can be believed: the runner that commits the outcome writes completionTime."""

from typing import Final

AHEAD_MS: Final = 3_600_000
"""What clocks that were set back or failed over may differ by. Further ahead is no time that anybody's clock had."""


def ended_ms(completed_ms: int, accepted_ms: int, now_ms: int) -> int:
    """In Redis TIME, not ahead of `now_ms` and not before acceptance (0: unknown).

    An end that lies far ahead counts as the other bound, acceptance: it would else never be over, look after look.
    """
    accepted_ms = accepted_ms if accepted_ms <= now_ms else 0
    if completed_ms > now_ms + AHEAD_MS:
        return accepted_ms
    return max(accepted_ms, min(completed_ms, now_ms))
