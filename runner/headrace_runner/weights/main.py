"""The ``headrace-weights`` command: one file into the cache, and one JSON document about how it ended."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from headrace_bus import Bus, BusError
from headrace_crds.reasons import Reason
from headrace_crds.weights import WeightsEnd
from headrace_runner.logs import configure_logs, error_keys
from headrace_runner.settings import SettingsError
from headrace_runner.weights.bandwidth import Bandwidth
from headrace_runner.weights.cache import Cache
from headrace_runner.weights.download import Manner
from headrace_runner.weights.failures import EXIT_AGAIN, EXIT_SETTINGS, WeightsFailure
from headrace_runner.weights.fetching import Fetcher
from headrace_runner.weights.obtaining import connections, obtain
from headrace_runner.weights.origins import Secret, origin_of
from headrace_runner.weights.progress import Progress
from headrace_runner.weights.settings import WeightsSettings

REPORT_SECONDS: Final = 2.0
REPORT_TTL_MS: Final = 10_000
MESSAGE_LIMIT: Final = 1024

_log = structlog.get_logger()


def main() -> int:
    """Run until the file is there, or it is known why not; gives the exit code."""
    configure_logs()
    try:
        settings = WeightsSettings.from_environment(os.environ)
    except SettingsError as error:
        _log.error("weights cannot be fetched", cause=str(error))
        return EXIT_SETTINGS
    try:
        size = asyncio.run(_run(settings))
    except WeightsFailure as failure:
        _log.error("weights were not fetched", reason=failure.reason, cause=str(failure))
        _tell(settings, failure.reason, str(failure)[:MESSAGE_LIMIT])
        return failure.exit_code
    except asyncio.CancelledError:
        _log.info("stopped; what has come stays")
        return EXIT_AGAIN
    except Exception as error:  # its message may quote a URL
        _log.error("weights broke", **error_keys(error))
        words = f"the downloader broke with {type(error).__name__}: look at its logs"
        _tell(settings, Reason.DOWNLOAD_FAILED, words)
        return EXIT_AGAIN
    _tell(settings, Reason.WEIGHTS_VERIFIED, "", size_bytes=size)
    _log.info("weights verified", size_bytes=size)
    return 0


async def _run(settings: WeightsSettings) -> int:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 — asyncio.run made it
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    origin = origin_of(settings.source, Secret(settings.secret_dir), hugging_face=settings.hugging_face)
    manner, progress = Manner(settings.chunk_bytes, settings.parallel, settings.tries), Progress()
    cache = Cache(settings.cache, settings.limit_bytes)
    async with (
        _reporting(settings, progress),
        Fetcher(origin, settings.exempt, connections=connections(manner)) as fetcher,
    ):
        bandwidth = Bandwidth(settings.bytes_per_second)
        return await obtain(fetcher, cache, settings.sha256, bandwidth, progress, manner)


@contextlib.asynccontextmanager
async def _reporting(settings: WeightsSettings, progress: Progress) -> AsyncIterator[None]:
    """How far it is, for who looks at the model. Nothing waits for Redis."""
    if settings.redis_url_file is None:
        yield
        return
    task = asyncio.create_task(_report(settings, settings.redis_url_file, progress))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _report(settings: WeightsSettings, url_file: Path, progress: Progress) -> None:
    while True:
        try:
            url = await asyncio.to_thread(partial(url_file.read_text, encoding="utf-8"))
            async with Bus.connect(url.strip()) as bus:
                while True:
                    await bus.report(settings.model, settings.pod, progress.document(), ttl_ms=REPORT_TTL_MS)
                    await asyncio.sleep(REPORT_SECONDS)
        except (BusError, OSError, ValueError) as error:
            _log.info("not reported", error=type(error).__name__)
        await asyncio.sleep(REPORT_SECONDS)


def _tell(settings: WeightsSettings, reason: Reason, message: str, *, size_bytes: int = 0) -> None:
    """The kubelet shows it as the container's termination message, at most 4 KiB of it."""
    end = WeightsEnd(reason=reason, message=message, size_bytes=size_bytes, node=settings.node or None)
    with contextlib.suppress(OSError):
        settings.termination_log.write_text(end.model_dump_json(by_alias=True, exclude_none=True), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
