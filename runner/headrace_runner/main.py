"""The ``headrace-runner`` command."""

import asyncio
import os
import signal
import sys

import structlog

from headrace_runner.context import run
from headrace_runner.logs import configure_logs
from headrace_runner.settings import RunnerSettings


def main() -> int:
    """Run until SIGTERM or SIGINT; gives the exit code."""
    configure_logs()
    try:
        settings = RunnerSettings.from_environment(os.environ)
    except ValueError as error:
        structlog.get_logger().error("runner cannot start", cause=str(error))
        return 2
    asyncio.run(_run(settings))
    return 0


async def _run(settings: RunnerSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    with structlog.contextvars.bound_contextvars(model=str(settings.model), pod=settings.pod):
        await run(settings, stop)


if __name__ == "__main__":
    sys.exit(main())
