"""What may be asked of the bus. Nothing here changes anything: the facade gets no more, nor does its Redis user."""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self

from headrace_bus import replies
from headrace_bus import tokens as streams
from headrace_bus.arguments import positive
from headrace_bus.connection import Connection
from headrace_bus.errors import BusCorrupt
from headrace_bus.keys import ModelKey, key_part, key_prefix
from headrace_bus.order import CALLS_PER_TASK
from headrace_bus.records import Entry, Returned, Stats, UidPage
from headrace_bus.settings import BusSettings
from headrace_bus.tokens import Token

RESULT_MAX_BYTES: Final = 32 * 1024
REPORT_MAX_BYTES: Final = 64 * 1024
PARKED_MAX_BYTES: Final = 1024 * 1024
"""Of one parked payload as JSON, escapes included."""
_WAIT_LIMIT_S: Final = 60.0
_RETURNED_PAGES: Final = 20
_NAMESPACE_LIMIT: Final = 1_000
_REPORT_LIMIT: Final = 1_000
_REPORT_PAGES: Final = 4
"""Of 4 MiB."""


class BusReader:
    """The bus for whoever only asks. Every method raises `BusError` or one of its kinds, and ValueError on names and
    numbers that cannot be. FACADE_ACL admits `stats`, `position`, `inspect`, `reports`, `gpus`, `result`, `tokens`,
    `replay` and the time.
    """

    def __init__(self, settings: BusSettings) -> None:
        self._connection = Connection(settings)
        self._inboxes = streams.Inboxes(self._connection)

    @classmethod
    def connect(
        cls,
        url: str,
        *,
        username: str | None = None,
        password: str | None = None,
        connect_timeout_s: float = 3.0,
        socket_timeout_s: float = 5.0,
        call_timeout_s: float | None = None,
    ) -> Self:
        """A bus on this URL; connections are made when they are needed. Use as `async with Bus.connect(url) as bus`."""
        settings = BusSettings(
            url=url,
            username=username,
            password=password,
            connect_timeout_s=connect_timeout_s,
            socket_timeout_s=socket_timeout_s,
            call_timeout_s=call_timeout_s,
        )
        return cls(settings)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes every connection."""
        await self._connection.aclose()

    async def returned(self, model: ModelKey, *, limit: int = 100, after: Returned | None = None) -> list[Returned]:
        """Deliveries that came back and wait for the operator, the longest waiting first; less than `limit` end it.

        `after` is the last one of the page before; if it is gone, some of that page may come again.
        """
        uid, at_ms = (key_part(after.uid), after.returned_ms) if after is not None else ("", 0)
        found: list[Returned] = []
        passed = 0
        # What cannot be read must not hide what can.
        for _ in range(_RETURNED_PAGES):
            seen, more, *rows = await self._connection.run(
                "returned", key_prefix(model), positive(limit), uid, at_ms, passed
            )
            found += replies.returned(rows)
            passed += seen
            if len(found) >= limit or not more:
                break
        return found[:limit]

    async def inspect(self, model: ModelKey, uid: str) -> Entry | None:
        """What is held under the uid; None also when that is no entry: the next enqueue replaces it.

        A lease that ran out is LEASED until `reap` or the next claim sees it.
        """
        row = await self._connection.run("inspect", key_prefix(model), key_part(uid))
        return None if row is None else replies.entry(row)

    async def result(self, model: ModelKey, uid: str) -> dict[str, Any] | None:
        """The result of a completed entry if it was kept, while its TTL lasts. Raises BusCorrupt."""
        data = await self._connection.run("result", key_prefix(model), key_part(uid), RESULT_MAX_BYTES)
        return None if data is None else replies.document(data)

    async def parked(self, model: ModelKey, uid: str, attempt: int) -> dict[str, Any] | None:
        """What the runner of this attempt left by `park`; None when the entry is gone, of another attempt or never was
        parked. Raises BusCorrupt when it is no JSON object or above 1 MiB.
        """
        data = await self._connection.run(
            "parked", key_prefix(model), key_part(uid), positive(attempt), PARKED_MAX_BYTES
        )
        return None if data is None else replies.document(data)

    async def tokens(
        self, reader: str, after: Mapping[ModelKey, str], *, timeout_s: float
    ) -> dict[ModelKey, tuple[str, list[Token]]]:
        """What runners of these models have streamed to this reader after the given record ids (`FIRST` at first): by
        model the id to go on with, and the events; one whose inbox cannot be read is left out for 10 s. Waits for at
        most `timeout_s`, 60 s are the most.
        """
        return await self._inboxes.read(reader, after, min(timeout_s, _WAIT_LIMIT_S)) if after else {}

    async def replay(self, model: ModelKey, uid: str, *, after: str = streams.FIRST) -> list[Token]:
        """The call's events after that id, at most 100; kept for 10 minutes, 256 KiB of each call."""
        return await streams.replay(self._connection, model, uid, after)

    async def position(self, model: ModelKey, uid: str) -> int | None:
        """An estimate of how many deliveries come first; None when the entry is not queued."""
        reply = await self._connection.run(
            "position", key_prefix(model), key_part(uid), CALLS_PER_TASK, _NAMESPACE_LIMIT
        )
        return None if reply is None else int(reply)

    async def stats(self, model: ModelKey) -> Stats:
        """Counts of the model's entries, and how long it takes to serve one."""
        return replies.stats(model, await self._connection.run("stats", key_prefix(model), _NAMESPACE_LIMIT))

    async def uids(self, model: ModelKey, cursor: int = 0, *, limit: int = 500) -> UidPage:
        """About `limit` of all entries, for a set difference; go on with the page's cursor until it is 0."""
        reply = await self._connection.run("uids", key_prefix(model), cursor, positive(limit))
        return replies.uid_page(model, reply)

    async def reports(self, model: ModelKey) -> dict[str, dict[str, Any]]:
        """The living reports by worker, about 16 MiB of them."""
        found: dict[str, dict[str, Any]] = {}
        passed = 0
        for _ in range(_REPORT_PAGES):
            seen, more, *flat = await self._connection.run(
                "reports", key_prefix(model), passed, _REPORT_LIMIT, REPORT_MAX_BYTES
            )
            found |= replies.reports(flat)
            passed += seen
            if not more:
                break
        return found

    async def gpus(self, model: ModelKey, worker: str) -> list[dict[str, Any]]:
        """What the worker told of its GPUs within the last seconds; empty where it told nothing. Raises BusCorrupt."""
        data = await self._connection.run("gpus", key_prefix(model), key_part(worker), REPORT_MAX_BYTES)
        told = [] if data is None else replies.document(data).get("gpus")
        if not isinstance(told, list) or not all(isinstance(each, dict) for each in told):
            raise BusCorrupt("not a list of GPUs")
        return told

    async def server_time_ms(self) -> int:
        """The only clock leases and delays go by."""
        seconds, microseconds = await self._connection.command("TIME")
        return int(seconds) * 1000 + int(microseconds) // 1000
