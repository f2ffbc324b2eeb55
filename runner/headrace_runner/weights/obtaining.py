"""From nothing, from half of it or from all of it to verified weights in the cache."""

import asyncio
import os
from typing import Final

import structlog

from headrace_crds.reasons import Reason
from headrace_runner.weights.bandwidth import Bandwidth
from headrace_runner.weights.cache import Cache
from headrace_runner.weights.check import check_gguf, digest_of
from headrace_runner.weights.download import Download, Manner
from headrace_runner.weights.failures import WeightsFailure
from headrace_runner.weights.fetching import Fetcher
from headrace_runner.weights.part_file import discard
from headrace_runner.weights.progress import Progress

_SPARE_CONNECTIONS: Final = 1

_log = structlog.get_logger()


async def obtain(
    fetcher: Fetcher, cache: Cache, sha256: str, bandwidth: Bandwidth, progress: Progress, manner: Manner
) -> int:
    """Size of the verified file, whoever fetched it. Raises WeightsFailure."""
    if (there := cache.present(sha256)) is not None:
        return there
    async with cache.held(sha256, lambda: progress.enter("Waiting")):
        if (there := cache.present(sha256)) is not None:
            return there
        for again in (True, False):
            download = Download(fetcher, cache, sha256, bandwidth, progress, manner)
            size = await download.run()
            progress.enter("Verifying")
            actual = await _digest(cache, sha256, size, progress)
            if actual == sha256:
                break
            discard(cache.part(sha256))
            if not (again and download.resumed):
                message = f"the file has sha256 {actual}, spec.local.source says {sha256}: correct one of the two"
                raise WeightsFailure(Reason.WRONG_DIGEST, message)
            # Pieces of two files, or a disk that forgot: once from the beginning.
            _log.info("what was resumed is not the file, begun anew")
        with cache.told(size):
            try:
                await asyncio.to_thread(check_gguf, cache.part(sha256))
            except WeightsFailure:
                discard(cache.part(sha256))
                raise
            cache.put(sha256)
        discard(cache.part(sha256))
        return size


async def _digest(cache: Cache, sha256: str, size: int, progress: Progress) -> str:
    progress.begin_at(0, size)
    loop, path = asyncio.get_running_loop(), cache.part(sha256)

    def tell(done: int) -> None:
        loop.call_soon_threadsafe(setattr, progress, "done_bytes", done)

    def read() -> str:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return digest_of(path, tell)

    with cache.told(size):
        return await asyncio.to_thread(read)


def connections(manner: Manner) -> int:
    return manner.parallel + _SPARE_CONNECTIONS
