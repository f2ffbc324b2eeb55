"""Records of what has happened, out of events and of tasks."""

from typing import Any

import pytest

from headrace_facade.errors import Forbidden
from headrace_facade.native.logs import PAGE, PAGES_MOST, Logs, of_event

TASK = {
    "metadata": {"namespace": "team-a", "name": "t", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"},
    "spec": {"modelRef": {"name": "m"}, "prompt": "the secret question"},
    "status": {
        "attempt": 2,
        "phase": "Failed",
        "outcome": "Failed",
        "reason": "InvalidOutput",
        "message": "it is no JSON",
        "completionTime": "2026-01-01T00:00:09Z",
        "attempts": [
            {
                "number": 1,
                "pod": "p-1",
                "startTime": "2026-01-01T00:00:01Z",
                "completionTime": "2026-01-01T00:00:03Z",
                "outcome": "Lost",
                "reason": "LeaseExpired",
                "message": "its runner\x1b[2J vanished",
            }
        ],
    },
}


def event(at: str, reason: str = "FellBack", *, uid: str = "u", **fields: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "e"},
        "type": "Normal",
        "reason": reason,
        "message": "told",
        "eventTime": f"2026-01-01T00:00:{at}Z",
        "lastTimestamp": None,
        "involvedObject": {"kind": "LLMTask", "name": "t", "uid": uid},
        "reportingComponent": "headrace.dev/operator",
        **fields,
    }


class Kube:
    def __init__(self, *pages: list[dict[str, Any]] | Exception) -> None:
        self.pages = list(pages)
        self.asked: list[tuple[str, str, str | None, str]] = []

    async def get_task(self, namespace: str, name: str, token: str) -> dict[str, Any]:
        return TASK

    async def list_events(
        self, namespace: str, selector: str, limit: int, continue_: str | None, token: str
    ) -> dict[str, Any]:
        assert limit == PAGE
        self.asked.append((namespace, selector, continue_, token))
        page = self.pages.pop(0)
        if isinstance(page, Exception):
            raise page
        return {"items": page, "metadata": {"continue": "more" if self.pages else ""}}


def logs(*pages: list[dict[str, Any]] | Exception) -> tuple[Logs, Kube]:
    kube = Kube(*pages)
    return Logs(kube), kube  # type: ignore[arg-type] # what is asked of it


async def test_the_newest_are_told_oldest_first() -> None:
    found, kube = logs([event("05", "Five"), event("01", "One")], [event("03", "Three", type="Warning"), {"type": "x"}])
    told = await found.recent("team-a", "tok", 2)
    assert [(each.reason, each.level) for each in told.items] == [("Three", "warning"), ("Five", "info")]
    assert told.missing is None
    selector = "involvedObject.apiVersion=headrace.dev/v1alpha1"
    assert kube.asked == [("team-a", selector, None, "tok"), ("team-a", selector, "more", "tok")]


async def test_a_namespace_of_many_events_is_read_in_part_and_says_so() -> None:
    found, kube = logs(*([event("01")] for _ in range(PAGES_MOST + 1)))
    told = await found.recent("team-a", "tok")
    assert len(kube.asked) == PAGES_MOST
    assert told.missing is not None


async def test_a_task_tells_its_way_and_its_events() -> None:
    found, kube = logs([event("08"), event("02", "AnEarlierTasks", uid="earlier")])
    told = await found.of_task("team-a", "t", "tok")
    assert [(each.at[17:19], each.reason, each.level.value, each.source) for each in told.items] == [
        ("00", "Created", "info", "status"),
        ("01", "AttemptStarted", "info", "p-1"),
        ("03", "LeaseExpired", "warning", "p-1"),
        ("08", "FellBack", "info", "headrace.dev/operator"),
        ("09", "InvalidOutput", "error", "status"),
    ]
    assert "involvedObject.name=t" in kube.asked[0][1]
    text = told.model_dump_json()
    assert "secret" not in text
    assert "\\u001b" not in text


async def test_without_the_right_to_events_a_task_tells_its_way() -> None:
    found, _ = logs(Forbidden("no"))
    told = await found.of_task("team-a", "t", "tok")
    assert len(told.items) == 4
    assert told.missing is not None
    found, _ = logs(Forbidden("no"))
    with pytest.raises(Forbidden):
        await found.recent("team-a", "tok")


def test_an_event_that_came_again_has_its_last_time() -> None:
    series = {"count": 7, "lastObservedTime": "2026-01-01T00:01:00.000000Z"}
    told = of_event(event("01", series=series))
    assert told is not None
    assert (told.count, told.at) == (7, "2026-01-01T00:01:00.000000Z")
    old = of_event(event("01", eventTime=None, lastTimestamp="2026-01-01T00:02:00Z", count=3))
    assert old is not None
    assert (old.count, old.at) == (3, "2026-01-01T00:02:00Z")
