"""The ``headrace-runner`` command."""

import asyncio
import gc
import os
import signal
import sys
from typing import Final

import structlog

from headrace_runner.context import run
from headrace_runner.logs import configure_logs, error_keys
from headrace_runner.settings import RunnerSettings, SettingsError

GARBAGE_OBJECTS: Final = 20_000
"""So many objects more than were freed make the collector look; Python's own is 700."""


def main() -> int:
    """Run until SIGTERM or SIGINT; gives the exit code."""
    configure_logs()
    try:
        settings = RunnerSettings.from_environment(os.environ)
    except SettingsError as error:
        return _refuse(error)
    try:
        # What the imports left stays for good, and the collector would look at it again and again during a burst.
        gc.freeze()
        gc.set_threshold(GARBAGE_OBJECTS)
        asyncio.run(_run(settings))
    except SettingsError as error:
        return _refuse(error)
    except Exception as error:  # its message may quote what must not be logged
        structlog.get_logger().error("runner broke", **error_keys(error))
        return 1
    return 0


def _refuse(error: SettingsError) -> int:
    structlog.get_logger().error("runner cannot start", cause=str(error))
    return 2


async def _run(settings: RunnerSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    with structlog.contextvars.bound_contextvars(model=str(settings.model), pod=settings.pod):
        await run(settings, stop)


if __name__ == "__main__":
    sys.exit(main())
