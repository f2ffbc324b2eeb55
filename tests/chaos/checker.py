"""What the promise forbids, looked for in what was seen from outside. Pure: no clock, no I/O, nothing of the product.

| kind           | what happened                                                                                       |
|----------------|----------------------------------------------------------------------------------------------------|
| lost           | an accepted task that nobody withdrew has no outcome at the end, or is gone                         |
| double         | an outcome or what was recorded with it changed, or went away; a second object of one submission    |
| stale          | an outcome of another attempt than the object says, or an attempt that went back                    |
| foreign        | a result that belongs to another task, or comes from another's prompt                               |
| unbacked       | a result that no engine has brought to an end                                                       |
| twice          | two executions of one attempt, where no fault can have made Redis forget a claim                    |
| overlap        | an execution that went on for longer than a lease although another of the task had begun            |
| overcharged    | more failures than backoffLimit allows (a flush costs one), or retries that no lost worker explains |
| unjust         | Failed, although too few executions failed or broke; Cancelled, although nobody asked               |
| uncancelled    | an execution that went on long after the object said `cancel`                                       |
| ghost          | an execution that went on long after its task was deleted                                           |

What is bounded in time or number has kinds of its own: `limits.py`; so has what is about the model: `moves.py`.
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.chaos import limits, moves
from tests.chaos.journal import Execution
from tests.chaos.judged import Expected, Problem, Rules, Violation
from tests.chaos.recorder import Version

LOST: Final = frozenset({"lost"})
DOUBLE: Final = frozenset({"double"})
STALE: Final = frozenset({"stale", "foreign", "unbacked", "astray"})
LOSSES_LIMIT: Final = 3
CANCEL_SECONDS: Final = 4.0
"""A word takes milliseconds; the rest is for a busy machine."""


@dataclass
class Finding:
    """All violations, and how often something ran more than once. `charged` are retries, `moved` changes of the model,
    which cost none; `by_model` counts executions where it is known who served them.
    """

    violations: list[Violation] = field(default_factory=list)
    executions: int = 0
    duplicates: int = 0
    charged: int = 0
    moved: int = 0
    by_model: Counter[str] = field(default_factory=Counter)

    def count(self, kinds: Iterable[str]) -> int:
        wanted = set(kinds)
        return sum(violation.kind in wanted for violation in self.violations)

    @property
    def others(self) -> int:
        return len(self.violations) - self.count(LOST | DOUBLE | STALE)


def check(
    tasks: Sequence[Expected],
    versions: Mapping[str, Sequence[Version]],
    executions: Iterable[Execution],
    rules: Rules,
) -> Finding:
    """Judge the tasks of one phase. An execution with an end and no ending still ran then."""
    finding = Finding()
    objects: dict[str, set[str]] = defaultdict(set)
    for uid, each in versions.items():
        for version in each:
            if not version.gone:
                objects[version.submission or version.name].add(uid)
    by_uid: dict[str, list[Execution]] = defaultdict(list)
    for execution in executions:
        by_uid[execution.uid].append(execution)
    for task in tasks:
        seen, ran = versions.get(task.uid, ()), by_uid.get(task.uid, [])
        finding.executions += len(ran)
        finding.duplicates += max(0, len(ran) - 1)
        finding.charged += max((version.retries or 0 for version in seen), default=0)
        finding.moved += moves.count(seen)
        finding.by_model.update(execution.model for execution in ran if execution.model)
        problems = [
            *(_lost(task, seen) if rules.settled else ()),
            *_double(seen),
            *_another(task, objects[task.name]),
            *_stale(seen),
            *_result(task, seen, ran),
            *_twice(ran, rules),
            *_overlap(ran, rules),
            *_uncancelled(seen, ran),
            *_charges(task, seen, ran, rules),
            *_ghosts(seen, ran, rules),
            *limits.problems(task, seen, ran, rules),
            *moves.problems(task, seen, ran, rules),
        ]
        finding.violations += [Violation(kind, task.name, detail) for kind, detail in problems]
    finding.violations += _unexplained(tasks, versions, rules)
    finding.violations += limits.over_quota(tasks, versions, by_uid, rules)
    return finding


def _lost(task: Expected, seen: Sequence[Version]) -> Iterable[Problem]:
    if task.withdrawn:
        return
    if not task.uid or not seen:
        yield "lost", "accepted, and no object was ever seen"
    elif seen[-1].gone:
        if task.ttl_seconds is None or all(version.outcome is None for version in seen):
            yield "lost", "gone, and nobody deleted it"
    elif seen[-1].outcome is None:
        yield "lost", f"no outcome: {seen[-1].phase} at attempt {seen[-1].attempt}, {seen[-1].reason}"


def _double(seen: Sequence[Version]) -> Iterable[Problem]:
    final: Version | None = None
    for version in seen:
        if version.gone:
            return
        if final is not None and _recorded(version) != _recorded(final):
            changed = ", ".join(sorted({name for name, _ in set(final.final) ^ set(version.final)}))
            yield (
                "double",
                f"revision {final.revision} says {final.outcome}, {version.revision} {version.outcome}: {changed}",
            )
            return
        if final is None and version.outcome is not None:
            final = version


def _recorded(version: Version) -> tuple[object, ...]:
    return (
        *(version.outcome, version.text, version.completion_time, version.reason, version.attempt, version.retries),
        *(version.phase, version.losses, version.final),
    )


def _another(task: Expected, uids: set[str]) -> Iterable[Problem]:
    """Of what was submitted once there is one object, whoever asked again."""
    if task.uid and (others := uids - {task.uid}):
        yield "double", f"submitted once, and beside {task.uid} there is {', '.join(sorted(others))}"


def _stale(seen: Sequence[Version]) -> Iterable[Problem]:
    attempt = 0
    for version in seen:
        if version.gone:
            return
        if (version.attempt or 0) < attempt:
            yield "stale", f"attempt {version.attempt} after {attempt}"
        attempt = max(attempt, version.attempt or 0)
        if version.outcome is not None and version.record is not None and version.record != version.attempt:
            yield "stale", f"{version.outcome} was recorded for attempt {version.record} at attempt {version.attempt}"
            return


def _result(task: Expected, seen: Sequence[Version], ran: Sequence[Execution]) -> Iterable[Problem]:
    final = next((version for version in seen if version.outcome is not None), None)
    if final is None:
        return
    if final.outcome == "Cancelled" and not task.cancelled:
        yield "unjust", f"Cancelled/{final.reason}, and nobody asked"
    if not final.text:
        if final.outcome == "Complete":
            yield "unbacked", "Complete without a result"
        return
    told = json.loads((final.text or "{}").partition("}")[0] + "}")
    if told.get("uid") != task.uid:
        yield "foreign", f"the result is {told.get('uid')}'s"
    if told.get("name") not in ([told_name for _, told_name in task.inputs] or [task.name]):
        yield "foreign", f"the result is of {told.get('name')}'s prompt"
    if told.get("attempt") != final.attempt:
        yield "stale", f"the result of attempt {told.get('attempt')} at attempt {final.attempt}"
    endings = ("end",) if final.outcome == "Complete" else ("end", "abort")
    if not any(each.name == told.get("execution") and each.ending in endings for each in ran):
        yield "unbacked", f"no engine ended {told.get('execution')}"


def _twice(ran: Sequence[Execution], rules: Rules) -> Iterable[Problem]:
    by_attempt: dict[int, list[Execution]] = defaultdict(list)
    for execution in ran:
        by_attempt[execution.attempt].append(execution)
    for attempt, same in by_attempt.items():
        if len(same) < 2:
            continue
        if not rules.forgets and (times := len(same) - _resumed(same)) > 1:
            yield "twice", f"attempt {attempt} ran {times} times"
        latest = max(same, key=lambda each: each.began)
        for execution in same:
            beyond = (execution.ended or 0.0) - latest.began
            if execution is not latest and execution.ending == "end" and beyond > rules.lease_seconds:
                yield "overlap", f"attempt {attempt} went on for {beyond:.1f} s beside its successor"


def _resumed(same: Sequence[Execution]) -> int:
    """How many died with their engine, and were begun again by the runner that still held the attempt. A pod has one
    engine at a time: only where another process runs there is the one before known to be dead.
    """
    return sum(each.ending is None and any(_replaced(each, later) for later in same) for each in same)


def _replaced(each: Execution, later: Execution) -> bool:
    return later.pod == each.pod and later.pid != each.pid and later.began > each.began


def _overlap(ran: Sequence[Execution], rules: Rules) -> Iterable[Problem]:
    """Whatever its ending: who lost the task may take as long as a lost worker costs to stop."""
    for execution in ran:
        later = [each for each in ran if each.began > execution.began and each.attempt >= execution.attempt]
        if not later or execution.ended is None:
            continue
        successor = min(later, key=lambda each: each.began)
        beyond = execution.ended - successor.began
        if beyond > rules.recovery_seconds:
            yield (
                "overlap",
                f"attempt {execution.attempt} went on for {beyond:.1f} s beside attempt {successor.attempt}",
            )


def _uncancelled(seen: Sequence[Version], ran: Sequence[Execution]) -> Iterable[Problem]:
    asked = next((version for version in seen if version.cancel), None)
    if asked is None or asked.outcome is not None:
        return
    beyond = max((each.ended for each in ran if each.ended is not None), default=0.0) - asked.at
    if beyond > CANCEL_SECONDS:
        yield "uncancelled", f"ran for {beyond:.1f} s after the object said so"


def _unexplained(
    tasks: Sequence[Expected], versions: Mapping[str, Sequence[Version]], rules: Rules
) -> Iterable[Violation]:
    """Retries of scripts that do not fail: each is a loss, and each loss is that of a worker who died; or a failing
    provider's, which is bounded altogether.
    """
    charged = failed = 0
    for task in tasks:
        latest = next((each for each in reversed(versions.get(task.uid, ())) if not each.gone), None)
        if latest is None or task.ending != "text" or task.attempt_timeout_seconds is not None:
            continue
        retries, losses = latest.retries or 0, latest.losses or 0
        charged += retries
        failed += max(0, retries - losses)
        if retries > losses and not rules.faults:
            yield Violation("overcharged", task.name, f"retries {retries}, and {losses} of its workers died")
        elif rules.deaths is not None and retries > rules.deaths:
            yield Violation("overcharged", task.name, f"retries {retries}, and {rules.deaths} workers died altogether")
    if failed > rules.faults > 0:
        yield Violation("overcharged", "all", f"retries {failed} that no loss explains, {rules.faults} may be")
    if rules.deaths is not None and charged > rules.deaths * rules.parallelism:
        yield Violation("overcharged", "all", f"retries {charged}, and {rules.deaths} × {rules.parallelism} ran there")


def _charges(task: Expected, seen: Sequence[Version], ran: Sequence[Execution], rules: Rules) -> Iterable[Problem]:
    if not seen:
        return
    limit = seen[0].backoff_limit
    # Found out by halves among those who ran beside it, the first time; then it is always alone.
    most = LOSSES_LIMIT + math.ceil(math.log2(rules.parallelism)) + rules.flushes
    if task.ending == "crash" and len(ran) > most:
        yield "overcharged", f"{len(ran)} engines died of it, {most} should have at most"
    failed = sum(execution.ending == "fail" for execution in ran)
    if failed > limit + 1 + rules.flushes:
        yield "overcharged", f"failed {failed} times at backoffLimit {limit} and {rules.flushes} flushes"
    final = next((version for version in seen if version.outcome == "Failed"), None)
    if final is None:
        return
    # One may have been lost with an engine that died before it read what it was asked.
    due = {"fail": limit + 1, "crash": min(limit + 1, LOSSES_LIMIT)}.get(task.ending, 0)
    if len(ran) + 1 < due:
        yield "unjust", f"Failed/{final.reason} after {len(ran)} executions of {due}"
    if task.ending != "text" or limits.bears(task, final.reason):
        return
    broken = sum(execution.ending in (None, "abort") for execution in ran)
    if rules.deaths is not None:
        broken = min(broken, rules.deaths)  # an abort was somebody's wish
    # One may have been lost with an engine that died before it read what it was asked.
    if final.reason not in ("BackoffLimitExceeded", "Poison") or broken + 1 < min(limit + 1, LOSSES_LIMIT):
        yield "unjust", f"Failed/{final.reason} after {broken} broken executions"


def _ghosts(seen: Sequence[Version], ran: Sequence[Execution], rules: Rules) -> Iterable[Problem]:
    gone = next((version for version in seen if version.gone), None)
    if gone is None:
        return
    latest = max((each.began if each.ended is None else each.ended for each in ran), default=0.0)
    if latest - gone.at > rules.recovery_seconds:
        yield "ghost", f"ran {latest - gone.at:.1f} s after its task was deleted"
