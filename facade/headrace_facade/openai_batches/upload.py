"""A file's upload, read as it arrives: a multipart form, compressed piece by piece, so that little of it is held.

Nothing is written to a disk. What the file says is looked at when a batch is made of it.
"""

import asyncio
import hashlib
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from headrace_facade.errors import BadRequest, BodyTooLarge, WrongContentType
from headrace_facade.openai_dialect.errors import Refused

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FILE_LIMIT_BYTES: Final = 16 * 1024 * 1024
BODY_LIMIT_BYTES: Final = FILE_LIMIT_BYTES + 64 * 1024
"""With the form around it."""
WITHIN_S: Final = 120.0
_FIELDS_MOST: Final = 16
_FIELD_BYTES: Final = 1024
_FILENAME_CHARS: Final = 255


def too_large() -> BodyTooLarge:
    return BodyTooLarge(
        f"a file may have {FILE_LIMIT_BYTES >> 20} MiB: split it into several, and make a batch of each"
    )


@dataclass(frozen=True)
class Upload:
    """`compressed` is in zlib's format; `fields` are the form's other members."""

    filename: str
    size_bytes: int
    sha256: str
    compressed: bytearray
    fields: dict[str, str]


async def read_upload(content_type: str, pieces: AsyncIterator[bytes]) -> Upload:
    """Raises WrongContentType, BadRequest, BodyTooLarge and Refused."""
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise WrongContentType("a file comes as a form: Content-Type: multipart/form-data, with its boundary")
    form = _Form()
    received = 0
    try:
        parser = MultipartParser(boundary, form.callbacks())
        async with asyncio.timeout(WITHIN_S):
            async for piece in pieces:
                received += len(piece)
                if received > BODY_LIMIT_BYTES:
                    raise too_large()
                parser.write(piece)
        parser.finalize()
    except TimeoutError as error:
        raise BadRequest(f"the file did not arrive within {WITHIN_S:.0f} seconds") from error
    except ClientDisconnect as error:
        raise BadRequest("the client went away") from error
    except FormParserError as error:
        raise BadRequest("the body cannot be read as multipart/form-data") from error
    return form.upload()


class _Form:
    """What the parser tells, bounded."""

    def __init__(self) -> None:
        self._fields: dict[str, bytearray] = {}
        self._header: tuple[bytearray, bytearray] = bytearray(), bytearray()
        self._disposition = b""
        self._field: bytearray | None = None
        self._is_file = False
        self._filename: str | None = None
        self._size_bytes = 0
        self._digest = hashlib.sha256()
        self._zlib = zlib.compressobj()
        self._compressed = bytearray()
        self._whole = False

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, first, end: self._heard(0, data[first:end]),
            "on_header_value": lambda data, first, end: self._heard(1, data[first:end]),
            "on_header_end": self._header_end,
            "on_headers_finished": self._opened,
            "on_part_data": lambda data, first, end: self._data(data[first:end]),
            "on_end": self._end,
        }

    def upload(self) -> Upload:
        if not self._whole:
            raise BadRequest("the form is cut off: send it again")
        if self._filename is None:
            raise Refused("file", "is required", "missing_required_parameter")
        try:
            fields = {name: value.decode() for name, value in self._fields.items()}
        except UnicodeDecodeError as error:
            raise BadRequest("a field of the form is no UTF-8") from error
        self._compressed += self._zlib.flush()
        return Upload(self._filename, self._size_bytes, self._digest.hexdigest(), self._compressed, fields)

    def _begin(self) -> None:
        self._disposition = b""

    def _heard(self, which: int, piece: bytes) -> None:
        # The parser bounds headers.
        self._header[which].extend(piece)

    def _header_end(self) -> None:
        name, value = (bytes(each) for each in self._header)
        self._header = bytearray(), bytearray()
        if name.lower() == b"content-disposition":
            self._disposition = value

    def _opened(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode(errors="replace")
        self._is_file, self._field = name == "file", None
        if self._is_file:
            if self._filename is not None:
                raise Refused("file", "is there more than once: send one file")
            self._filename = options.get(b"filename", b"").decode(errors="replace")[:_FILENAME_CHARS] or "file"
            return
        if name in self._fields or len(self._fields) >= _FIELDS_MOST:
            raise Refused(name[:64], "is there more than once, or is one field too many")
        self._field = self._fields[name] = bytearray()

    def _data(self, piece: bytes) -> None:
        if self._is_file:
            self._size_bytes += len(piece)
            if self._size_bytes > FILE_LIMIT_BYTES:
                raise too_large()
            self._digest.update(piece)
            self._compressed += self._zlib.compress(piece)
        elif self._field is not None:
            self._field += piece
            if len(self._field) > _FIELD_BYTES:
                raise BadRequest("a field of the form is too large")

    def _end(self) -> None:
        self._whole = True
