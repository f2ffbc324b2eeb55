"""A GGUF without its tensors: all that tokenizing and chat templates need, some MiB in place of many GiB.

It is a GGUF again, so that the same checks and the same loader read it.
"""

import mmap
import struct
from typing import Final

from headrace_runner.engine.gguf import Gguf, InvalidModelFile, read_gguf

MAX_EXTRACT_BYTES: Final = 64 * 1024 * 1024
_HEAD: Final = struct.Struct("<4sIQQ")
_ALIGNMENT: Final = 32
_VERSION: Final = 3
# What the other parts of the header are about: the tensors, or the file itself.
_DROPPED: Final = ("split.", "quantize.", "general.alignment", "imatrix.")


def extract(data: bytes | mmap.mmap, file: Gguf) -> bytes:
    """Give the extract of a file that ``read_gguf`` has read from ``data``. Raises InvalidModelFile."""
    kept = [span for key, span in file.spans.items() if not key.startswith(_DROPPED)]
    size_bytes = sum(end - start for start, end in kept)
    if size_bytes > MAX_EXTRACT_BYTES:
        raise InvalidModelFile(f"its vocabulary has {size_bytes} bytes, at most {MAX_EXTRACT_BYTES} are allowed")
    if "tokenizer.ggml.tokens" not in file.lengths:
        raise InvalidModelFile("it has no vocabulary")
    values = b"".join(data[start:end] for start, end in kept)
    raw = _HEAD.pack(b"GGUF", _VERSION, 0, len(kept)) + values
    padded = raw + bytes(-len(raw) % _ALIGNMENT)
    read_gguf(padded)
    return padded
