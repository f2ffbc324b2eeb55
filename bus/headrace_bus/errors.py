"""The bus's errors; vendor exceptions are turned into these once, in `connection`.

BusError
├── BusUnavailable     retryable: no connection, time-out, loading, read-only replica, busy
├── BusOutOfMemory     retryable after room was made: the write was refused whole
├── TooManyParked      retryable after the operator took some: nothing was done
├── BusDenied          NOAUTH, WRONGPASS, NOPERM
├── BusMisconfigured   the server's settings would lose work
├── BusCorrupt         a model's keys hold what no transition writes
├── EnvelopeTooNew     written by a later version than this one reads; nothing was taken
├── EnvelopeInvalid    not an envelope at all
└── PayloadTooLarge    envelope or report above its bound; nothing was sent
"""

# The names say the state: that is how the callers' `except` lines read best.

from typing import ClassVar


class BusError(Exception):
    """Whatever Redis answers that has no better name; not worth a retry."""

    reason: ClassVar[str] = "BusError"
    retryable: ClassVar[bool] = False


class BusUnavailable(BusError):
    """Redis cannot be reached or cannot serve for the moment."""

    reason = "BusUnavailable"
    retryable = True


class BusOutOfMemory(BusError):
    """Redis is at `maxmemory`: nothing of the write was done."""

    reason = "BusOutOfMemory"
    retryable = True


class TooManyParked(BusError):
    """The model has as many parked results as it may have."""

    reason = "TooManyParked"
    retryable = True


class BusDenied(BusError):
    """Credentials or ACL rules do not admit the command, key or channel."""

    reason = "BusDenied"


class BusMisconfigured(BusError):
    """The server runs with settings under which queued work can vanish."""

    reason = "BusMisconfigured"


class BusCorrupt(BusError):
    """A model's keys hold what no transition writes: whoever has its runners' password can do that. The message names
    the model and tells nothing of the content.
    """

    reason = "BusCorrupt"


class EnvelopeTooNew(BusError):
    """The envelope's version is above what this process reads."""

    reason = "EnvelopeTooNew"

    def __init__(self, version: int, supported: int) -> None:
        super().__init__(f"envelope version {version} is above {supported}, the highest read here")
        self.version = version
        self.supported = supported


class EnvelopeInvalid(BusError):
    """The bytes are not an envelope of any version."""

    reason = "EnvelopeInvalid"


class PayloadTooLarge(BusError):
    """A document is above the bound for its kind."""

    reason = "PayloadTooLarge"

    def __init__(self, what: str, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(f"{what} has {size_bytes} bytes, {limit_bytes} are allowed")
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes
