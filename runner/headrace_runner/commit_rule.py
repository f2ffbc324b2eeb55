"""The commit rule as a pure table: what each answer of the API server means for a result in hand.

A refusal alone never says that a result is lost (422 is also a schema error): the object is read again, and the result
is dropped only if an outcome is set, the uid differs, the object is gone or the attempt moved on.
"""

from enum import Enum, auto
from typing import Any, Final

from headrace_runner.kube import Answer

_NO_ANSWER: Final = frozenset({0, 401, 429})
_TOO_LARGE: Final = ("request is too large", "message larger than max", "Request entity too large")


class Next(Enum):
    """What to do after an answer."""

    COMMITTED = auto()
    """The outcome in the object is this attempt's."""
    READ = auto()
    """Refused: read the object again."""
    WAIT = auto()
    """The API server is away or busy: wait, then read the object again."""
    SHRINK = auto()
    """Too large for etcd: commit an outcome without the result."""
    AGAIN = auto()
    """The object still waits for this attempt: commit again."""
    FINISHED = auto()
    """Gone, replaced or finished by somebody else: drop, nothing is left to do."""
    MOVED = auto()
    """Another attempt is under way: drop."""
    FORBIDDEN = auto()
    """Not this runner's task any more."""


def after_commit(answer: Answer) -> Next:
    """The next step after a commit was sent."""
    if answer.status in range(200, 300):
        return Next.COMMITTED
    if answer.status == 413 or (answer.status >= 500 and any(word in answer.message for word in _TOO_LARGE)):
        return Next.SHRINK
    if answer.status in _NO_ANSWER or answer.status >= 500:
        return Next.WAIT
    return Next.READ


def after_read(answer: Answer, *, number: int, pod: str) -> Next:
    """The next step after a patch that only tests the uid; on success its answer is the object."""
    match answer.status:
        case 404 | 422:
            return Next.FINISHED
        case 403:
            return Next.FORBIDDEN
        case 200 if answer.body is not None:
            return _of_object(answer.body.get("status") or {}, number=number, pod=pod)
    return Next.WAIT


def _of_object(status: dict[str, Any], *, number: int, pod: str) -> Next:
    if status.get("outcome"):
        last = (status.get("attempts") or [{}])[-1]
        # The answer to a commit that did arrive may have been lost.
        ours = status.get("attempt") == number and (last.get("number"), last.get("pod")) == (number, pod)
        return Next.COMMITTED if ours else Next.FINISHED
    return Next.AGAIN if status.get("attempt") == number else Next.MOVED
