"""Opens and judges model files before llama.cpp sees them: are they there, are they those meant, are they GGUFs.

What was judged is what is loaded: llama.cpp gets the open descriptors' paths, so a file that is swapped under its name
after the check is not read. A volume that is mounted read-only keeps others from writing into the file itself.
"""

import contextlib
import fcntl
import hashlib
import mmap
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from headrace_runner.engine.failures import EngineRefusal
from headrace_runner.engine.gguf import Gguf, InvalidModelFile, read_gguf
from headrace_runner.engine.header import AdapterHeader, ModelHeader, adapter_header, model_header
from headrace_runner.engine.settings import AdapterFile, EngineSettings, ModelFile

MAX_LISTED: Final = 10
_MAX_WALKED: Final = 10_000
_CHUNK_BYTES: Final = 4 * 1024 * 1024
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
"""As a cache of fetched weights names its folders."""
_Judged = TypeVar("_Judged")


@dataclass(frozen=True, slots=True)
class VerifiedFile:
    """An open, verified file; ``load_path`` is its descriptor's. ``sha256`` is None where none was expected."""

    name: str
    load_path: str
    size_bytes: int
    sha256: str | None


@dataclass(frozen=True, slots=True)
class VerifiedAdapter:
    """A LoRA that fits the weights, and how strongly it is to be applied."""

    file: VerifiedFile
    header: AdapterHeader
    scale: float


@dataclass(frozen=True, slots=True)
class VerifiedModel:
    """The weights, in one file or in the parts of a split GGUF, and the adapters on them."""

    files: tuple[VerifiedFile, ...]
    header: ModelHeader
    adapters: tuple[VerifiedAdapter, ...] = ()

    @property
    def load_paths(self) -> tuple[str, ...]:
        return tuple(file.load_path for file in self.files)

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    @property
    def sha256(self) -> str | None:
        """The file's digest; parts have one each and none together."""
        return self.files[0].sha256 if len(self.files) == 1 else None


def verify(settings: EngineSettings, on_percent: Callable[[int], None]) -> VerifiedModel:
    """Verify all files; a checksum is computed only where one is expected.

    Raises EngineRefusal: ModelFileNotFound, ChecksumMismatch, InvalidModelFile.
    """
    wanted: list[ModelFile | AdapterFile] = [*settings.files, *settings.adapters]
    opened = [_open(file.path, settings.models_dir) for file in wanted]
    progress = _Progress(sum(each.size for each, file in zip(opened, wanted, strict=True) if file.sha256), on_percent)
    read = []
    for each, file in zip(opened, wanted, strict=True):
        if file.sha256 is not None and (actual := _checksum(each.descriptor, progress)) != file.sha256:
            message = f"{each.name!r} has sha256 {actual}, expected {file.sha256}"
            raise EngineRefusal("ChecksumMismatch", message)
        read.append((VerifiedFile(each.name, each.load_path, each.size, file.sha256), _read(each)))
    parts, loras = read[: len(settings.files)], read[len(settings.files) :]
    header = _judge(parts[0][0].name, partial(model_header, [gguf for _, gguf in parts]))
    adapters = tuple(
        VerifiedAdapter(file, _judge(file.name, partial(adapter_header, gguf, header)), wanted.scale)
        for wanted, (file, gguf) in zip(settings.adapters, loras, strict=True)
    )
    return VerifiedModel(tuple(file for file, _ in parts), header, adapters)


@dataclass(frozen=True, slots=True)
class _Opened:
    name: str
    descriptor: int
    size: int

    @property
    def load_path(self) -> str:
        return f"/proc/self/fd/{self.descriptor}"


class _Progress:
    """Tells every five percent of all bytes that are to be read."""

    def __init__(self, total: int, on_percent: Callable[[int], None]) -> None:
        self._total = max(total, 1)
        self._on_percent = on_percent
        self._done = self._told = 0

    def add(self, count: int) -> None:
        self._done += count
        percent = min(100, self._done * 100 // self._total)
        if percent >= self._told + 5:
            self._told = percent
            self._on_percent(percent)


def _read(file: _Opened) -> Gguf:
    def read() -> Gguf:
        if file.size == 0:
            raise InvalidModelFile("it is empty")
        with mmap.mmap(file.descriptor, 0, access=mmap.ACCESS_READ) as content:
            return read_gguf(content)

    return _judge(file.name, read)


def _judge(name: str, judge: Callable[[], _Judged]) -> _Judged:
    try:
        return judge()
    except InvalidModelFile as error:
        raise EngineRefusal("InvalidModelFile", f"{name!r} cannot be loaded: {error}") from error


def _open(path: Path, models_dir: Path) -> _Opened:
    name = _name_in_volume(path, models_dir)
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
    # Whoever makes room in a cache of weights leaves this one; not every filesystem can say so.
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return _Opened(name, descriptor, status.st_size)


def _checksum(descriptor: int, progress: _Progress) -> str:
    digest = hashlib.sha256()
    done = 0
    while chunk := os.pread(descriptor, _CHUNK_BYTES, done):
        digest.update(chunk)
        done += len(chunk)
        progress.add(len(chunk))
    return digest.hexdigest()


def _name_in_volume(path: Path, models_dir: Path) -> str:
    # As the user wrote it in spec.local.source, not as it is mounted.
    return str(path.relative_to(models_dir)) if path.is_relative_to(models_dir) else str(path)


def _listing(path: Path, models_dir: Path) -> str:
    root = models_dir if path.is_relative_to(models_dir) else path.parent
    found: list[str] = []
    walked = 0
    for folder, folders, files in os.walk(root):
        # Of a cache that many share nobody is told what is in it.
        folders[:] = sorted(name for name in folders if not _DIGEST.fullmatch(name))
        walked += len(files) + len(folders)
        found += (str(Path(folder, file).relative_to(root)) for file in sorted(files) if file.endswith(".gguf"))
        if len(found) > MAX_LISTED or walked > _MAX_WALKED:
            break
    if not found:
        return "there is no *.gguf file"
    more = " and more" if len(found) > MAX_LISTED else ""
    return f"there are: {', '.join(name[:200] for name in found[:MAX_LISTED])}{more}"
