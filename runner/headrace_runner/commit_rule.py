"""The commit rule as a pure table: what each answer of the API server means for a result in hand.

A refusal alone never says that a result is lost (422 is also a schema error): the object is read again, and the result
is dropped only if an outcome is set, the uid differs, the object is gone or the attempt moved on. A 403 says it neither
(rights may be on their way), except where the admission policy says that the task is another runner's.
"""

from enum import Enum, auto
from typing import Any, Final

from headrace_runner.kube import Answer

_NO_ANSWER: Final = frozenset({0, 401, 429})
_TOO_LARGE: Final = ("request is too large", "message larger than max", "Request entity too large")
_POLICY: Final = "ValidatingAdmissionPolicy"
_NOT_ASSIGNED: Final = (
    "only the operator and the runner that the task is assigned to",
    "only the operator and the assigned",
)
"""The words of the chart's policy ``task-status``; they quote nothing that a task's author wrote."""


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
    """No right: wait for it, then commit again."""
    NOT_ASSIGNED = auto()
    """Another runner's task by now: drop."""


def after_commit(answer: Answer) -> Next:
    """The next step after a commit was sent."""
    if answer.status in range(200, 300):
        return Next.COMMITTED
    if answer.status == 413 or (answer.status >= 500 and any(word in answer.message for word in _TOO_LARGE)):
        return Next.SHRINK
    if answer.status == 403:
        return _of_refusal(answer)
    if answer.status in _NO_ANSWER or answer.status >= 500:
        return Next.WAIT
    return Next.READ


def after_read(answer: Answer, *, number: int, ours: dict[str, Any]) -> Next:
    """The next step after a patch that only tests the uid; on success its answer is the object.

    ``number`` is the attempt's, ``ours`` the status that its commit writes.
    """
    match answer.status:
        case 404 | 422:
            return Next.FINISHED
        case 403:
            return _of_refusal(answer)
        case 200 if answer.body is not None:
            return _of_object(answer.body.get("status") or {}, number=number, ours=ours)
    return Next.WAIT


def _of_object(status: dict[str, Any], *, number: int, ours: dict[str, Any]) -> Next:
    if status.get("outcome"):
        # The answer to a commit that did arrive may have been lost.
        same = status.get("attempt") == number and _identity(status) == _identity(ours)
        return Next.COMMITTED if same else Next.FINISHED
    return Next.AGAIN if status.get("attempt") == number else Next.MOVED


def _of_refusal(answer: Answer) -> Next:
    if _POLICY in answer.message and any(words in answer.message for words in _NOT_ASSIGNED):
        return Next.NOT_ASSIGNED
    return Next.FORBIDDEN


def _identity(status: dict[str, Any]) -> tuple[Any, ...]:
    """What two commits never share unless they are the same one."""
    last = (status.get("attempts") or [{}])[-1]
    return (
        *(status.get(member) for member in ("outcome", "reason", "completionTime")),
        *(last.get(member) for member in ("number", "pod", "startTime")),
        (status.get("result") or {}).get("sha256"),
    )
