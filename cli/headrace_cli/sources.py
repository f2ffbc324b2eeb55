"""Reads manifests from files, folders and stdin."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

LIMIT_BYTES: Final = 16 * 1024 * 1024
_ENDINGS: Final = (".yaml", ".yml", ".json")


class SourceError(Exception):
    """Something named on the command line cannot be read; the message is for its author."""


def read_sources(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each source's name and text; folders give their manifests in the order of their names. Raises SourceError."""
    for name in names:
        if name == "-":
            yield "stdin", _decoded(sys.stdin.buffer.read(LIMIT_BYTES + 1), "stdin")
        else:
            for path in _files(Path(name)):
                yield str(path), _decoded(_content(path), str(path))


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(each for each in path.rglob("*") if each.suffix in _ENDINGS and each.is_file())
    if not found:
        raise SourceError(f"{path}: no manifest ({', '.join(_ENDINGS)}) in this folder")
    return found


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(LIMIT_BYTES + 1)
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror or error}") from error


def _decoded(data: bytes, name: str) -> str:
    if len(data) > LIMIT_BYTES:
        raise SourceError(f"{name}: larger than {LIMIT_BYTES // 1024 // 1024} MiB; is this a manifest?")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(f"{name}: not UTF-8 text; is this a manifest?") from error
