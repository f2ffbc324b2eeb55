"""What the page's cells say of what the services tell."""

from datetime import UTC, datetime

import pytest

from headrace_facade.native.monitor_schema import GpuView, MonitorStatus, QueueView
from headrace_facade.page.cells import age_s, ago, duration, moment, plain
from headrace_facade.page.overview import overview, task_href
from headrace_facade.schema import TaskList, TaskStatus

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
NOTHING_SEEN = MonitorStatus(namespace="team-a", queues=[], left_off=0, models=[], gpus=[], away=[])


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (None, "–"),
        (0, "0 s"),
        (0.118, "118 ms"),
        (3.21, "3.2 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (7199, "1 h"),
        (172_800, "2 d"),
    ],
    ids=["none", "zero", "shorter", "short", "below-a-minute", "minute", "hour", "days"],
)
def test_a_duration_has_one_unit(seconds: float | None, told: str) -> None:
    assert duration(seconds) == told


def test_times_are_read_with_their_zone_and_never_lie_ahead() -> None:
    assert age_s("2026-01-02T04:04:00+01:00", NOW) == 5
    assert age_s("2026-01-02T03:05:00Z", NOW) == 0
    assert (age_s("yesterday", NOW), ago(None, NOW), moment("yesterday")) == (None, "–", "–")
    assert ago("2026-01-02T03:02:00Z", NOW) == "2 min ago"
    assert moment("2026-01-02T04:04:00+01:00") == "2026-01-02 03:04:00 UTC"


def test_a_text_is_one_line_that_shows_all_that_it_holds() -> None:
    assert plain("a\nb\u202ec\x00d") == "a b c d"
    assert plain(None) == ""
    assert len(plain("x" * 9999)) == 400


def test_open_tasks_come_by_how_far_they_are_and_ended_ones_by_when() -> None:
    def task(name: str, status: TaskStatus, at: int) -> dict[str, object]:
        time = f"2026-01-02T03:0{at}:00Z"
        known = {"task_id": f"team-a.{name}", "namespace": "team-a", "name": name, "model": "m", "status": status}
        return {**known, "priority": 0, "retries": 0, "created_at": time, "completed_at": time}

    tasks = TaskList.model_validate(
        {
            "items": [
                task("late", TaskStatus.CREATED, 3),
                task("early", TaskStatus.CREATED, 1),
                task("runs", TaskStatus.PROCESSING, 2),
                task("waits", TaskStatus.QUEUED, 1),
                task("old", TaskStatus.FAILED, 0),
                task("done", TaskStatus.COMPLETED, 4),
            ],
            "continue": "more",
        }
    )
    state = overview(NOTHING_SEEN, tasks, NOW)
    names = {table: [row.cells[0].text for row in state.tables[table].rows] for table in ("live-tasks", "ended-tasks")}
    assert names == {"live-tasks": ["runs", "waits", "early", "late"], "ended-tasks": ["done", "old"]}
    assert "more than 6 tasks" in state.texts["more-tasks"]
    assert state.texts["tile-running"] == "1"


def test_without_tasks_it_says_why_and_shows_the_rest() -> None:
    seen = NOTHING_SEEN.model_copy(
        update={
            "queues": [
                QueueView(model="a", queued=2, oldest_wait_seconds=61),
                QueueView(model="b", queued=None, unknown="Redis does not answer"),
            ],
            "gpus": [GpuView(model="a", pod="p", name="G", total_bytes=4 << 30, used_bytes=9 << 30)],
        }
    )
    state = overview(seen, "refused", NOW)
    assert state.document()["tables"]["live-tasks"] == {"rows": [], "empty": "refused"}
    assert (state.texts["tile-waiting"], state.texts["tile-oldest"], state.texts["tile-running"]) == ("2", "1 min", "–")
    assert state.tables["queues"].rows[1].cells[0].note == "Redis does not answer"
    assert state.tables["gpus"].rows[0].cells[2].share == 1.0


def test_a_tasks_address_is_one_segment() -> None:
    assert task_href("team-a.a/b?c", "team-a") == "/ui/tasks/team-a.a%2Fb%3Fc?namespace=team-a"
