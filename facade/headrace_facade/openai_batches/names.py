"""Ids, and the objects' names and labels that follow from them. Pure."""

import hashlib
import re
import secrets
from typing import Final

from headrace_crds import GROUP

LABEL_FILE: Final = f"{GROUP}/file"
"""On all ConfigMaps of a file: its number."""
LABEL_PART: Final = f"{GROUP}/file-part"
"""On them: `head`, which tells of the file, or a part's number from 0 on."""
HEAD: Final = "head"
LABEL_BATCH: Final = f"{GROUP}/batch"
"""On a batch's ConfigMap and its tasks: its number."""
LABEL_RECORD: Final = f"{GROUP}/batch-record"
"""On a batch's ConfigMap, with the value "true"."""
ANNOTATION_CUSTOM_ID: Final = f"{GROUP}/batch-custom-id"
"""On a task: the line's own id."""

OUTPUT: Final = "output"
ERRORS: Final = "errors"
_DIGITS: Final = 24
_FILE: Final = re.compile(rf"file-([0-9a-f]{{{_DIGITS}}})(?:-({OUTPUT}|{ERRORS}))?")
_BATCH: Final = re.compile(rf"batch_([0-9a-f]{{{_DIGITS}}})")
_TASK: Final = re.compile(rf"batch-[0-9a-f]{{{_DIGITS}}}-([0-9]{{5}})")


def new_number() -> str:
    """24 hex digits."""
    return secrets.token_hex(_DIGITS // 2)


def number_of_key(namespace: str, key: str) -> str:
    """The only number that an idempotency key can have in this namespace."""
    return hashlib.sha256(f"batch\0{namespace}\0{key}".encode()).hexdigest()[:_DIGITS]


def file_id(number: str) -> str:
    return f"file-{number}"


def result_id(batch: str, kind: str) -> str:
    """Of the file that is made of a batch's tasks when it is read; `kind` is OUTPUT or ERRORS."""
    return f"file-{batch}-{kind}"


def batch_id(number: str) -> str:
    return f"batch_{number}"


def read_file_id(text: str) -> tuple[str, str] | None:
    """A file's number and an empty word, or a batch's number and OUTPUT or ERRORS. None: no id."""
    match = _FILE.fullmatch(text)
    return None if match is None else (match[1], match[2] or "")


def read_batch_id(text: str) -> str | None:
    match = _BATCH.fullmatch(text)
    return None if match is None else match[1]


def head_name(number: str) -> str:
    return f"headrace-file-{number}"


def part_name(number: str, part: int) -> str:
    return f"headrace-file-{number}-{part}"


def record_name(number: str) -> str:
    return f"headrace-batch-{number}"


def task_name(number: str, line: int) -> str:
    """In the order of the lines."""
    return f"batch-{number}-{line:05d}"


def line_of(task: str) -> int | None:
    """The line, from 1 on, that a task of this name is of."""
    match = _TASK.fullmatch(task)
    return None if match is None else int(match[1])
