"""Fetches a file into its part: ranges side by side, tried again where they break, kept as they come.

A server that knows no ranges is read from the beginning to the end, and from the beginning again when that breaks.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final

import structlog

from headrace_crds.reasons import Reason
from headrace_runner.weights.bandwidth import Bandwidth
from headrace_runner.weights.cache import Cache
from headrace_runner.weights.check import MAGIC, check_beginning
from headrace_runner.weights.content_range import identity_of, part_of, whole_size
from headrace_runner.weights.failures import Again, Changed, WeightsFailure
from headrace_runner.weights.fetching import Answer, Fetcher
from headrace_runner.weights.part_file import Begun, Identity, PartFile, discard, read_journal
from headrace_runner.weights.progress import Progress
from headrace_runner.weights.ranges import Span, Spans

CHUNK_BYTES: Final = 16 * 1024 * 1024
ROOM_STEP_BYTES: Final = 64 * 1024 * 1024
"""Where a server does not say how much will come, room is made for so much at a time."""
PARALLEL: Final = 4
TRIES: Final = 8
"""In a row without a byte."""
PAUSE_SECONDS: Final = 1.0
PAUSE_LIMIT_SECONDS: Final = 30.0
BEGINNINGS: Final = 3
"""Of a file that changes while it is fetched, or of a server that knows no ranges."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Manner:
    """How a file is fetched."""

    chunk_bytes: int = CHUNK_BYTES
    parallel: int = PARALLEL
    tries: int = TRIES
    pause_seconds: float = PAUSE_SECONDS
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


class Download:
    """One file, one run. ``resumed`` tells whether it went on with what an earlier one had left."""

    def __init__(
        self, fetcher: Fetcher, cache: Cache, sha256: str, bandwidth: Bandwidth, progress: Progress, manner: Manner
    ) -> None:
        self._fetcher, self._cache, self._sha256 = fetcher, cache, sha256
        self._bandwidth, self._progress, self._manner = bandwidth, progress, manner
        self._path = cache.part(sha256)
        self._part: PartFile | None = None
        self._keeping = asyncio.Lock()
        self._keeps: set[asyncio.Task[None]] = set()
        self.resumed = False

    async def run(self) -> int:
        """The part has all bytes; gives how many. Raises WeightsFailure; what has come by then stays."""
        self._progress.enter("Downloading")
        for _ in range(BEGINNINGS):
            try:
                return await self._once()
            except Changed:
                _log.info("the file at the source changed, begun anew")
                discard(self._path)
        message = "the file at the source changes while it is fetched, or connections break and its server knows no "
        raise WeightsFailure(Reason.SOURCE_UNREACHABLE, f"{message}ranges: look at the source", retryable=True)

    async def _once(self) -> int:
        begun = read_journal(self._path)
        try:
            if begun is not None and not (gaps := self._gaps(begun.identity, begun.spans)):
                self.resumed = True
                return begun.identity.size_bytes
            first = gaps[0] if begun is not None else (0, self._manner.chunk_bytes)
            await self._insist(lambda: self._open(first, begun))
            if self._part is None:  # a whole file came, see _open
                return self._progress.done_bytes
            await self._fill(self._part)
            return self._part.identity.size_bytes
        finally:
            # Also when this run is cancelled: what came is worth keeping.
            while self._keeps:
                await asyncio.wait({self._keeps.pop()})
            if self._part is not None:
                self._part.close()
                self._part = None

    def _gaps(self, identity: Identity, spans: Iterable[Span]) -> list[Span]:
        return Spans(spans).missing(identity.size_bytes, self._manner.chunk_bytes)

    async def _open(self, first: Span, begun: Begun | None) -> bool:
        """The first answer says what the file is, and brings its first piece."""
        headers = {"Range": f"bytes={first[0]}-{first[1] - 1}"}
        if begun is not None and begun.identity.validator:
            headers["If-Range"] = begun.identity.validator
        async with self._fetcher.get(headers) as answer:
            if answer.status == 416 or (answer.status == 200 and begun is not None):
                # By If-Range it is another file; asked for anew, it may come in ranges.
                raise Changed
            if answer.status == 200:
                await self._whole(answer)
                return True
            known = part_of(answer.headers)
            if known is None or known[0][0] != first[0]:
                raise WeightsFailure(
                    Reason.DOWNLOAD_FAILED, f"{answer.host} answers with a part that was not asked for"
                )
            span, size = known
            identity = identity_of(answer.headers, size)
            if begun is not None and begun.identity != identity:
                raise Changed
            self._begin(identity, begun)
            await self._take(answer, span)
        return True

    def _begin(self, identity: Identity, begun: Begun | None) -> None:
        removed = self._cache.make_room(self._sha256, identity.size_bytes)
        if removed:
            _log.info("evicted", digests=removed)
        with self._cache.told(identity.size_bytes):
            part = PartFile.open(self._path, identity, begun)
        self._part, self.resumed = part, begun is not None
        self._progress.begin_at(part.spans.covered_bytes, identity.size_bytes)

    async def _fill(self, part: PartFile) -> None:
        todo = part.spans.missing(part.identity.size_bytes, self._manner.chunk_bytes)
        todo.reverse()

        async def worker() -> None:
            while todo:
                await self._range(part, todo.pop())

        workers = [asyncio.create_task(worker()) for _ in range(min(self._manner.parallel, len(todo)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for each in workers:
                each.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _range(self, part: PartFile, span: Span) -> None:
        at, end = span

        async def ask() -> bool:
            nonlocal at
            before = at
            try:
                at = await self._piece(part, at, end)
            except _Broken as broken:
                at = broken.at
                if at == before:
                    raise Again(str(broken)) from None
            return at == end

        await self._insist(ask)

    async def _piece(self, part: PartFile, at: int, end: int) -> int:
        headers = {"Range": f"bytes={at}-{end - 1}"}
        if part.identity.validator:
            headers["If-Range"] = part.identity.validator
        async with self._fetcher.get(headers) as answer:
            known = part_of(answer.headers) if answer.status == 206 else None
            if known is None or known[0][0] != at or known[0][1] > end:
                raise Changed
            if identity_of(answer.headers, known[1]) != part.identity:
                raise Changed
            # It may be less than was asked for.
            return await self._take(answer, known[0])

    async def _take(self, answer: Answer, span: Span) -> int:
        """Raises _Broken where the body ends too early; what came is kept."""
        part, (at, end) = self._part, span
        assert part is not None  # noqa: S101 — _begin opened it
        start, ended, beginning = at, "", b""
        try:
            async for data in answer.body:
                beginning = _looked_at(beginning, data, start)
                if at + len(data) > end:
                    raise WeightsFailure(Reason.DOWNLOAD_FAILED, f"{answer.host} sends more than was asked for")
                await self._bandwidth.take(len(data))
                with self._cache.told(part.identity.size_bytes):
                    part.write(at, data)
                at += len(data)
                self._progress.done_bytes += len(data)
        except Again as again:
            ended = str(again)
        finally:
            if at > start:
                keeping = asyncio.create_task(self._keep(part, (start, at)))
                self._keeps.add(keeping)
                await asyncio.shield(keeping)
        if at < end:
            raise _Broken(at, ended or f"{answer.host} hung up")
        return at

    async def _keep(self, part: PartFile, span: Span) -> None:
        async with self._keeping:
            with self._cache.told(part.identity.size_bytes):
                await asyncio.to_thread(part.keep, lambda: [span])

    async def _whole(self, answer: Answer) -> None:
        """From a server that knows no ranges, or no size. Raises Changed where it breaks."""
        size, at = whole_size(answer.headers), 0
        discard(self._path)
        room_bytes = size or 0
        if size is not None:
            self._cache.make_room(self._sha256, size)
        self._progress.begin_at(0, size)
        beginning = b""
        with self._cache.told(size), self._path.open("wb") as file:
            try:
                async for data in answer.body:
                    beginning = _looked_at(beginning, data, 0)
                    await self._bandwidth.take(len(data))
                    if at + len(data) > room_bytes:
                        room_bytes = self._more_room(at + len(data))
                    file.write(data)
                    at += len(data)
                    self._progress.done_bytes = at
            except Again:
                raise Changed from None
            if size is not None and at != size:
                raise Changed
            file.flush()

    def _more_room(self, needed_bytes: int) -> int:
        """Of a file of which nobody said how large it is; gives how far there is room. Nothing stays of one that has
        none: what is left of it would fill the disk for good.
        """
        with contextlib.suppress(WeightsFailure):
            self._cache.make_room(self._sha256, needed_bytes + ROOM_STEP_BYTES)
            return needed_bytes + ROOM_STEP_BYTES
        try:
            self._cache.make_room(self._sha256, needed_bytes)
        except WeightsFailure:
            discard(self._path)
            raise
        return needed_bytes

    async def _insist(self, ask: Callable[[], Awaitable[bool]]) -> None:
        """Until it says True; raises after so many tries in a row that brought nothing."""
        failed = 0
        while True:
            try:
                if await ask():
                    return
                failed = 0
            except _Broken:
                return  # the first piece came in part; the rest is one of the gaps
            except Again as again:
                failed += 1
                if failed >= self._manner.tries:
                    message = f"{again}; it is tried again, and goes on where it stopped"
                    raise WeightsFailure(Reason.SOURCE_UNREACHABLE, message, retryable=True) from None
                pause = min(self._manner.pause_seconds * 2 ** (failed - 1), PAUSE_LIMIT_SECONDS)
                _log.info("tried again", cause=str(again), failed=failed)
                await self._manner.sleep(max(again.wait_seconds, pause * (0.5 + random.random() / 2)))  # noqa: S311


def _looked_at(beginning: bytes, data: bytes, start: int) -> bytes:
    """The file's first bytes so far. Raises WeightsFailure for those of something else."""
    if start == 0 and len(beginning) < len(MAGIC):
        beginning += data[: len(MAGIC)]
        if len(beginning) >= len(MAGIC):
            check_beginning(beginning)
    return beginning


class _Broken(Exception):
    def __init__(self, at: int, message: str) -> None:
        super().__init__(message)
        self.at = at
