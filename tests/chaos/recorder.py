"""Every version of every task, as etcd holds it: the checker's own eyes.

It watches etcd and not the API server, whose watches begin anew with each of its processes: etcd's revision is the
object's `resourceVersion`, and a watch that breaks goes on at the next revision, so that no version is missed. One that
cannot go on (compacted) raises: a run without all versions proves nothing.
"""

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Final, Self

import aiohttp

from tests.stub_engine.script import Script

AGAIN_SECONDS: Final = 0.2
FINAL: Final = (
    "outcome",
    "result",
    "phase",
    "completionTime",
    "reason",
    "message",
    "attempt",
    "retries",
    "losses",
    "attempts",
    "usage",
    "timings",
)
"""Members of a status that may not change once it has an outcome."""


@dataclass(frozen=True, slots=True)
class Record:
    """What an object says of an attempt that is over; `claimed`: a runner had it."""

    number: int
    model: str
    reason: str
    claimed: bool


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a task. `at` is CLOCK_MONOTONIC in seconds when it was seen; members of the status are None where
    it has none. `text` is the result's, `record` the number of the attempt that is recorded as having it.
    `submission`: whose prompt it is, `cancel`: that was asked for. `final`: of one with an outcome, each of FINAL as
    JSON. `config_map`: name and key of a result that is not in the object. `model`: whose the task is at this moment,
    as namespace/name; `records` of its attempts."""

    uid: str
    name: str
    revision: int
    at: float
    gone: bool = False
    attempt: int | None = None
    retries: int | None = None
    losses: int | None = None
    phase: str | None = None
    outcome: str | None = None
    reason: str | None = None
    accept_time: str | None = None
    completion_time: str | None = None
    text: str | None = None
    record: int | None = None
    notified: bool = False
    backoff_limit: int = 3
    config_map: tuple[str, str] | None = None
    submission: str = ""
    cancel: bool = False
    final: tuple[tuple[str, str], ...] = ()
    model: str = ""
    records: tuple[Record, ...] = ()

    @classmethod
    def of(cls, task: dict[str, Any], revision: int, at: float) -> Self:
        status = task.get("status") or {}
        return cls(
            uid=task["metadata"]["uid"],
            name=task["metadata"]["name"],
            revision=revision,
            at=at,
            attempt=status.get("attempt"),
            retries=status.get("retries"),
            losses=status.get("losses"),
            phase=status.get("phase"),
            outcome=status.get("outcome"),
            reason=status.get("reason"),
            accept_time=status.get("acceptTime"),
            completion_time=status.get("completionTime"),
            text=(status.get("result") or {}).get("text"),
            record=_recorded(status),
            notified=any(c["type"] == "Notified" and c["status"] == "True" for c in status.get("conditions") or []),
            backoff_limit=task["spec"].get("backoffLimit", 3),
            submission=_submission(task["spec"].get("prompt") or ""),
            config_map=_place(status),
            cancel=bool(task["spec"].get("cancel")),
            final=_final(status),
            model=status.get("assignedModel") or _named(task),
            records=tuple(
                Record(each.get("number", 0), each.get("model") or "", each.get("reason") or "", "startTime" in each)
                for each in status.get("attempts") or []
            ),
        )


def _named(task: dict[str, Any]) -> str:
    """Empty where an object of a test names none."""
    ref = task["spec"].get("modelRef")
    return "" if ref is None else f"{ref.get('namespace') or task['metadata']['namespace']}/{ref['name']}"


def _submission(prompt: str) -> str:
    """Whose prompt it is; empty where it does not say."""
    with contextlib.suppress(ValueError):
        return Script.of(prompt, Script()).name
    return ""


def _place(status: dict[str, Any]) -> tuple[str, str] | None:
    """ConfigMap and key of a result that is too large for the object."""
    place = (status.get("result") or {}).get("configMapRef")
    return (place["name"], place["key"]) if place else None


def _recorded(status: dict[str, Any]) -> int | None:
    """None where the task ended before its last attempt had begun: no record is that end's."""
    last = (status.get("attempts") or [{}])[-1]
    is_its_end = all(last.get(name) == status.get(name) for name in ("outcome", "completionTime"))
    number: int | None = last.get("number") if is_its_end else None
    return number


def _final(status: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    if not status.get("outcome"):
        return ()
    return tuple((name, json.dumps(status[name], sort_keys=True)) for name in FINAL if name in status)


class Compacted(Exception):
    """etcd has forgotten versions that were not seen."""


class Recorder:
    """`versions` by uid, in the order of their revisions; `on_version` is called with each."""

    def __init__(self, etcd_url: str, namespace: str, on_version: Callable[[Version], None]) -> None:
        self.versions: dict[str, list[Version]] = {}
        self._url = f"{etcd_url}/v3/watch"
        self._prefix = f"/registry/headrace.dev/llmtasks/{namespace}/"
        self._on_version = on_version
        self._uids: dict[str, str] = {}
        self._next = 0
        self._watching = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Record from here on; returns when the watch is made."""
        self._task = asyncio.create_task(self._run(), name="recorder")
        waiting = asyncio.create_task(self._watching.wait())
        await asyncio.wait({self._task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        self.check()

    def check(self) -> None:
        """Raises what ended the recording."""
        if self._task is not None and self._task.done():
            self._task.result()

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def latest(self, uid: str) -> Version | None:
        seen = self.versions.get(uid)
        return seen[-1] if seen else None

    async def _run(self) -> None:
        # No limit on a watch's time; a line may hold a page of large objects.
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None, sock_connect=5)) as http:
            while True:
                with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                    await self._watch(http)
                await asyncio.sleep(AGAIN_SECONDS)

    async def _watch(self, http: aiohttp.ClientSession) -> None:
        request: dict[str, Any] = {"key": _base64(self._prefix), "range_end": _base64(self._prefix[:-1] + "0")}
        if self._next:
            request["start_revision"] = str(self._next)
        async with http.post(self._url, json={"create_request": request}) as answer:
            async for line in _lines(answer.content):
                result = json.loads(line)["result"]
                if int(result.get("compact_revision", 0)):
                    raise Compacted(f"revisions from {self._next} on are gone")
                if result.get("created"):
                    self._next = self._next or int(result["header"]["revision"]) + 1
                    self._watching.set()
                for event in result.get("events", []):
                    self._take(event)

    def _take(self, event: dict[str, Any]) -> None:
        at, item = time.monotonic(), event["kv"]
        revision = int(item["mod_revision"])
        name = base64.b64decode(item["key"]).decode().removeprefix(self._prefix)
        if event.get("type") == "DELETE":
            version = Version(uid=self._uids.get(name, ""), name=name, revision=revision, at=at, gone=True)
        else:
            version = Version.of(json.loads(base64.b64decode(item["value"])), revision, at)
            self._uids[name] = version.uid
        self._next = revision + 1
        self.versions.setdefault(version.uid, []).append(version)
        self._on_version(version)


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    rest = b""
    async for piece in content.iter_any():
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            if line:
                yield line


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
