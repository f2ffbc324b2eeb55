"""What the scripts are given: checked numbers, request ids, tokens and failures as ARGV."""

import json
import secrets
from typing import Final

from headrace_bus.keys import key_part
from headrace_bus.records import Failure, LeaseToken

_MESSAGE_MAX_CHARS: Final = 2_000
_REASON_MAX_CHARS: Final = 128


def request_id() -> str:
    """Under which a transition's reply is kept for whoever did not get it."""
    return secrets.token_hex(16)


def positive(value: int) -> int:
    """`value` when it is above 0. Raises ValueError."""
    if value < 1:
        raise ValueError(f"{value} is not positive")
    return value


def lease_parts(token: LeaseToken) -> tuple[str, int, str]:
    """uid, attempt, nonce. Raises ValueError."""
    return key_part(token.uid), token.attempt, token.nonce


def failure_json(failure: Failure) -> bytes:
    """A failure as an entry holds it, cut to its bounds."""
    document: dict[str, object] = {
        "reason": failure.reason[:_REASON_MAX_CHARS],
        "message": failure.message[:_MESSAGE_MAX_CHARS],
        "retryable": failure.retryable,
    }
    if failure.spent is not None:
        spent = failure.spent
        document["spent"] = [spent.tokens, spent.cost_micros, spent.currency]
    return json.dumps(document).encode()
