"""Files as ConfigMaps: a head that tells of the file, and its compressed bytes in parts that the head owns.

The head tells nothing before all parts are there: a file is whole or not there. What an upload has left behind when its
replica was killed, and files past their time, are removed when the next one comes.
"""

import asyncio
import base64
import contextlib
import hashlib
import json
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final

from headrace_facade.errors import FacadeError, NotFound
from headrace_facade.kube import KubeClient, KubeObject, Token
from headrace_facade.openai_batches.names import (
    HEAD,
    LABEL_FILE,
    LABEL_PART,
    file_id,
    head_name,
    new_number,
    part_name,
)
from headrace_facade.openai_batches.times import unix_time
from headrace_facade.openai_batches.upload import FILE_LIMIT_BYTES, Upload
from headrace_facade.openai_dialect.errors import ObjectUnknown

PART_BYTES: Final = 700 * 1024
"""In base64 below a MiB, and so well below what a ConfigMap holds."""
KEPT_S: Final = 30 * 86_400
"""How long a file is kept where its upload does not say."""
UPLOAD_WITHIN_S: Final = 3600
"""A head without a file is given up after it."""
FILES_AT_ONCE: Final = 4
"""That a replica receives or sends."""
FILES_MOST: Final = 1000
"""Of a namespace."""
_SWEPT_AT_ONCE: Final = 20
_MEMBER: Final = "file"
_BYTES: Final = "zlib"


@dataclass(frozen=True)
class Owner:
    """In whose name, and where."""

    namespace: str
    token: Token


@dataclass(frozen=True)
class FileHead:
    """Times are whole seconds of Unix time."""

    number: str
    filename: str
    size_bytes: int
    sha256: str
    parts: int
    created_at: int
    expires_at: int
    purpose: str = "batch"

    def told(self) -> dict[str, Any]:
        """OpenAI's object."""
        return {
            "id": file_id(self.number),
            "object": "file",
            "bytes": self.size_bytes,
            "created_at": self.created_at,
            "expires_at": self.expires_at,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
            "status_details": None,
        }


class TooManyFiles(FacadeError):
    status = 403
    code = "TOO_MANY_FILES"


class Files:
    """Raises FacadeError; ObjectUnknown for a file that is not there."""

    def __init__(self, kube: KubeClient, clock: Callable[[], float] = time.time) -> None:
        self._kube = kube
        self._clock = clock

    async def save(self, owner: Owner, upload: Upload, kept_s: int = KEPT_S) -> FileHead:
        await self._sweep(owner)
        number, now = new_number(), int(self._clock())
        size_bytes = len(upload.compressed)
        parts = range(-(-size_bytes // PART_BYTES))
        head = FileHead(number, upload.filename, upload.size_bytes, upload.sha256, len(parts), now, now + kept_s)
        made = await self._kube.create_config_map(
            owner.namespace, _object(head_name(number), number, HEAD), owner.token
        )
        try:
            for part in parts:
                piece = upload.compressed[part * PART_BYTES : (part + 1) * PART_BYTES]
                await self._kube.create_config_map(owner.namespace, _part(number, part, piece, made), owner.token)
            data = {_MEMBER: json.dumps(asdict(head))}
            await self._kube.change_config_map(owner.namespace, head_name(number), data, owner.token)
        except FacadeError:
            # As far as that goes: what stays is swept later.
            with contextlib.suppress(FacadeError):
                await self._remove(owner, number, parts)
            raise
        return head

    async def head(self, owner: Owner, number: str) -> FileHead:
        try:
            found = await self._kube.get_config_map(owner.namespace, head_name(number), owner.token)
        except NotFound as error:
            raise unknown(file_id(number)) from error
        head = _read_head(found)
        if head is None or head.expires_at <= self._clock():
            raise unknown(file_id(number))
        return head

    async def content(self, owner: Owner, head: FileHead) -> bytes:
        """At most FILE_LIMIT_BYTES. What somebody has changed in its ConfigMaps is no file."""
        compressed = bytearray()
        for part in range(head.parts):
            try:
                found = await self._kube.get_config_map(owner.namespace, part_name(head.number, part), owner.token)
                compressed += base64.b64decode((found.get("binaryData") or {})[_BYTES], validate=True)
            except (NotFound, KeyError, ValueError) as error:
                raise unknown(file_id(head.number)) from error
        try:
            content = await asyncio.to_thread(zlib.decompressobj().decompress, compressed, FILE_LIMIT_BYTES)
        except zlib.error as error:
            raise unknown(file_id(head.number)) from error
        if len(content) != head.size_bytes or hashlib.sha256(content).hexdigest() != head.sha256:
            raise unknown(file_id(head.number))
        return content

    async def delete(self, owner: Owner, number: str) -> None:
        head = await self.head(owner, number)
        await self._remove(owner, number, range(head.parts))

    async def all(self, owner: Owner) -> list[FileHead]:
        """Newest first."""
        heads = [_read_head(each) for each in await self._heads(owner)]
        alive = [each for each in heads if each is not None and each.expires_at > self._clock()]
        return sorted(alive, key=lambda head: (-head.created_at, head.number))

    async def _heads(self, owner: Owner) -> list[KubeObject]:
        selector = f"{LABEL_PART}={HEAD}"
        return await self._kube.list_config_maps(owner.namespace, selector, FILES_MOST, owner.token)

    async def _remove(self, owner: Owner, number: str, parts: Iterable[int]) -> None:
        """The parts too: not every cluster's garbage collector is quick."""
        await self._kube.delete_config_map(owner.namespace, head_name(number), owner.token)
        for part in parts:
            with contextlib.suppress(NotFound):
                await self._kube.delete_config_map(owner.namespace, part_name(number, part), owner.token)

    async def _sweep(self, owner: Owner) -> None:
        """A head's parts go with it, by its ownership."""
        now, over, heads = self._clock(), [], await self._heads(owner)
        if len(heads) >= FILES_MOST:
            raise TooManyFiles(f"namespace {owner.namespace!r} has {FILES_MOST} files: delete some")
        for each in heads:
            head = _read_head(each)
            if head is None:
                born = created_at(each)
                if born is None or born + UPLOAD_WITHIN_S > now:
                    continue
            elif head.expires_at > now:
                continue
            over.append(str(each["metadata"]["name"]))
        for name in over[:_SWEPT_AT_ONCE]:
            with contextlib.suppress(FacadeError):
                await self._kube.delete_config_map(owner.namespace, name, owner.token)


def unknown(told: str) -> ObjectUnknown:
    """Of another namespace, deleted, expired: which of them is nobody's to know."""
    return ObjectUnknown(f"there is no file {told[:64]!r} in your namespace: upload one, or list yours")


def created_at(item: KubeObject) -> int | None:
    """Unix time."""
    text = item["metadata"].get("creationTimestamp")
    return None if text is None else unix_time(text)


def _object(name: str, number: str, part: str) -> KubeObject:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "labels": {LABEL_FILE: number, LABEL_PART: part}},
    }


def _part(number: str, part: int, piece: bytearray, head: KubeObject) -> KubeObject:
    made = _object(part_name(number, part), number, str(part))
    made["metadata"]["ownerReferences"] = [owned_by(head)]
    return {**made, "immutable": True, "binaryData": {_BYTES: base64.b64encode(piece).decode()}}


def owned_by(config_map: KubeObject) -> dict[str, Any]:
    """Deletion follows. It blocks no deletion of the owner, which would ask for rights on its finalizers."""
    metadata = config_map["metadata"]
    return {"apiVersion": "v1", "kind": "ConfigMap", "name": metadata["name"], "uid": metadata["uid"]}


def _read_head(item: KubeObject) -> FileHead | None:
    """None: not whole, or what somebody has written."""
    try:
        told = json.loads((item.get("data") or {})[_MEMBER])
        head = FileHead(**told)
        number = item["metadata"]["labels"][LABEL_FILE]
        sizes = (head.size_bytes, head.parts, head.created_at, head.expires_at)
        if head.number != number or not all(type(each) is int and each >= 0 for each in sizes):
            return None
        if head.parts > FILE_LIMIT_BYTES // PART_BYTES + 2 or not isinstance(head.filename, str):
            return None
    except (KeyError, ValueError, TypeError, RecursionError):
        return None
    return head
