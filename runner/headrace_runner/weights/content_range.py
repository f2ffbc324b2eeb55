"""What an answer says about the file behind it: its size, its validator, which part this is (RFC 9110, 14.4)."""

import re
from collections.abc import Mapping
from typing import Final

from headrace_runner.weights.part_file import Identity
from headrace_runner.weights.ranges import Span

_RANGE: Final = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", re.ASCII)


def part_of(headers: Mapping[str, str]) -> tuple[Span, int] | None:
    """Of a 206: the span, and the size of the whole; None for what does not read."""
    found = _RANGE.fullmatch(headers.get("content-range", "").strip())
    if found is None:
        return None
    first, last, size = (int(each) for each in found.groups())
    return ((first, last + 1), size) if first <= last < size else None


def whole_size(headers: Mapping[str, str]) -> int | None:
    """Of a 200, where it tells."""
    length = headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdigit() and len(length) <= 18 else None


def identity_of(headers: Mapping[str, str], size: int) -> Identity:
    """A weak ETag does not tell that bytes are the same, and If-Range takes none (RFC 9110, 13.1.5)."""
    etag = headers.get("etag", "").strip()
    strong = etag if etag.startswith('"') and len(etag) <= 512 and etag.isascii() else ""
    return Identity(size, strong or headers.get("last-modified", "").strip()[:64])
