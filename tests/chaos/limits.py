"""What is bounded: deadlines, what is kept after the end, quotas, inputs that change. Pure, as the checker is.

| kind      | what happened                                                                                            |
|-----------|----------------------------------------------------------------------------------------------------------|
| early     | a deadline ended a task, a timeout an attempt, or a TTL took an object, before its time                  |
| overdue   | it did so long after its time, or never, although somebody was there to do it                            |
| misended  | a deadline that the task has not, or one on the queue of a task that had been claimed                    |
| hushed    | an object that went although nobody had taken its webhook                                                |
| overquota | more tasks handed out, or more that ran, at one moment than the namespace's quota grants                 |
| outdated  | an attempt with another input than was there when it was handed out                                      |

Deadlines are counted from `acceptTime`, which the server's clock sets in whole seconds; the recorder's own clock, whose
sight of an object lags its write, may differ by `ROUNDED`.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final

from tests.chaos.journal import Execution
from tests.chaos.judged import Expected, Problem, Rules, Violation
from tests.chaos.recorder import Version

ROUNDED: Final = 1.0
"""Timestamps in an object are whole seconds."""
OVERDUE: Final = 4.0
"""Of a deadline: one second that is left to the task, and the rest for a busy machine."""
KEPT: Final = 10.0
"""Beyond a TTL: a leader lists everything before it takes anything away."""
HOLDER_GRACE: Final = 10.0
"""The operator leaves the end to a runner for so long, also to one that is dead."""
READ_SECONDS: Final = 2.0
"""Between the read of an input and the sight of the object that says it was handed out."""
QUEUE: Final = "QueueDeadlineExceeded"
ACTIVE: Final = "DeadlineExceeded"
HANDED_OUT: Final = ("Queued", "Running")


def bears(task: Expected, reason: str | None) -> bool:
    """The reason is that of a deadline, and is judged here; or the failure is a timeout's."""
    return reason in (QUEUE, ACTIVE) or (
        task.attempt_timeout_seconds is not None and reason in ("BackoffLimitExceeded", "AttemptTimeout")
    )


def problems(task: Expected, seen: Sequence[Version], ran: Sequence[Execution], rules: Rules) -> Iterable[Problem]:
    """Of one task."""
    final = next((version for version in seen if version.outcome is not None), None)
    accepted = next((version for version in seen if version.accept_time), None)
    if final is not None:
        yield from _ended(task, final, accepted, ran)
        yield from _timeouts(task, final, ran)
        yield from _kept(task, seen, final, rules)
    if accepted is not None and not task.withdrawn:
        yield from _overdue(task, accepted, final, ran, rules)
    yield from _inputs(task, seen, final)


def _seconds(text: str | None) -> float | None:
    return None if text is None else datetime.fromisoformat(text).timestamp()


def _ended(task: Expected, final: Version, accepted: Version | None, ran: Sequence[Execution]) -> Iterable[Problem]:
    limit = {QUEUE: task.queue_deadline_seconds, ACTIVE: task.active_deadline_seconds}.get(final.reason or "")
    if final.reason not in (QUEUE, ACTIVE):
        return
    if limit is None or final.outcome != "Failed":
        yield "misended", f"{final.outcome}/{final.reason}, and it has no such deadline"
        return
    if final.reason == QUEUE and ran:
        yield "misended", f"{QUEUE} after {len(ran)} executions"
    began, ended = _seconds(accepted.accept_time if accepted else None), _seconds(final.completion_time)
    if began is None or ended is None or accepted is None:
        yield "misended", f"{final.reason} at no time"
    elif ended - began < limit:
        yield "early", f"{final.reason} {ended - began:.0f} s of {limit} after acceptance, by the server's clock"
    elif final.at - accepted.at < limit - ROUNDED:
        yield "early", f"{final.reason} was seen {final.at - accepted.at:.1f} s of {limit} after acceptance"


def _overdue(
    task: Expected, accepted: Version, final: Version | None, ran: Sequence[Execution], rules: Rules
) -> Iterable[Problem]:
    """Of a clock that never stood still: nobody suspends a task with a deadline here."""
    if (limit := task.active_deadline_seconds) is not None:
        # One that died with its runner is the operator's, after the grace that a holder has.
        grace = HOLDER_GRACE if any(each.ending is None for each in ran) else 0.0
        by = _by(accepted.at + limit, rules) + grace
        if final is None or final.at > by:
            yield "overdue", f"active for longer than {limit} s: {_later(final, accepted.at)}"
    if (limit := task.queue_deadline_seconds) is not None:
        claimed = min((each.began for each in ran), default=None)
        if claimed is None and (
            final is None or (final.reason == QUEUE and final.at > _by(accepted.at + limit, rules))
        ):
            yield "overdue", f"queued for longer than {limit} s: {_later(final, accepted.at)}"
        if claimed is not None and claimed > _by(accepted.at + limit, rules):
            yield "overdue", f"claimed {claimed - accepted.at:.1f} s after acceptance, at a limit of {limit} s"


def _by(due: float, rules: Rules) -> float:
    """When what is due has to be done: at once, or when somebody is there again."""
    until = (end for since, end in rules.outages if since - OVERDUE <= due <= end)
    return max(due, *until, due) + OVERDUE


def _later(final: Version | None, since: float) -> str:
    return "it has not ended" if final is None else f"ended after {final.at - since:.1f} s"


def _timeouts(task: Expected, final: Version, ran: Sequence[Execution]) -> Iterable[Problem]:
    """Aborts of an attempt that has only its timeout to fear."""
    limit = task.attempt_timeout_seconds
    if limit is None:
        return
    for execution in ran:
        lasted = (execution.ended or execution.began) - execution.began
        if lasted > limit + OVERDUE:
            yield "overdue", f"attempt {execution.attempt} ran for {lasted:.1f} s of {limit}"
    last = max(ran, key=lambda each: each.began, default=None)
    if final.reason == "BackoffLimitExceeded" and last is not None and last.ending == "abort":
        lasted = (last.ended or last.began) - last.began
        if lasted < limit - ROUNDED:
            yield "early", f"attempt {last.attempt} was given up after {lasted:.1f} s of {limit}"


def _kept(task: Expected, seen: Sequence[Version], final: Version, rules: Rules) -> Iterable[Problem]:
    limit = task.ttl_seconds
    if limit is None or task.withdrawn:
        return
    gone = next((version for version in seen if version.gone), None)
    told = next((version for version in seen if version.notified), None)
    if gone is not None and gone.at - final.at < limit - ROUNDED:
        yield "early", f"gone {gone.at - final.at:.1f} s of {limit} after its end"
    if gone is not None and task.webhook and told is None:
        yield "hushed", "gone, and nobody had taken its webhook"
    due = max(final.at + limit, told.at if told is not None else 0.0)
    if rules.settled and (gone is None or gone.at > _by(due, rules) - OVERDUE + KEPT):
        yield "overdue", f"kept for {'ever' if gone is None else f'{gone.at - final.at:.1f} s'} at a TTL of {limit} s"


def _inputs(task: Expected, seen: Sequence[Version], final: Version | None) -> Iterable[Problem]:
    """The input is read when an attempt is handed out: which it was is told by the result's `name`."""
    if not task.inputs:
        return
    first = task.inputs[0][0]
    handed = next((version for version in seen if version.phase in HANDED_OUT), None)
    if handed is not None and handed.at < first - READ_SECONDS:
        yield "outdated", f"handed out {first - handed.at:.1f} s before there was an input"
    if final is None or not final.text:
        return
    told = next((name for _, name in task.inputs if f'"name": "{name}"' in final.text), None)
    out = next((v for v in seen if v.attempt == final.attempt and v.phase in HANDED_OUT), None)
    for (since, name), until in zip(task.inputs, [*(at for at, _ in task.inputs[1:]), float("inf")], strict=True):
        if name == told and out is not None and not since - READ_SECONDS <= out.at <= until + READ_SECONDS:
            yield "outdated", f"attempt {final.attempt} was handed out when its input was not {name}"


def over_quota(
    tasks: Sequence[Expected],
    versions: Mapping[str, Sequence[Version]],
    executions: Mapping[str, Sequence[Execution]],
    rules: Rules,
) -> Iterable[Violation]:
    """Over every version of every task, in etcd's order; and over what the engines ran."""
    if not rules.quotas:
        return
    ordered = sorted((version for task in tasks for version in versions.get(task.uid, ())), key=lambda v: v.revision)
    out: set[str] = set()
    for version in ordered:
        if version.phase in HANDED_OUT and version.outcome is None and not version.gone:
            out.add(version.uid)
        else:
            out.discard(version.uid)
        if len(out) > _granted(version.at, rules):
            detail = f"revision {version.revision}: {len(out)} handed out of {_granted(version.at, rules)}"
            yield Violation("overquota", version.name, detail)
            return
    ran = [each for task in tasks for each in executions.get(task.uid, ()) if each.ended is not None]
    for execution in ran:
        beside = {each.uid for each in ran if each.began <= execution.began < (each.ended or 0.0)}
        if len(beside) > _granted(execution.began, rules):
            yield Violation("overquota", execution.name, f"{len(beside)} ran of {_granted(execution.began, rules)}")
            return


def _granted(at: float, rules: Rules) -> float:
    return next((bound for since, bound in reversed(rules.quotas) if at >= since), float("inf"))
