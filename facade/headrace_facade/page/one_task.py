"""A task's page: its report, why it waits, and its result. Pure."""

from datetime import datetime

from headrace_facade.native.task_schema import ReportedAttempt, TaskReport
from headrace_facade.page.cells import NOTHING, Cell, Row, State, Table, Tone, ago, duration, moment, number, plain
from headrace_facade.page.overview import status_cell, why_cell
from headrace_facade.schema import Task, TaskStatus, Why, WhyLink

_OUTCOMES: dict[str, Tone] = {"Complete": "ok", "Failed": "bad", "Lost": "warn", "Released": "idle"}
_OPEN = (TaskStatus.CREATED, TaskStatus.QUEUED, TaskStatus.PROCESSING)


def task_state(told: TaskReport, task: Task, why: Why | None, now: datetime) -> State:
    """`why` of a task that is open."""
    result = task.result
    return State(
        {"facts": _facts(told, why, now), "chain": _chain(why), "attempts": _attempts(told.attempts)},
        {
            "announce": _announced(told),
            "result": (result.text or "") if result is not None else "",
            "result-note": _result_note(task),
        },
    )


def _announced(told: TaskReport) -> str:
    reason = f": {plain(told.reason)}" if told.reason else ""
    return f"This task is {told.status.value}{reason}."


def _facts(told: TaskReport, why: Why | None, now: datetime) -> Table:
    model = told.model
    if told.assigned_model is not None and told.assigned_model.rpartition("/")[2] != model.rpartition("/")[2]:
        model += f", answered by {told.assigned_model}"
    facts = [
        ("State", status_cell(told.status)),
        ("Why", why_cell(told.reason, told.message)),
        *_place(why),
        ("Model", Cell(plain(model), note=_tried(told))),
        ("Created", Cell(moment(told.created_at), note=ago(told.created_at, now))),
        ("Started", Cell(moment(told.started_at))),
        ("Ended", Cell(moment(told.completed_at))),
        ("Took", Cell(duration(told.seconds))),
        ("Attempts", Cell(str(told.attempt or 0), note=f"{told.retries} retried, {told.losses} lost")),
        *_used(told),
    ]
    return Table("Report", ("Fact", "Value"), [Row(name, [Cell(name), cell]) for name, cell in facts], "")


def _place(why: Why | None) -> list[tuple[str, Cell]]:
    if why is None:
        return []
    start = NOTHING if why.estimated_start_seconds is None else f"in about {duration(why.estimated_start_seconds)}"
    return [
        ("Place in the queue", Cell(str(why.position or NOTHING), note=plain(why.unknown.get("position")))),
        ("Starts", Cell(start, note=plain(why.unknown.get("estimated_start_seconds")))),
    ]


def _tried(told: TaskReport) -> str:
    return f"moved away from {plain(', '.join(told.tried_models))}" if told.tried_models else ""


def _used(told: TaskReport) -> list[tuple[str, Cell]]:
    rows = []
    if (times := told.timings) is not None:
        queued, first = duration(times.queued_ms / 1000), duration(times.first_token_ms / 1000)
        note = f"queued {queued}, first token after {first}"
        rows.append(("Generation", Cell(duration(times.generation_ms / 1000), note=note)))
    if (used := told.usage) is not None:
        note = f"{used.prompt_tokens:,} of the prompt, of these {used.cached_tokens or 0:,} cached"
        rows.append(("Tokens", Cell(f"{used.completion_tokens:,} generated", note=note)))
        if used.cost_micros is not None:
            rows.append(("Cost", Cell(f"{used.cost_micros / 1_000_000:.6f} {used.currency or ''}".rstrip())))
    return rows


def _chain(why: Why | None) -> Table:
    links = [] if why is None else why.chain
    return Table(
        "Why it waits",
        ("What", "Holds it", "Reason", "What to do"),
        [Row(f"{place} {link.about}", _link(link)) for place, link in enumerate(links)],
        "Nothing keeps this task: it has ended." if why is None else "",
    )


def _link(link: WhyLink) -> list[Cell]:
    holds = {True: Cell("yes", "warn"), False: Cell("no", "ok"), None: Cell("unknown", "idle")}[link.holds]
    return [
        Cell(link.about, note=plain(link.name)),
        holds,
        why_cell(link.reason, link.message),
        Cell(plain(link.remedy) or NOTHING),
    ]


def _attempts(attempts: list[ReportedAttempt]) -> Table:
    rows = [
        Row(
            str(each.number),
            [
                number(each.number),
                Cell(plain(each.outcome), _OUTCOMES.get(each.outcome, "idle")),
                why_cell(each.reason, each.message),
                Cell(plain(each.model) or NOTHING, note=plain(each.pod)),
                Cell(duration(each.seconds)),
            ],
        )
        for each in attempts
    ]
    columns = ("Attempt", "Outcome", "Why", "Model and pod", "Took")
    return Table("Attempts", columns, rows, "No attempt has ended yet.", (4,))


def _result_note(task: Task) -> str:
    result = task.result
    if result is None:
        return "There is none yet." if task.status in _OPEN else "There is none."
    if result.text is None:
        return plain(result.text_missing) or "Its text is not in the object."
    part = "; a part, as the task was cancelled" if result.partial else ""
    return f"{result.size_bytes:,} bytes, finish reason {result.finish_reason}{part}"
