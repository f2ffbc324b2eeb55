"""The provider's key, from a file that the kubelet replaces when its Secret changes."""

import os
from pathlib import Path
from typing import Final

from headrace_crds.reasons import Reason
from headrace_runner.providers.protocol import Fault, ProviderError

MAX_BYTES: Final = 16 * 1024


class CredentialFile:
    """Call it for every request: it gives the key as the file has it now, and reads only what has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, ...] | None = None
        self._key = ""

    def version(self) -> object:
        """Another one after the file has changed; None while there is none."""
        try:
            return _version(os.stat(self._path))
        except OSError:
            return None

    def __call__(self) -> str:
        """The key without its trailing newline. Raises ProviderError, Unavailable, for a file that holds none."""
        try:
            seen = _version(os.stat(self._path))
            if seen != self._seen:
                with self._path.open("rb") as file:
                    seen = _version(os.fstat(file.fileno()))
                    raw = file.read(MAX_BYTES + 1)
                self._key, self._seen = _key(raw), seen
        except OSError as error:
            self._seen = None
            message = f"the key cannot be read ({type(error).__name__}): is spec.remote.credentials.secretKeyRef right?"
            raise ProviderError(Fault.UNAVAILABLE, Reason.CREDENTIALS_NOT_FOUND, message) from error
        return self._key


def _version(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


def _key(raw: bytes) -> str:
    raw = raw.removesuffix(b"\n")
    if not raw.strip():
        raise _refused("is empty")
    if len(raw) > MAX_BYTES:
        raise _refused(f"has more than {MAX_BYTES} bytes")
    if b"\n" in raw or b"\r" in raw:
        raise _refused("has more than one line, or a carriage return")
    # A header carries nothing else; spaces at its ends would be lost on the way.
    if raw != raw.strip() or not all(0x20 <= byte < 0x7F for byte in raw):
        raise _refused("has spaces at its ends, or characters that no HTTP header carries")
    return raw.decode("ascii")


def _refused(what: str) -> ProviderError:
    message = f"the key {what}: put the provider's key alone into the Secret of spec.remote.credentials.secretKeyRef"
    return ProviderError(Fault.UNAVAILABLE, Reason.CREDENTIALS_REFUSED, message)
