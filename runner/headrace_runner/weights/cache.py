"""The cache's folder: one folder a digest, and who may touch it.

    <cache>/<sha256>/model.gguf               verified; engines hold a shared flock on it while they have it open
    <cache>/<sha256>/model.gguf.part, .json   on its way
    <cache>/<sha256>/used                     its time is when somebody asked for it last
    <cache>/.locks/<sha256>                   flock of whoever downloads or removes it; never deleted

Pods of other models, namespaces and nodes may use the same folder: nothing but flocks says who is there. A network
filesystem has to carry them (NFSv4 does).
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import re
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from headrace_crds.source import CACHED_FILE
from headrace_runner.weights.failures import disk_full, of_disk

LOCK_LOOK_SECONDS: Final = 0.5
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_HELD: Final = frozenset({errno.EAGAIN, errno.EACCES})


@dataclass(frozen=True, slots=True)
class Entry:
    """What one digest takes of the cache, by the sizes that its files will have."""

    sha256: str
    size_bytes: int
    used_at: float


class Cache:
    """``limit_bytes`` None: it may grow as far as its filesystem."""

    def __init__(self, root: Path, limit_bytes: int | None = None) -> None:
        self.root, self._limit_bytes = root, limit_bytes

    def folder(self, sha256: str) -> Path:
        return self.root / sha256

    def file(self, sha256: str) -> Path:
        return self.folder(sha256) / CACHED_FILE

    def part(self, sha256: str) -> Path:
        return self.folder(sha256) / f"{CACHED_FILE}.part"

    @contextlib.asynccontextmanager
    async def held(self, sha256: str, waiting: Callable[[], None]) -> AsyncIterator[None]:
        """The digest is ours alone; ``waiting`` is called once where somebody else has it. Raises WeightsFailure."""
        with self.told():
            descriptor = self._lock_file(sha256)
        try:
            told = False
            while not _locked(descriptor):
                if not told:
                    told = True
                    waiting()
                await asyncio.sleep(LOCK_LOOK_SECONDS)
            with self.told():
                self.folder(sha256).mkdir(mode=0o750, exist_ok=True)
            yield
        finally:
            os.close(descriptor)

    def present(self, sha256: str) -> int | None:
        """Size of the verified file; None where it is not there. It counts as used."""
        try:
            size = self.file(sha256).stat().st_size
        except OSError:
            return None
        self.touch(sha256)
        return size

    def touch(self, sha256: str) -> None:
        with contextlib.suppress(OSError):
            stamp = self.folder(sha256) / "used"
            stamp.touch()
            os.utime(stamp)

    def put(self, sha256: str) -> None:
        """The part becomes the file, for good. Raises OSError."""
        os.replace(self.part(sha256), self.file(sha256))
        descriptor = os.open(self.folder(sha256), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self.touch(sha256)

    def free_bytes(self) -> int:
        status = os.statvfs(self.root)
        return status.f_bavail * status.f_frsize

    def make_room(self, sha256: str, size_bytes: int) -> list[str]:
        """Removes what was used longest ago until this file fits the limit; gives the digests. Raises WeightsFailure
        where it cannot, or where the filesystem has no room.
        """
        removed = []
        with self.told(size_bytes):
            if self._limit_bytes is not None:
                removed = self._evict(sha256, size_bytes, self._limit_bytes)
            part, free = self.part(sha256), self.free_bytes()
            held_bytes = part.stat().st_blocks * 512 if part.exists() else 0
            if size_bytes - held_bytes > free:
                raise disk_full(needed_bytes=size_bytes - held_bytes, free_bytes=free, what="cache")
        return removed

    def entries(self) -> list[Entry]:
        """Those used longest ago first."""
        found = []
        for folder in self.root.iterdir():
            if _DIGEST.fullmatch(folder.name):
                with contextlib.suppress(OSError):
                    sizes = [each.stat().st_size for each in folder.iterdir()]
                    found.append(Entry(folder.name, sum(sizes), _used_at(folder)))
        return sorted(found, key=lambda entry: entry.used_at)

    @contextlib.contextmanager
    def told(self, needed_bytes: int | None = None) -> Iterator[None]:
        """Errors of the filesystem as WeightsFailure."""
        try:
            yield
        except OSError as error:
            try:
                free = self.free_bytes()
            except OSError:
                free = 0
            raise of_disk(error, needed_bytes=needed_bytes, free_bytes=free, what="cache") from None

    def _evict(self, sha256: str, size_bytes: int, limit_bytes: int) -> list[str]:
        removed: list[str] = []
        if size_bytes > limit_bytes:
            # Nothing is removed for what can never fit: a server says any size.
            raise disk_full(
                needed_bytes=size_bytes, free_bytes=limit_bytes, what=f"cache's limit of {limit_bytes} bytes"
            )
        with _exclusive(self._lock_file("evict")):
            entries = [entry for entry in self.entries() if entry.sha256 != sha256]
            total = sum(entry.size_bytes for entry in entries)
            for entry in entries:
                if total + size_bytes <= limit_bytes:
                    break
                if self._remove(entry.sha256):
                    total -= entry.size_bytes
                    removed.append(entry.sha256)
        if total + size_bytes > limit_bytes:
            free = max(0, limit_bytes - total)
            raise disk_full(needed_bytes=size_bytes, free_bytes=free, what=f"cache's limit of {limit_bytes} bytes")
        return removed

    def _remove(self, sha256: str) -> bool:
        """Not what somebody downloads, and not what an engine has open."""
        lock = self._lock_file(sha256)
        try:
            if not _locked(lock):
                return False
            with contextlib.ExitStack() as stack:
                with contextlib.suppress(FileNotFoundError):
                    model = os.open(self.file(sha256), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
                    stack.callback(os.close, model)
                    if not _locked(model):
                        self.touch(sha256)
                        return False
                # In one step: nobody sees half of it.
                going = self.root / f".going-{sha256}"
                shutil.rmtree(going, ignore_errors=True)
                os.rename(self.folder(sha256), going)
            shutil.rmtree(going)
            return True
        finally:
            os.close(lock)

    def _lock_file(self, name: str) -> int:
        locks = self.root / ".locks"
        locks.mkdir(mode=0o750, exist_ok=True)
        return os.open(locks / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)


def _used_at(folder: Path) -> float:
    stamp = folder / "used"
    return (stamp if stamp.exists() else folder).stat().st_mtime


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _HELD:
            raise
        return False
    return True


@contextlib.contextmanager
def _exclusive(descriptor: int) -> Iterator[None]:
    """Evictions are short: whoever comes second waits."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
