"""Notices that the pod's Redis credentials changed: the file is mounted from a Secret and follows it within minutes.

Connections are made with the credentials of the start, so the runner ends and its container starts with the new ones.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from headrace_runner.settings import SettingsError

CHECK_SECONDS: Final = 5.0

_log = structlog.get_logger()


async def until_rotated(read: Callable[[], str], *, every_seconds: float = CHECK_SECONDS) -> None:
    """Return when ``read`` gives another URL than at first. A file that cannot be read at the moment is no change."""
    used = read()
    while True:
        await asyncio.sleep(every_seconds)
        try:
            current = read()
        except SettingsError:
            continue
        if current != used:
            _log.info("redis credentials changed; the runner starts anew")
            return
