"""A file that is on its way: its bytes in place, and beside it a journal of the spans that are on the disk.

A span is in the journal only after its bytes were synced, so that neither a kill nor a lost node leaves a journal that
promises too much.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from headrace_runner.weights.ranges import Spans

_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Identity:
    """What makes two answers pieces of one file; ``validator`` is a strong ETag or the date of the last change, and
    empty where the server tells neither.
    """

    size_bytes: int
    validator: str


@dataclass(frozen=True, slots=True)
class Begun:
    """What an earlier download left."""

    identity: Identity
    spans: tuple[tuple[int, int], ...]


def read_journal(path: Path) -> Begun | None:
    """None where there is none that reads."""
    try:
        document = json.loads(journal_of(path).read_bytes())
        spans = Spans((int(start), int(end)) for start, end in document["spans"])
        identity = Identity(int(document["sizeBytes"]), str(document["validator"]))
        size = path.stat().st_size
    except (OSError, ValueError, TypeError, KeyError):
        return None
    if document.get("format") != _FORMAT or any(end > identity.size_bytes for _, end in spans):
        return None
    return Begun(identity, tuple(spans)) if size == identity.size_bytes else None


def journal_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def discard(path: Path) -> None:
    journal_of(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


class PartFile:
    """Open while a download runs; not thread-safe but for ``keep``, of which one runs at a time."""

    def __init__(self, path: Path, descriptor: int, identity: Identity, spans: Spans) -> None:
        self.path, self.identity, self.spans = path, identity, spans
        self._descriptor = descriptor

    @classmethod
    def open(cls, path: Path, identity: Identity, begun: Begun | None) -> Self:
        """Goes on with what was ``begun`` of this very file, else begins anew. Raises OSError."""
        if begun is None or begun.identity != identity:
            discard(path)
            begun = None
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
        if begun is None:
            # Its whole size from the beginning on: whoever counts the cache counts what will be there.
            os.ftruncate(descriptor, identity.size_bytes)
        return cls(path, descriptor, identity, Spans(begun.spans if begun is not None else ()))

    def write(self, at: int, data: bytes) -> None:
        """Raises OSError."""
        view = memoryview(data)
        while view:
            written = os.pwrite(self._descriptor, view, at)
            at, view = at + written, view[written:]

    def keep(self, spans: Callable[[], list[tuple[int, int]]]) -> None:
        """Sync, then put the spans that were written before into the journal. Blocks. Raises OSError."""
        written = spans()
        os.fdatasync(self._descriptor)
        for start, end in written:
            self.spans.add(start, end)
        document = {
            "format": _FORMAT,
            "sizeBytes": self.identity.size_bytes,
            "validator": self.identity.validator,
            "spans": list(self.spans),
        }
        draft = self.path.with_name(f"{self.path.name}.json.draft")
        with draft.open("w") as file:
            json.dump(document, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(journal_of(self.path))

    def close(self) -> None:
        os.close(self._descriptor)
