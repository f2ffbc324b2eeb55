"""Whether what was fetched is what was meant: its digest, and that it is a GGUF that the engine would open."""

import hashlib
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from headrace_crds.reasons import Reason
from headrace_runner.engine.gguf import InvalidModelFile, read_gguf
from headrace_runner.weights.failures import WeightsFailure

MAGIC: Final = b"GGUF"
_CHUNK_BYTES: Final = 4 * 1024 * 1024


def check_beginning(data: bytes) -> None:
    """Of the first bytes, so that no hundred gigabytes of something else are fetched. Raises WeightsFailure."""
    if not data.startswith(MAGIC):
        kind = "it looks like a web page" if data.lstrip()[:1] == b"<" else "it does not begin with GGUF"
        message = f"the file at the source is no GGUF: {kind}; correct spec.local.source"
        raise WeightsFailure(Reason.INVALID_MODEL_FILE, message)


def digest_of(path: Path, on_bytes: Callable[[int], None]) -> str:
    """SHA-256; blocks. ``on_bytes`` is called with what was read so far. Raises OSError."""
    digest, done = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            done += len(chunk)
            on_bytes(done)
    return digest.hexdigest()


def check_gguf(path: Path) -> None:
    """Raises WeightsFailure, OSError."""
    with path.open("rb") as file:
        try:
            if path.stat().st_size == 0:
                raise InvalidModelFile("it is empty")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                read_gguf(content)
        except InvalidModelFile as error:
            message = f"the fetched file cannot be loaded: {error}: name another file in spec.local.source"
            raise WeightsFailure(Reason.INVALID_MODEL_FILE, message) from None
