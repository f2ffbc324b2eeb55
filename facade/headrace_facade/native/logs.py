"""What operations people look for in logs: records about a namespace's objects, as the API server keeps them.

They are Kubernetes Events, and of one task its attempts and conditions: read with the caller's own token, so that RBAC
says who sees them. Nothing is kept for this, and no record holds a prompt or a result.
"""

import heapq
from collections.abc import Iterable
from typing import Any, Final

from headrace_crds import GROUP, VERSION
from headrace_facade.errors import Forbidden
from headrace_facade.kube import KubeClient, KubeObject, Token
from headrace_facade.native.logs_schema import LogLevel, LogRecord, LogRecords
from headrace_facade.native.report import report

RECORDS_MOST: Final = 1000
PAGE: Final = 500
PAGES_MOST: Final = 10
"""Events come by name and not by time: of more than 5,000 the newest cannot be told."""
_MESSAGE_MOST: Final = 1024
_OURS: Final = f"involvedObject.apiVersion={GROUP}/{VERSION}"
_LEVELS: Final = {"Normal": LogLevel.INFO, "Warning": LogLevel.WARNING}


class Logs:
    """Raises FacadeError; Forbidden where the token may not list events."""

    def __init__(self, kube: KubeClient) -> None:
        self._kube = kube

    async def recent(self, namespace: str, token: Token, limit: int = RECORDS_MOST) -> LogRecords:
        """Of all objects of ours in the namespace, oldest first."""
        events, is_whole = await self._events(namespace, _OURS, token)
        missing = (
            None if is_whole else f"the namespace has more than {PAGE * PAGES_MOST} events: newer ones may be missing"
        )
        return _told(namespace, (record for each in events if (record := of_event(each)) is not None), limit, missing)

    async def of_task(self, namespace: str, name: str, token: Token, limit: int = RECORDS_MOST) -> LogRecords:
        """Raises NotFound. Without the right to list events its own record is told all the same."""
        task = await self._kube.get_task(namespace, name, token)
        records, missing = of_object(task), None
        selector = f"{_OURS},involvedObject.kind=LLMTask,involvedObject.name={name}"
        try:
            events, _ = await self._events(namespace, selector, token)
        except Forbidden:
            events, missing = [], f"your token may not list events in namespace {namespace!r}: the role view may"
        uid = task["metadata"].get("uid")
        for each in events:
            # An earlier task had that name, too.
            if (each.get("involvedObject") or {}).get("uid") == uid and (record := of_event(each)) is not None:
                records.append(record)
        return _told(namespace, records, limit, missing)

    async def _events(self, namespace: str, selector: str, token: Token) -> tuple[list[KubeObject], bool]:
        found: list[KubeObject] = []
        continue_: str | None = None
        for _ in range(PAGES_MOST):
            answer = await self._kube.list_events(namespace, selector, PAGE, continue_, token)
            found += [_bare(each) for each in answer.get("items") or []]
            continue_ = (answer.get("metadata") or {}).get("continue") or None
            if continue_ is None:
                return found, True
        return found, False


def of_event(event: KubeObject) -> LogRecord | None:
    """None where it has no time, and so no place."""
    about = event.get("involvedObject") or {}
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    at = next((each for each in times if each), None)
    if at is None:
        return None
    return LogRecord(
        at=str(at),
        level=_LEVELS.get(str(event.get("type")), LogLevel.WARNING),
        source=_word(event.get("reportingComponent") or (event.get("source") or {}).get("component") or "unknown"),
        kind=_word(about.get("kind") or ""),
        name=_word(about.get("name") or ""),
        reason=_word(event.get("reason") or ""),
        message=_line(event.get("message") or ""),
        count=int(series.get("count") or event.get("count") or 1),
    )


def of_object(task: KubeObject) -> list[LogRecord]:
    """What a task itself tells of its way."""
    told = report(task)
    name = str(task["metadata"]["name"])

    def record(at: str | None, level: LogLevel, reason: str, message: str, source: str = "status") -> list[LogRecord]:
        if at is None:
            return []
        return [
            LogRecord(
                at=at,
                level=level,
                source=_word(source),
                kind="LLMTask",
                name=name,
                reason=_word(reason),
                message=_line(message),
                count=1,
            )
        ]

    records = record(told.created_at, LogLevel.INFO, "Created", f"for model {told.model}")
    records += record(told.accepted_at, LogLevel.INFO, "Accepted", "its deadlines begin")
    for each in told.attempts:
        source = each.pod or "status"
        what = f"attempt {each.number}"
        by = f" by {each.model}" if each.model else ""
        records += record(each.started_at, LogLevel.INFO, "AttemptStarted", f"{what}{by}", source)
        level = LogLevel.INFO if each.outcome in ("Complete", "Released") else LogLevel.WARNING
        said = f": {each.message}" if each.message else ""
        records += record(each.completed_at, level, each.reason, f"{what}: {each.outcome}{said}", source)
    level = LogLevel.ERROR if told.status.value == "failed" else LogLevel.INFO
    said = f": {told.message}" if told.message else ""
    return records + record(told.completed_at, level, told.reason or "", f"{told.status}{said}")


def _told(namespace: str, records: Iterable[LogRecord], limit: int, missing: str | None) -> LogRecords:
    newest = heapq.nlargest(limit, enumerate(records), key=lambda each: (each[1].at, each[0]))
    return LogRecords(namespace=namespace, items=[record for _, record in reversed(newest)], missing=missing)


def _bare(event: KubeObject) -> KubeObject:
    """Without what takes most of it."""
    return {name: value for name, value in event.items() if name != "metadata"}


def _word(text: Any) -> str:
    return _line(text)[:253]


def _line(text: Any) -> str:
    """Whoever may write events writes what they like: nothing that moves a terminal's cursor."""
    return "".join(each if each.isprintable() else " " for each in str(text)[:_MESSAGE_MOST])
