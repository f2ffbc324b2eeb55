"""What the promise forbids of a task that goes to another model. Pure, as the checker is.

| kind        | what happened                                                                                          |
|-------------|--------------------------------------------------------------------------------------------------------|
| astray      | an execution on a model that its attempt was not given to, or of an attempt that was moved unclaimed;  |
|             | an attempt that was two models'; a result from another model than the object names                     |
| wandered    | a model that the task's list does not have, or not at that place; a move that no record tells          |
| overcharged | a retry that was charged for a move                                                                    |
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Final

from tests.chaos.journal import Execution
from tests.chaos.judged import Expected, Problem, Rules
from tests.chaos.recorder import Version

MOVED: Final = "FellBack"


def count(seen: Sequence[Version]) -> int:
    """How often the model changed."""
    return len(_changes(seen))


def problems(task: Expected, seen: Sequence[Version], ran: Sequence[Execution], rules: Rules) -> Iterable[Problem]:
    """Of one task."""
    given = _given(seen)
    yield from _shared(given)
    yield from _astray(given, ran)
    yield from _result(seen, ran)
    if not rules.flushes and not rules.forgets:
        yield from _unclaimed(seen, ran)
    yield from _order(task, seen)
    yield from _records(given, seen)


def _given(seen: Sequence[Version]) -> dict[int, set[str]]:
    """Whose each attempt was, by every version of the object."""
    given: dict[int, set[str]] = defaultdict(set)
    for version in seen:
        if version.attempt and version.model and not version.gone:
            given[version.attempt].add(version.model)
    return given


def _changes(seen: Sequence[Version]) -> list[tuple[Version, Version]]:
    """The version before each move, and that of the move."""
    there = [version for version in seen if version.model and not version.gone]
    return [(before, after) for before, after in pairwise(there) if before.model != after.model]


def _shared(given: Mapping[int, set[str]]) -> Iterable[Problem]:
    for attempt, models in given.items():
        if len(models) > 1:
            yield "astray", f"attempt {attempt} was given to {' and '.join(sorted(models))}"


def _astray(given: Mapping[int, set[str]], ran: Sequence[Execution]) -> Iterable[Problem]:
    for execution in ran:
        models = given.get(execution.attempt)
        if execution.model and models and execution.model not in models:
            yield "astray", f"attempt {execution.attempt} of {' and '.join(sorted(models))} ran on {execution.model}"


def _result(seen: Sequence[Version], ran: Sequence[Execution]) -> Iterable[Problem]:
    final = next((version for version in seen if version.outcome is not None), None)
    if final is None or not final.text or not final.model:
        return
    told = json.loads(final.text.partition("}")[0] + "}").get("execution")
    by = next((execution.model for execution in ran if execution.name == told), "")
    if by and by != final.model:
        yield "astray", f"a result of {by} while the task was {final.model}'s"


def _unclaimed(seen: Sequence[Version], ran: Sequence[Execution]) -> Iterable[Problem]:
    """The copy in the queue that was left is taken back before the move, or there is none."""
    records = {record.number: record for version in seen for record in version.records}
    for record in records.values():
        if record.reason == MOVED and not record.claimed and any(each.attempt == record.number for each in ran):
            yield "astray", f"attempt {record.number} ran although it was moved from {record.model} unclaimed"


def _order(task: Expected, seen: Sequence[Version]) -> Iterable[Problem]:
    """Along the list: a model may be passed over, and none is met twice."""
    for before, after in _changes(seen):
        listed = {model: place for place, model in enumerate(task.models)}
        if listed.get(after.model, -1) <= listed.get(before.model, len(listed)):
            yield "wandered", f"from {before.model} to {after.model}, by a list of {', '.join(task.models) or 'none'}"
        left = next((record for record in after.records if record.number == before.attempt), None)
        if left is None or (left.model, left.reason) != (before.model, MOVED):
            yield "wandered", f"from {before.model} to {after.model}, and no record of attempt {before.attempt} says so"
        if (after.retries or 0) > (before.retries or 0):
            yield "overcharged", f"the move from {before.model} to {after.model} cost a retry"


def _records(given: Mapping[int, set[str]], seen: Sequence[Version]) -> Iterable[Problem]:
    last = next((version for version in reversed(seen) if not version.gone), None)
    for record in last.records if last is not None else ():
        models = given.get(record.number)
        if models and record.model not in models:
            yield "wandered", f"attempt {record.number} is recorded as {record.model}'s, and was {sorted(models)}'s"
