"""Opens and judges the model file before llama.cpp sees it: is it there, is it the one meant, is it a GGUF."""

import hashlib
import mmap
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from headrace_runner.engine.failures import EngineRefusal
from headrace_runner.engine.gguf import InvalidModelFile, ModelHeader, read_header

MAX_LISTED: Final = 10
_MAX_WALKED: Final = 10_000
_CHUNK_BYTES: Final = 4 * 1024 * 1024


class VerifiedFile:
    """An open, verified model file.

    Load it from ``load_path``, which is the open descriptor: a file swapped under its name after the check is not read.
    """

    def __init__(self, descriptor: int, size_bytes: int, sha256: str | None, header: ModelHeader) -> None:
        self.load_path = f"/proc/self/fd/{descriptor}"
        self.size_bytes = size_bytes
        self.sha256 = sha256
        self.header = header


def verify(path: Path, models_dir: Path, sha256: str | None, on_percent: Callable[[int], None]) -> VerifiedFile:
    """Verify a file; its checksum is computed only where one is expected.

    Raises EngineRefusal: ModelFileNotFound, ChecksumMismatch, InvalidModelFile.
    """
    name = _name_in_volume(path, models_dir)
    descriptor, size_bytes = _open(path, name, models_dir)
    if sha256 is not None:
        actual = _checksum(descriptor, size_bytes, on_percent)
        if actual != sha256:
            raise EngineRefusal("ChecksumMismatch", f"{name!r} has sha256 {actual}, expected {sha256}")
    try:
        if size_bytes == 0:
            raise InvalidModelFile("it is empty")
        with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as content:
            header = read_header(content)
    except InvalidModelFile as error:
        raise EngineRefusal("InvalidModelFile", f"{name!r} cannot be loaded: {error}") from error
    return VerifiedFile(descriptor, size_bytes, sha256, header)


def _open(path: Path, name: str, models_dir: Path) -> tuple[int, int]:
    try:
        # Without O_NONBLOCK a FIFO in the volume would hold the engine for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        raise EngineRefusal(
            "ModelFileNotFound", f"{name!r} does not exist in the volume; {_listing(path, models_dir)}"
        ) from None
    except OSError as error:
        raise EngineRefusal("ModelFileNotFound", f"{name!r} cannot be opened: {error.strerror}") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise EngineRefusal("ModelFileNotFound", f"{name!r} is not a file; {_listing(path, models_dir)}")
    return descriptor, status.st_size


def _checksum(descriptor: int, size_bytes: int, on_percent: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    done = told = 0
    while chunk := os.pread(descriptor, _CHUNK_BYTES, done):
        digest.update(chunk)
        done += len(chunk)
        percent = min(100, done * 100 // max(size_bytes, 1))
        if percent >= told + 5:
            told = percent
            on_percent(percent)
    return digest.hexdigest()


def _name_in_volume(path: Path, models_dir: Path) -> str:
    # As the user wrote it in spec.local.source, not as it is mounted.
    return str(path.relative_to(models_dir)) if path.is_relative_to(models_dir) else str(path)


def _listing(path: Path, models_dir: Path) -> str:
    root = models_dir if path.is_relative_to(models_dir) else path.parent
    found: list[str] = []
    walked = 0
    for folder, folders, files in os.walk(root):
        folders.sort()
        walked += len(files) + len(folders)
        found += (str(Path(folder, file).relative_to(root)) for file in sorted(files) if file.endswith(".gguf"))
        if len(found) > MAX_LISTED or walked > _MAX_WALKED:
            break
    if not found:
        return "there is no *.gguf file"
    more = " and more" if len(found) > MAX_LISTED else ""
    return f"there are: {', '.join(name[:200] for name in found[:MAX_LISTED])}{more}"
