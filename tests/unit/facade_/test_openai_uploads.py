"""Uploads: read piece by piece, bounded, and refused before they have come."""

import asyncio
import io
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncOpenAI
from starlette.requests import ClientDisconnect

from headrace_facade.caller import Caller
from headrace_facade.chunks import Lists
from headrace_facade.errors import BadRequest, BodyTooLarge, FacadeError, WrongContentType
from headrace_facade.openai_batches.files import FileHead, Owner
from headrace_facade.openai_batches.upload import BODY_LIMIT_BYTES, FILE_LIMIT_BYTES, Upload, read_upload
from headrace_facade.openai_dialect.errors import Refused
from tests.fake_calls.service import KEY, FakeContext
from tests.fake_calls.serving import served

FORM = "multipart/form-data; boundary=edge"
PIECE = b"x" * 65_536


def form(*parts: tuple[str, bytes], end: bytes = b"--edge--\r\n") -> bytes:
    return (
        b"".join(
            b"--edge\r\nContent-Disposition: form-data; " + head.encode() + b"\r\n\r\n" + body + b"\r\n"
            for head, body in parts
        )
        + end
    )


FILE = ('name="file"; filename="a.jsonl"', b"one\ntwo")
PURPOSE = ('name="purpose"', b"batch")


async def pieces(body: bytes, size: int = 65_536) -> AsyncIterator[bytes]:
    for first in range(0, len(body), size):
        yield body[first : first + size]


async def endless() -> AsyncIterator[bytes]:
    yield form(PURPOSE, FILE, end=b"")[:-2]
    while True:
        yield PIECE


@given(content=st.binary(max_size=300).filter(lambda raw: b"--edge" not in raw), size=st.integers(1, 400))
async def test_a_file_comes_out_as_it_went_in(content: bytes, size: int) -> None:
    upload = await read_upload(FORM, pieces(form(PURPOSE, (FILE[0], content)), size))
    assert (upload.filename, upload.fields) == ("a.jsonl", {"purpose": "batch"})
    assert zlib.decompress(upload.compressed) == content
    assert upload.size_bytes == len(content)


@pytest.mark.parametrize(
    ("content_type", "body", "error"),
    [
        pytest.param("application/json", b"{}", WrongContentType, id="no form"),
        pytest.param("multipart/form-data", form(FILE), WrongContentType, id="no boundary"),
        pytest.param(FORM, b"", BadRequest, id="empty"),
        pytest.param(FORM, b"no form", BadRequest, id="nonsense"),
        pytest.param(FORM, form(FILE, end=b""), BadRequest, id="cut off"),
        pytest.param(FORM, form(PURPOSE), Refused, id="no file"),
        pytest.param(FORM, form(FILE, FILE), Refused, id="two files"),
        pytest.param(FORM, form(PURPOSE, PURPOSE, FILE), Refused, id="a field twice"),
        pytest.param(FORM, form(*((f'name="{n}"', b"x") for n in range(20)), FILE), Refused, id="many fields"),
        pytest.param(FORM, form(('name="purpose"', b"x" * 2000), FILE), BadRequest, id="a large field"),
        pytest.param(FORM, form(('name="purpose"', b"\xff"), FILE), BadRequest, id="a field that is no text"),
        pytest.param(FORM, form((f'name="{"n" * 9000}"', b""), FILE), BadRequest, id="a large header"),
    ],
)
async def test_what_is_no_upload(content_type: str, body: bytes, error: type[FacadeError]) -> None:
    with pytest.raises(error) as refused:
        await read_upload(content_type, pieces(body))
    assert type(refused.value) is error


async def test_an_endless_file_is_cut_off() -> None:
    taken = 0

    async def counted() -> AsyncIterator[bytes]:
        nonlocal taken
        async for piece in endless():
            taken += len(piece)
            yield piece

    with pytest.raises(BodyTooLarge):
        await read_upload(FORM, counted())
    assert taken <= BODY_LIMIT_BYTES + len(PIECE)


class TokenCallers:
    async def authenticate(self, headers: object) -> Caller:
        return Caller("team-a", "alice", token="t")


@dataclass
class KeptFiles:
    kept: list[Upload] = field(default_factory=list)

    async def save(self, owner: Owner, upload: Upload, kept_s: int) -> FileHead:
        self.kept.append(upload)
        return FileHead("f" * 24, upload.filename, upload.size_bytes, upload.sha256, 1, 1, 1 + kept_s)


@dataclass
class UploadContext(FakeContext):
    transfers: Lists = field(default_factory=Lists)
    files: KeptFiles = field(default_factory=KeptFiles)


async def test_the_client_sends_a_file_and_hears_why_not() -> None:
    context = UploadContext(callers=TokenCallers())
    async with (
        served(context) as address,
        AsyncOpenAI(api_key=KEY, base_url=f"{address}/v1", max_retries=0) as client,
    ):
        largest = io.BytesIO(b"x" * FILE_LIMIT_BYTES)
        assert (await client.files.create(file=("a.jsonl", largest), purpose="batch")).bytes == FILE_LIMIT_BYTES
        with pytest.raises(openai.BadRequestError) as purpose:
            await client.files.create(file=b"x", purpose="assistants")
        assert (purpose.value.param, purpose.value.code) == ("purpose", "unsupported_parameter")
        with pytest.raises(openai.APIStatusError) as larger:
            await client.files.create(file=io.BytesIO(b"x" * (FILE_LIMIT_BYTES + 1)), purpose="batch")
        assert larger.value.status_code == 413
        assert len(context.files.kept) == 1


@pytest.mark.parametrize("length", ["Content-Length: 100000000", "Transfer-Encoding: chunked"])
async def test_a_hundred_megabytes_are_refused_before_they_come(length: str) -> None:
    """By what is declared, or, where nothing is, after what a file may have."""
    context = UploadContext(callers=TokenCallers())
    chunked = "chunked" in length
    async with served(context) as address:
        host, port = address.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = f"POST /v1/files HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {KEY}\r\nContent-Type: {FORM}\r\n{length}"
        writer.write(head.encode() + b"\r\n\r\n")
        answered, sent = asyncio.create_task(reader.readline()), 0
        async for piece in endless():
            if answered.done() or not chunked:
                break
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
            sent += len(piece)
        assert b" 413 " in await answered
        assert sent < 2 * FILE_LIMIT_BYTES
        assert b"a file may have 16 MiB" in await reader.readuntil(b"split it into several")
        writer.close()
    assert context.files.kept == []


async def test_who_goes_away_is_no_defect() -> None:
    async def cut() -> AsyncIterator[bytes]:
        yield form(PURPOSE, FILE, end=b"")
        raise ClientDisconnect

    with pytest.raises(BadRequest, match="went away"):
        await read_upload(FORM, cut())


async def test_nobody_unknown_sends_a_file() -> None:
    async with served(UploadContext()) as address, httpx.AsyncClient(base_url=address) as http:
        headers = {"Authorization": "Bearer other", "Content-Type": FORM}
        unknown = await http.post("/v1/files", content=form(PURPOSE, FILE), headers=headers)
        assert unknown.status_code == 401
        by_key = await http.post(
            "/v1/files", content=form(PURPOSE, FILE), headers={**headers, "Authorization": f"Bearer {KEY}"}
        )
        assert by_key.status_code == 403
        assert "token" in by_key.json()["error"]["message"]
