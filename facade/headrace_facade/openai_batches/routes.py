"""`/v1/files` and `/v1/batches`."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Annotated, Any, Final, Literal, TypeVar

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import Field
from starlette.types import Send

from headrace_facade.attended import Attended, end, start, write
from headrace_facade.caller import Caller
from headrace_facade.context import Context
from headrace_facade.errors import FacadeError, Forbidden
from headrace_facade.idempotency import HEADER, key_of, one_header
from headrace_facade.identity.dependency import Authenticated
from headrace_facade.openai_batches.batches import unknown_batch
from headrace_facade.openai_batches.files import KEPT_S, Owner, unknown
from headrace_facade.openai_batches.lines import ENDPOINTS, window_seconds
from headrace_facade.openai_batches.names import OUTPUT, batch_id, file_id, read_batch_id, read_file_id, result_id
from headrace_facade.openai_batches.record import Asked, Batch
from headrace_facade.openai_batches.upload import read_upload
from headrace_facade.openai_dialect.errors import Refused
from headrace_facade.openai_dialect.wire import Refusals, Wire, read

router = APIRouter(prefix="/v1", include_in_schema=False)

Json = dict[str, Any]
Item = TypeVar("Item")
_EXPIRY_LEAST: Final = 3600
_EXPIRY_MOST: Final = 30 * 86_400
_BINARY: Final = "application/octet-stream"
_WRITTEN_CHARS: Final = 64 * 1024
Order = Annotated[Literal["asc", "desc"], Query()]


class ExpiresAfter(Wire):
    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=_EXPIRY_LEAST, le=_EXPIRY_MOST)]


class BatchBody(Wire):
    input_file_id: Annotated[str, Field(max_length=64)]
    endpoint: Annotated[str, Field(max_length=128)]
    completion_window: Annotated[str, Field(max_length=16)]
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
        ]
        | None
    ) = None
    output_expires_after: ExpiresAfter | None = None


REFUSED: Final[Refusals] = {}


def owner_of(caller: Caller) -> Owner:
    """Raises Forbidden for who has no token that the API server takes."""
    if caller.token is None:
        raise Forbidden(
            "files and batches are objects of a namespace, made in your own name: they need a token of the cluster "
            "that its API server takes; an API key makes calls"
        )
    return Owner(caller.namespace, caller.token)


def _context(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


@router.post("/files")
async def create_file(request: Request, caller: Authenticated) -> Json:
    owner = owner_of(caller)
    async with _context(request).transfers.slot():
        upload = await read_upload(request.headers.get("Content-Type", ""), request.stream())
        kept_s = _file_fields(upload.fields)
        return (await _context(request).files.save(owner, upload, kept_s)).told()


def _file_fields(fields: dict[str, str]) -> int:
    """How long the file is kept, in seconds. Raises Refused."""
    known = {"purpose", "expires_after[anchor]", "expires_after[seconds]"}
    for name in sorted(fields.keys() - known):
        raise Refused(name[:64], "no such field of the form", "unknown_parameter")
    if fields.get("purpose") != "batch":
        raise Refused("purpose", "is batch: files are read for batches alone", "unsupported_parameter")
    if not fields.keys() - {"purpose"}:
        return KEPT_S
    if fields.get("expires_after[anchor]") != "created_at":
        raise Refused("expires_after.anchor", "is created_at")
    seconds = fields.get("expires_after[seconds]", "")
    if not (seconds.isascii() and seconds.isdigit() and _EXPIRY_LEAST <= int(seconds[:9]) <= _EXPIRY_MOST):
        raise Refused("expires_after.seconds", f"is a number from {_EXPIRY_LEAST} to {_EXPIRY_MOST}")
    return int(seconds[:9])


@router.get("/files")
async def list_files(
    request: Request,
    caller: Authenticated,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    after: Annotated[str | None, Query(max_length=64)] = None,
    order: Order = "desc",
    purpose: Annotated[str | None, Query(max_length=64)] = None,
) -> Json:
    """Uploaded ones; those that batches make are named by their batches."""
    heads = await _context(request).files.all(owner_of(caller))
    found = [each for each in heads if purpose in (None, each.purpose)]
    shown, has_more = _page(found if order == "desc" else found[::-1], lambda each: file_id(each.number), after, limit)
    return _list([each.told() for each in shown], has_more=has_more)


@router.get("/files/{name}")
async def get_file(request: Request, name: str, caller: Authenticated) -> Json:
    number, kind = _file(name)
    owner, context = owner_of(caller), _context(request)
    if not kind:
        return (await context.files.head(owner, number)).told()
    batch = await _batch_of(context, owner, number, kind)
    size_bytes = 0
    async for line in _lines(context, caller, batch, kind):
        size_bytes += len(line.encode(errors="replace"))
    return {
        "id": result_id(number, kind),
        "object": "file",
        "bytes": size_bytes,
        "created_at": batch.asked.created_at,
        "expires_at": None,
        "filename": f"{batch_id(number)}_{kind}.jsonl",
        "purpose": "batch_output",
        "status": "processed",
        "status_details": None,
    }


@router.get("/files/{name}/content")
async def get_file_content(request: Request, name: str, caller: Authenticated) -> Response:
    number, kind = _file(name)
    owner, context = owner_of(caller), _context(request)
    if kind:
        return ResultFile(_lines(context, caller, await _batch_of(context, owner, number, kind), kind))
    return InputFile(context, owner, number)


@router.delete("/files/{name}")
async def delete_file(request: Request, name: str, caller: Authenticated) -> Json:
    number, kind = _file(name)
    if kind:
        raise Refused("file_id", "is made of a batch's tasks when it is read: it goes with its batch")
    await _context(request).files.delete(owner_of(caller), number)
    return {"id": file_id(number), "object": "file", "deleted": True}


@router.post("/batches")
async def create_batch(request: Request, caller: Authenticated) -> Json:
    owner = owner_of(caller)
    one_header(request.headers.getlist(HEADER))
    body = await read(request, BatchBody, REFUSED)
    if body.endpoint not in ENDPOINTS:
        raise Refused("endpoint", f"is one of {', '.join(ENDPOINTS)}")
    number, kind = read_file_id(body.input_file_id) or ("", "")
    if not number or kind:
        raise unknown(body.input_file_id)
    asked = Asked(
        file=number,
        endpoint=body.endpoint,
        window=body.completion_window,
        window_s=window_seconds(body.completion_window),
        created_at=0,
        lines=0,
        metadata=body.metadata,
    )
    if body.output_expires_after is not None:
        asked = asked.with_ttl(body.output_expires_after.seconds)
    return await _context(request).batches.create(owner, asked, key_of(request.headers.get(HEADER), None))


@router.get("/batches")
async def list_batches(
    request: Request,
    caller: Authenticated,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(max_length=64)] = None,
) -> Json:
    owner, batches = owner_of(caller), _context(request).batches
    found = await batches.all(owner)
    shown, has_more = _page(found, lambda each: batch_id(each.number), after, limit)
    return _list(await batches.told(owner, shown), has_more=has_more)


@router.get("/batches/{name}")
async def get_batch(request: Request, name: str, caller: Authenticated) -> Json:
    return await _context(request).batches.look(owner_of(caller), _batch(name))


@router.post("/batches/{name}/cancel")
async def cancel_batch(request: Request, name: str, caller: Authenticated) -> Json:
    return await _context(request).batches.cancel(owner_of(caller), _batch(name))


class _CutOff(Exception):
    """A file whose rest cannot be had: what was sent is not whole, and the client is told by the connection's end."""


class InputFile(Attended):
    """As it was uploaded."""

    def __init__(self, context: Context, owner: Owner, number: str) -> None:
        super().__init__()
        self._context = context
        self._owner = owner
        self._number = number

    async def _work(self, send: Send) -> None:
        files = self._context.files
        async with self._context.transfers.slot():
            content = await files.content(self._owner, await files.head(self._owner, self._number))
            await start(send, 200, _BINARY, (b"content-length", str(len(content)).encode()))
            await send({"type": "http.response.body", "body": content})


class ResultFile(Attended):
    """Lines as they are made of the tasks; before the first one a failure is the answer's status."""

    def __init__(self, lines: AsyncIterator[str]) -> None:
        super().__init__()
        self._lines = lines

    async def _work(self, send: Send) -> None:
        begun, held, held_chars = False, list[str](), 0
        try:
            async for line in self._lines:
                held.append(line)
                held_chars += len(line)
                if held_chars < _WRITTEN_CHARS:
                    continue
                if not begun:
                    begun = True
                    await start(send, 200, _BINARY)
                await write(send, held)
                held, held_chars = [], 0
        except FacadeError as error:
            if begun:
                raise _CutOff from error
            raise
        if not begun:
            await start(send, 200, _BINARY)
        await write(send, held)
        await end(send)


def _lines(context: Context, caller: Caller, batch: Batch, kind: str) -> AsyncIterator[str]:
    made = context.batches.output if kind == OUTPUT else context.batches.errors
    return made(caller, owner_of(caller), batch)


async def _batch_of(context: Context, owner: Owner, number: str, kind: str) -> Batch:
    try:
        return await context.batches.head(owner, number)
    except FacadeError as error:
        raise (unknown(result_id(number, kind)) if error.status == 404 else error) from error


def _file(name: str) -> tuple[str, str]:
    found = read_file_id(name)
    if found is None:
        raise unknown(name)
    return found


def _batch(name: str) -> str:
    number = read_batch_id(name)
    if number is None:
        raise unknown_batch(name)
    return number


def _page(
    found: Sequence[Item], id_of: Callable[[Item], str], after: str | None, limit: int
) -> tuple[list[Item], bool]:
    """Raises Refused where `after` is none of them."""
    first = 0
    if after is not None:
        ids = [id_of(each) for each in found]
        if after not in ids:
            raise Refused("after", "is none of the list's ids: it may have been deleted; begin again without it")
        first = ids.index(after) + 1
    return list(found[first : first + limit]), len(found) > first + limit


def _list(items: list[Json], *, has_more: bool) -> Json:
    ends = {"first_id": items[0]["id"], "last_id": items[-1]["id"]} if items else {"first_id": None, "last_id": None}
    return {"object": "list", "data": items, **ends, "has_more": has_more}
