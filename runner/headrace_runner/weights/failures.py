"""How a download ends without the weights.

    WeightsFailure
    ├── retryable        exit 75: the Job tries again, and goes on where it stopped
    └── else             exit 65: nothing changes until somebody acts

Messages name host and remedy: no path, no query, no header, nothing that a server said.
"""

import errno
from typing import Final

from headrace_crds.reasons import Reason

EXIT_FINAL: Final = 65
EXIT_AGAIN: Final = 75
EXIT_SETTINGS: Final = 78
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class WeightsFailure(Exception):
    """``reason`` and the text are for the model's conditions."""

    def __init__(self, reason: Reason, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.reason, self.retryable = reason, retryable

    @property
    def exit_code(self) -> int:
        return EXIT_AGAIN if self.retryable else EXIT_FINAL


class Again(Exception):
    """This request failed and another may succeed; ``wait_seconds`` is what the server asked for."""

    def __init__(self, message: str, *, wait_seconds: float = 0.0) -> None:
        super().__init__(message)
        self.wait_seconds = wait_seconds


class Changed(Exception):
    """The file at the source is not the one that was begun."""


def of_disk(error: OSError, *, needed_bytes: int | None, free_bytes: int, what: str) -> WeightsFailure:
    """What an error of the cache's filesystem means."""
    if error.errno in _FULL:
        return disk_full(needed_bytes=needed_bytes, free_bytes=free_bytes, what=what)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        message = f"the {what} cannot be written ({error.strerror}): let user and group 65532 write there"
        return WeightsFailure(Reason.CACHE_NOT_WRITABLE, message)
    return WeightsFailure(Reason.DOWNLOAD_FAILED, f"the {what} fails: {error.strerror}: look at its volume")


def disk_full(*, needed_bytes: int | None, free_bytes: int, what: str) -> WeightsFailure:
    need = "more" if needed_bytes is None else f"{needed_bytes} bytes"
    message = f"the {what} has {free_bytes} bytes free and needs {need}: enlarge it, or remove models that are not used"
    return WeightsFailure(Reason.DISK_FULL, message)
