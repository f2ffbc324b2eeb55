"""The downloader against a file server on loopback: ranges, drops, lies, redirects, one download for all."""

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from weights_server import FileServer, gguf_of, serving

from headrace_crds.hosts import parse_hosts
from headrace_crds.reasons import Reason
from headrace_runner.weights.bandwidth import Bandwidth
from headrace_runner.weights.cache import Cache
from headrace_runner.weights.download import Manner
from headrace_runner.weights.failures import WeightsFailure
from headrace_runner.weights.fetching import Fetcher
from headrace_runner.weights.obtaining import connections, obtain
from headrace_runner.weights.origins import Origin
from headrace_runner.weights.progress import Progress
from headrace_runner.weights.source_http import HttpOrigin

KIB = 1024
CHUNK = 64 * KIB
SIZE = 1000 * KIB


async def no_sleep(_: float) -> None:
    await asyncio.sleep(0)


@dataclass
class Fetching:
    """One run of the downloader into a cache."""

    cache: Cache
    progress: Progress = field(default_factory=Progress)
    parallel: int = 4
    rate: int | None = None

    async def run(self, server: FileServer, *, sha256: str = "", origin: Origin | None = None, exempt: str = "") -> int:
        hosts = parse_hosts(exempt or f"127.0.0.1:{server.port}")
        manner = Manner(chunk_bytes=CHUNK, parallel=self.parallel, tries=4, sleep=no_sleep)
        origin = origin or HttpOrigin(server.url())
        async with Fetcher(origin, hosts, connections=connections(manner)) as fetcher:
            bandwidth = Bandwidth(self.rate)
            return await obtain(fetcher, self.cache, sha256 or server.sha256, bandwidth, self.progress, manner)


@pytest.fixture
def fetching(tmp_path: Path) -> Fetching:
    return Fetching(Cache(tmp_path))


@pytest.fixture
def server() -> FileServer:
    return FileServer(gguf_of(SIZE))


def there(fetching: Fetching, server: FileServer) -> bool:
    folder = fetching.cache.folder(server.sha256)
    assert {each.name for each in folder.iterdir()} <= {"model.gguf", "used"}, "nothing is left beside it"
    return fetching.cache.file(server.sha256).read_bytes() == server.content


async def test_ranges_side_by_side_make_the_file_and_no_byte_is_asked_for_twice(
    fetching: Fetching, server: FileServer
) -> None:
    server.bytes_per_second = 4_000_000
    async with serving(server):
        assert await fetching.run(server) == len(server.content)
    assert there(fetching, server)
    assert server.sent_bytes == len(server.content)
    assert server.open_most == 4
    assert all(each.headers.get("if-range") == '"one"' for each in server.asked[1:])


async def test_what_is_there_is_not_asked_for(fetching: Fetching, server: FileServer) -> None:
    async with serving(server):
        await fetching.run(server)
        asked = len(server.asked)
        assert await fetching.run(server) == len(server.content)
        assert len(server.asked) == asked


async def test_cut_connections_go_on_where_they_ended(fetching: Fetching, server: FileServer) -> None:
    server.drop_after = [16 * KIB, 32 * KIB, 0, 48 * KIB, 16 * KIB]
    async with serving(server):
        await fetching.run(server)
    assert there(fetching, server)
    assert server.sent_bytes == len(server.content)


async def test_a_server_that_gives_less_than_was_asked_for(fetching: Fetching, server: FileServer) -> None:
    server.most_bytes = 20 * KIB
    async with serving(server):
        await fetching.run(server)
    assert there(fetching, server)
    assert server.sent_bytes == len(server.content)


@pytest.mark.parametrize("length", [True, False], ids=["with length", "without length"])
async def test_a_server_without_ranges_is_read_from_the_beginning_again(
    fetching: Fetching, server: FileServer, length: bool
) -> None:
    server.ranges, server.length = False, length
    server.drop_after = [300 * KIB] if length else []
    async with serving(server):
        await fetching.run(server)
    assert there(fetching, server)
    assert len(server.asked) == (2 if length else 1)


async def test_a_file_without_end_ends_at_the_limit_and_leaves_nothing(tmp_path: Path, server: FileServer) -> None:
    server.ranges, server.length = False, False
    fetching = Fetching(Cache(tmp_path, limit_bytes=SIZE // 2))
    async with serving(server):
        with pytest.raises(WeightsFailure) as failure:
            await fetching.run(server)
    assert failure.value.reason == Reason.DISK_FULL
    assert not fetching.cache.part(server.sha256).exists()
    # One that fits is there, however far the room was made ahead.
    fetching = Fetching(Cache(tmp_path, limit_bytes=len(server.content)))
    async with serving(server):
        assert await fetching.run(server) == len(server.content)


@pytest.mark.parametrize("conditions", [True, False], ids=["by If-Range", "by its ETag alone"])
async def test_a_file_that_changes_meanwhile_is_begun_anew(
    fetching: Fetching, server: FileServer, conditions: bool
) -> None:
    old = FileServer(gguf_of(SIZE - 1), etag='"zero"', drop_after=[CHUNK] * 3 + [0] * 100)
    async with serving(old):
        with pytest.raises(WeightsFailure) as failure:
            await fetching.run(old, sha256=server.sha256)
        assert failure.value.reason == Reason.SOURCE_UNREACHABLE
        assert failure.value.retryable
    server.port, server.conditions, server.bytes_per_second = old.port, conditions, 4_000_000
    async with serving(server):
        await fetching.run(server)
    assert there(fetching, server)
    assert server.open_most == 4, "in ranges again"
    assert server.asked_bytes(1) == len(server.content), "nothing is taken for a piece of the new one"
    assert server.asked[0].headers["if-range"] == '"zero"'


async def test_pieces_of_two_files_without_a_validator_are_found_out(fetching: Fetching, server: FileServer) -> None:
    """Same length, other bytes, no ETag: only the digest tells, and then it is fetched once from the beginning."""
    other = FileServer(b"GGUF" + bytes(len(server.content) - 4), etag=None, drop_after=[CHUNK] * 3 + [0] * 100)
    async with serving(other):
        with pytest.raises(WeightsFailure):
            await fetching.run(other, sha256=server.sha256)
    server.port, server.etag = other.port, None
    async with serving(server):
        await fetching.run(server)
    assert there(fetching, server)


async def test_a_wrong_digest_is_a_reason_and_leaves_nothing(fetching: Fetching, server: FileServer) -> None:
    wrong = "0" * 64
    async with serving(server):
        with pytest.raises(WeightsFailure, match=f"has sha256 {server.sha256}, .* says {wrong}") as failure:
            await fetching.run(server, sha256=wrong)
    assert (failure.value.reason, failure.value.retryable) == (Reason.WRONG_DIGEST, False)
    assert list(fetching.cache.folder(wrong).iterdir()) == []
    assert server.sent_bytes == len(server.content), "once"


async def test_a_web_page_is_noticed_at_its_first_bytes(fetching: Fetching) -> None:
    server = FileServer(b"<!doctype html>" + bytes(SIZE))
    async with serving(server):
        with pytest.raises(WeightsFailure, match="web page") as failure:
            await fetching.run(server)
    assert failure.value.reason == Reason.INVALID_MODEL_FILE
    assert server.sent_bytes <= CHUNK


async def test_what_is_no_gguf_inside_is_refused_and_not_kept(fetching: Fetching) -> None:
    server = FileServer(b"GGUF" + b"\xff" * 100)
    async with serving(server):
        with pytest.raises(WeightsFailure, match="cannot be loaded: GGUF version") as failure:
            await fetching.run(server)
    assert failure.value.reason == Reason.INVALID_MODEL_FILE
    assert not fetching.cache.file(server.sha256).exists()


@pytest.mark.parametrize(
    ("status", "reason", "retryable"),
    [
        (401, Reason.CREDENTIALS_REFUSED, False),
        (403, Reason.CREDENTIALS_REFUSED, False),
        (404, Reason.WEIGHTS_NOT_FOUND, False),
        (418, Reason.DOWNLOAD_FAILED, False),
        (500, Reason.SOURCE_UNREACHABLE, True),
        (429, Reason.SOURCE_UNREACHABLE, True),
    ],
)
async def test_what_a_status_means(
    fetching: Fetching, server: FileServer, status: int, reason: Reason, retryable: bool
) -> None:
    server.statuses = [status] * 10
    async with serving(server):
        with pytest.raises(WeightsFailure, match=str(status)) as failure:
            await fetching.run(server)
    assert (failure.value.reason, failure.value.retryable) == (reason, retryable)
    assert len(server.asked) == (4 if retryable else 1)


async def test_a_server_that_has_a_bad_minute_is_asked_again(fetching: Fetching, server: FileServer) -> None:
    server.statuses = [503, 0, 429, 500, 502, 0, 503]
    async with serving(server):
        await fetching.run(server)
    assert there(fetching, server)


async def test_credentials_go_to_the_origin_and_to_nobody_it_redirects_to(
    fetching: Fetching, server: FileServer
) -> None:
    door = FileServer(b"", token="Bearer s3cret")
    async with serving(server), serving(door):
        door.redirects = {"/here": "/m.gguf"}
        door.redirects["/m.gguf"] = server.url("/store?signed=1")
        both = f"127.0.0.1:{server.port},127.0.0.1:{door.port}"
        await fetching.run(server, origin=HttpOrigin(door.url("/here"), lambda: "s3cret"), exempt=both)
    assert there(fetching, server)
    assert {each.headers.get("authorization") for each in door.asked} == {"Bearer s3cret"}
    assert {each.headers.get("authorization") for each in server.asked} == {None}
    assert len(door.asked) == 2, "where it leads is remembered"


async def test_an_address_that_was_given_for_a_while_is_asked_for_again(fetching: Fetching, server: FileServer) -> None:
    door = FileServer(b"")
    server.statuses = [0, 0, 0, 0, 0, 403]
    async with serving(server), serving(door):
        door.redirects = {"/m.gguf": server.url()}
        both = f"127.0.0.1:{server.port},127.0.0.1:{door.port}"
        await fetching.run(server, origin=HttpOrigin(door.url()), exempt=both)
    assert there(fetching, server)
    assert 2 <= len(door.asked) <= 5, "by those that were under way, and no more"


@pytest.mark.parametrize(
    "where",
    [
        "http://127.0.0.1:1/m.gguf",
        "http://169.254.169.254/latest/meta-data",
        "https://10.0.0.1/x",
        "file:///etc/passwd",
    ],
    ids=["another port", "metadata service", "private", "no http"],
)
async def test_a_redirect_into_the_network_is_refused(fetching: Fetching, where: str) -> None:
    door = FileServer(b"", redirects={"/m.gguf": where})
    async with serving(door):
        with pytest.raises(WeightsFailure) as failure:
            await fetching.run(door, sha256="0" * 64)
    assert (failure.value.reason, failure.value.retryable) == (Reason.HOST_NOT_ALLOWED, False)
    assert "latest" not in str(failure.value)


async def test_redirects_end(fetching: Fetching) -> None:
    door = FileServer(b"", redirects={"/m.gguf": "/m.gguf"})
    async with serving(door):
        with pytest.raises(WeightsFailure, match="without end"):
            await fetching.run(door, sha256="0" * 64)


async def test_two_download_once(tmp_path: Path, server: FileServer) -> None:
    server.bytes_per_second = 2_000_000
    first, second = Fetching(Cache(tmp_path)), Fetching(Cache(tmp_path))
    async with serving(server):
        assert await asyncio.gather(first.run(server), second.run(server)) == [len(server.content)] * 2
    assert there(first, server)
    assert server.sent_bytes == len(server.content)
    assert {first.progress.state, second.progress.state} == {"Verifying", "Waiting"}


async def test_the_bandwidth_is_kept(fetching: Fetching, server: FileServer) -> None:
    fetching.rate = 2_000_000
    loop = asyncio.get_running_loop()
    begun = loop.time()
    async with serving(server):
        await fetching.run(server)
    assert loop.time() - begun > 0.9 * (len(server.content) / fetching.rate - 0.25)


async def test_a_cancelled_download_keeps_what_came(fetching: Fetching, server: FileServer) -> None:
    server.bytes_per_second = 200_000
    async with serving(server):
        run = asyncio.create_task(fetching.run(server))
        await server.sent(6 * CHUNK)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        journal = json.loads((fetching.cache.folder(server.sha256) / "model.gguf.part.json").read_text())
        kept = sum(end - start for start, end in journal["spans"])
        assert kept > 0
        server.bytes_per_second, asked = None, len(server.asked)
        await fetching.run(server)
    assert there(fetching, server)
    assert server.asked_bytes(asked) == len(server.content) - kept
