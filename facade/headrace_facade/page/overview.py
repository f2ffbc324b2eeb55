"""The overview's tables, made of what the monitor and the list of tasks tell. Pure."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final
from urllib.parse import quote, urlencode

from headrace_facade.native.monitor_schema import GpuView, MonitorStatus, QueueView
from headrace_facade.native.schema import ModelView
from headrace_facade.page.cells import NOTHING, Cell, Row, State, Table, Tone, age_s, ago, duration, number, plain, size
from headrace_facade.page.session import PATH
from headrace_facade.schema import TaskList, TaskStatus, TaskSummary

LIVE_MOST: Final = 50
ENDED_MOST: Final = 20
_PHASES: Final[Mapping[str, Tone]] = {
    "Serving": "ok",
    "Starting": "busy",
    "Loading": "busy",
    "WaitingForGPU": "warn",
    "Paused": "idle",
    "ScaledToZero": "idle",
    "Failed": "bad",
}
TASK_TONES: Final[Mapping[TaskStatus, Tone]] = {
    TaskStatus.CREATED: "warn",
    TaskStatus.QUEUED: "busy",
    TaskStatus.PROCESSING: "ok",
    TaskStatus.COMPLETED: "ok",
    TaskStatus.FAILED: "bad",
    TaskStatus.CANCELLED: "idle",
}
# Those that are furthest come first.
_LIVE: Final = (TaskStatus.PROCESSING, TaskStatus.QUEUED, TaskStatus.CREATED)


def overview(seen: MonitorStatus, tasks: TaskList | str, now: datetime) -> State:
    """`tasks` is why there are none to show, where it is a text."""
    listed = [] if isinstance(tasks, str) else tasks.items
    live = sorted((task for task in listed if task.status in _LIVE), key=_liveness)
    ended = sorted((task for task in listed if task.status not in _LIVE), key=lambda task: task.completed_at or "")
    more = "" if isinstance(tasks, str) or tasks.continue_ is None else _more(len(listed))
    refused = tasks if isinstance(tasks, str) else ""
    return State(
        {
            "live-tasks": _live_tasks(live, now, refused or "No task waits or runs."),
            "models": _models(seen.models),
            "queues": _queues(seen.queues),
            "gpus": _gpus(seen.gpus),
            "ended-tasks": _ended_tasks(ended, now, refused or "No task has ended yet."),
        },
        {
            "tile-models": f"{sum(model.available for model in seen.models)} of {len(seen.models)}",
            "tile-waiting": _total([queue.queued for queue in seen.queues]),
            "tile-running": str(sum(task.status is TaskStatus.PROCESSING for task in live)) if not refused else NOTHING,
            "tile-oldest": duration(max((queue.oldest_wait_seconds or 0 for queue in seen.queues), default=0)),
            "tile-memory": _memory(seen.gpus),
            "away": "  ".join(f"{each.what} is away: {plain(each.message)}" for each in seen.away),
            "left-off": f"{seen.left_off:,} more models are not shown." if seen.left_off else "",
            "more-tasks": more,
        },
    )


def task_href(task_id: str, namespace: str) -> str:
    return f"{PATH}/tasks/{quote(task_id, safe='')}?{urlencode({'namespace': namespace})}"


def why_cell(reason: str | None, message: str | None) -> Cell:
    return Cell(plain(reason) or "not looked at yet", note=plain(message))


def status_cell(status: TaskStatus) -> Cell:
    return Cell(status.value, TASK_TONES[status])


def _liveness(task: TaskSummary) -> tuple[int, str]:
    return _LIVE.index(task.status), task.created_at or ""


def _live_tasks(tasks: list[TaskSummary], now: datetime, empty: str) -> Table:
    rows = [_task(task, Cell(duration(age_s(task.created_at, now)))) for task in tasks[:LIVE_MOST]]
    return Table("Live tasks", ("Task", "State", "Why", "Model", "Attempt", "Age"), rows, empty, (4, 5))


def _ended_tasks(tasks: list[TaskSummary], now: datetime, empty: str) -> Table:
    rows = [_task(task, Cell(ago(task.completed_at, now))) for task in tasks[::-1][:ENDED_MOST]]
    return Table("Ended tasks", ("Task", "Outcome", "Why", "Model", "Attempts", "Ended"), rows, empty, (4, 5))


def _task(task: TaskSummary, when: Cell) -> Row:
    return Row(
        task.task_id,
        [
            Cell(task.name, href=task_href(task.task_id, task.namespace)),
            status_cell(task.status),
            why_cell(task.reason, task.message),
            Cell(plain(task.model)),
            number(task.attempt),
            when,
        ],
    )


def _models(models: list[ModelView]) -> Table:
    rows = [
        Row(
            model.model,
            [
                Cell(plain(model.model), note=plain(model.kind)),
                Cell(model.phase or "Unknown", _PHASES.get(model.phase or "", "warn"), note=_told(model)),
                Cell(f"{model.ready_replicas} of {model.replicas}"),
                Cell(plain(model.load_stage) or NOTHING),
                Cell(NOTHING if model.context_tokens is None else f"{model.context_tokens:,} tokens"),
                Cell(", ".join(each.value.replace("_", " ").lower() for each in model.capabilities)),
            ],
        )
        for model in models
    ]
    columns = ("Model", "State", "Replicas ready", "Load stage", "Context", "Good for")
    return Table("Models", columns, rows, "No model serves this namespace.")


def _told(model: ModelView) -> str:
    reason = "" if model.reason == model.phase else plain(model.reason)
    return ": ".join(part for part in (reason, plain(model.message)) if part)


def _queues(queues: list[QueueView]) -> Table:
    rows = [
        Row(
            queue.model,
            [
                Cell(plain(queue.model), note=plain(queue.unknown)),
                number(queue.queued),
                number(queue.queued_together),
                number(queue.delayed),
                number(queue.running),
                number(queue.slots),
                Cell(duration(queue.oldest_wait_seconds)),
                Cell(duration(queue.mean_service_seconds)),
            ],
        )
        for queue in queues
    ]
    columns = ("Queue of", "Yours", "All", "Delayed", "Running", "Slots", "Oldest wait", "Mean time")
    return Table("Queues", columns, rows, "No model serves this namespace.", tuple(range(1, 8)))


def _gpus(gpus: list[GpuView]) -> Table:
    rows = [
        Row(
            f"{place} {gpu.pod}",
            [
                Cell(plain(gpu.name), note=plain(gpu.pod)),
                Cell(plain(gpu.model)),
                Cell(f"{size(gpu.used_bytes)} of {size(gpu.total_bytes)}", share=_share(gpu)),
                Cell(NOTHING if gpu.utilization_percent is None else f"{gpu.utilization_percent} %"),
                Cell(NOTHING if gpu.temperature_celsius is None else f"{gpu.temperature_celsius} °C"),
                Cell(NOTHING if gpu.power_milliwatts is None else f"{gpu.power_milliwatts / 1000:.0f} W"),
            ],
        )
        for place, gpu in enumerate(gpus)
    ]
    columns = ("GPU", "Model", "Memory", "Load", "Temperature", "Power")
    return Table("GPUs", columns, rows, "No GPU serves a model of this namespace.", (3, 4, 5))


def _share(gpu: GpuView) -> float:
    return min(gpu.used_bytes / gpu.total_bytes, 1.0) if gpu.total_bytes else 0.0


def _memory(gpus: list[GpuView]) -> str:
    total = sum(gpu.total_bytes for gpu in gpus)
    return f"{100 * sum(gpu.used_bytes for gpu in gpus) // total} %" if total else NOTHING


def _total(counts: list[int | None]) -> str:
    known = [count for count in counts if count is not None]
    return f"{sum(known):,}" if known else NOTHING


def _more(count: int) -> str:
    return (
        f"The namespace has more than {count:,} tasks; these tables show what is open or ended among the first by name."
    )
