"""What leaves the runner, and to which address: judged without a connection to anything."""

import asyncio
import ssl
from collections.abc import Iterable, Sequence

import httpcore2
import httpx2
import pytest

from headrace_crds.hosts import Target, parse_hosts
from headrace_crds.reasons import Reason
from headrace_crds.remote import Remote
from headrace_runner.providers.protocol import Fault, ProviderError
from headrace_runner.providers.transport import client
from headrace_runner.providers.transport_errors import HostNotAllowed, NameNotResolved, Redirected, fault_of
from tests.unit.address_vectors import NEVER, NOT_PUBLIC

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
KEY = {"Authorization": "Bearer sk-canary"}


class Stream(httpcore2.AsyncNetworkStream):
    """Answers every request with the same bytes, and keeps what was written."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.left = b""

    async def read(self, max_bytes: int, *_: object) -> bytes:
        part, self.left = self.left[:max_bytes], self.left[max_bytes:]
        return part

    async def write(self, buffer: bytes, *_: object) -> None:
        self.world.written += buffer
        if buffer.endswith(b"\r\n\r\n"):
            self.left = self.world.answer

    async def start_tls(self, ssl_context: object, server_hostname: str | None = None, *_: object) -> "Stream":
        self.world.tls_names.append(server_hostname)
        return self

    async def aclose(self) -> None:
        self.world.closed += 1

    def get_extra_info(self, info: str) -> object:
        return False if info == "is_readable" else None


class World(httpcore2.AsyncNetworkBackend):
    """A resolver and a network in one, which remember what they were asked for."""

    def __init__(self, *answers: Sequence[str] | Exception, answer: bytes = OK, dead: Iterable[str] = ()) -> None:
        self.answers, self.answer, self.dead = list(answers), answer, set(dead)
        self.asked: list[str] = []
        self.connected: list[tuple[str, int]] = []
        self.tls_names: list[str | None] = []
        self.written = b""
        self.closed = 0

    async def resolve(self, target: Target) -> Sequence[str]:
        self.asked.append(target.host.name)
        found = self.answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    async def connect_tcp(self, host: str, port: int, **_: object) -> Stream:
        self.connected.append((host, port))
        if host in self.dead:
            raise httpcore2.ConnectError
        return Stream(self)

    def client(self, allowed: str = "api.example.com", exempt: str = "", **spec: str) -> httpx2.AsyncClient:
        remote = Remote.model_validate({"provider": "OpenAICompatible", "model": "m", **spec})
        return client(remote, parse_hosts(allowed), parse_hosts(exempt), resolver=self.resolve, connector=self)


@pytest.fixture(autouse=True)
def no_authorities(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is trusted here, and reading who would be takes a tenth of a second."""
    real = ssl.create_default_context

    def quick(cadata: str | None = None) -> ssl.SSLContext:
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if cadata is None else real(cadata=cadata)

    monkeypatch.setattr(ssl, "create_default_context", quick)


def fault(error: BaseException) -> ProviderError:
    found = fault_of(error)
    assert found is not None
    assert "sk-canary" not in found.message
    return found


async def test_the_connection_is_to_the_judged_address_and_tls_for_the_name() -> None:
    world = World(["93.184.216.34", "1.1.1.1"])
    async with world.client() as http:
        response = await http.post("https://API.example.com/v1/x?q=1", json={}, headers=KEY)
    assert response.json() == {}
    assert world.connected == [("93.184.216.34", 443)]
    assert world.tls_names == ["api.example.com"]
    assert world.asked == ["api.example.com"], "asked once"
    head = world.written.split(b"\r\n\r\n")[0]
    assert head.startswith(b"POST /v1/x?q=1 HTTP/1.1\r\nHost: api.example.com\r\n")
    assert b"Authorization: Bearer sk-canary" in head
    assert head.lower().count(b"accept-encoding: gzip") == head.lower().count(b"accept-encoding") == 1


async def test_a_name_that_changes_its_address_keeps_the_pinned_one() -> None:
    world = World(["93.184.216.34"], ["127.0.0.1"])
    async with world.client() as http:
        for _ in range(3):
            await http.get("https://api.example.com/")
        assert world.connected == [("93.184.216.34", 443)]
        world.answer = OK.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n")
        await http.get("https://api.example.com/")
        with pytest.raises(HostNotAllowed, match="not a public address"):
            await http.get("https://api.example.com/", headers=KEY)
    assert world.connected == [("93.184.216.34", 443)], "the second resolution is judged as the first was"
    assert b"canary" not in world.written


@pytest.mark.parametrize("inside", NOT_PUBLIC)
@pytest.mark.parametrize("order", [1, -1])
async def test_one_address_inside_is_enough_and_nothing_is_connected(inside: str, order: int) -> None:
    world = World(["93.184.216.34", inside][::order])
    async with world.client() as http:
        with pytest.raises(HostNotAllowed, match="public") as refused:
            await http.get("https://api.example.com/", headers=KEY)
    assert (fault(refused.value).fault, fault(refused.value).reason) == (Fault.UNAVAILABLE, Reason.HOST_NOT_ALLOWED)
    assert (world.connected, world.written, len(world.asked)) == ([], b"", 1)


@pytest.mark.parametrize("inside", [each for each in NOT_PUBLIC if each not in NEVER])
async def test_an_exempt_host_may_have_any_address(inside: str) -> None:
    world = World([inside])
    async with world.client("api.example.com:8080", "api.example.com:8080") as http:
        assert (await http.get("http://api.example.com:8080/")).status_code == 200
    assert world.connected == [(inside, 8080)]


@pytest.mark.parametrize("address", NEVER)
async def test_not_even_an_exempt_host_leads_to_a_metadata_service(address: str) -> None:
    world = World(["10.0.0.1", address])
    async with world.client(exempt="api.example.com") as http:
        with pytest.raises(HostNotAllowed, match="never go there"):
            await http.get("https://api.example.com/")
    assert world.connected == []


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/",
        "https://api.example.com.evil.example/",
        "https://a.api.example.com/",
        "https://api.example.com./",
        "https://api.example.com:8443/",
        "http://api.example.com/",
        "http://api.example.com:443/",
        "https://user@api.example.com/",
        "https://user:password@api.example.com/",
        "https://api.example.com@evil.example/",
        "https://127.0.0.1/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0177.0.0.1/",
        "https://127.1/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://169.254.169.254/latest/meta-data/",
        "https://①②⑦.⓪.⓪.①/",
        "ftp://api.example.com/",
        "wss://api.example.com/",
    ],
)
async def test_a_url_that_somebody_built_is_judged_before_anything_is_asked(url: str) -> None:
    world = World()
    async with world.client() as http:
        with pytest.raises((HostNotAllowed, httpx2.InvalidURL, httpx2.UnsupportedProtocol)) as refused:
            await http.post(url, headers=KEY)
    assert fault(refused.value).reason == Reason.HOST_NOT_ALLOWED
    assert (world.asked, world.connected, world.written) == ([], [], b"")


async def test_a_header_host_does_not_choose_another_host_behind_the_address() -> None:
    world = World()
    async with world.client() as http:
        for host in ("evil.example", "api.example.com:8443"):
            with pytest.raises(HostNotAllowed, match="header Host"):
                await http.get("https://api.example.com/", headers={**KEY, "Host": host})
    assert world.asked == []


async def test_extensions_do_not_choose_another_name_or_path() -> None:
    world = World(["93.184.216.34"])
    async with world.client() as http:
        await http.get(
            "https://api.example.com/here", extensions={"sni_hostname": "evil.example", "target": b"http://evil/"}
        )
    assert world.tls_names == ["api.example.com"]
    assert world.written.startswith(b"GET /here HTTP/1.1\r\n")


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
@pytest.mark.parametrize("follow", [False, True])
async def test_a_redirect_is_an_error_whoever_would_follow_it(status: int, follow: bool) -> None:
    location = b"https://api.example.com/elsewhere?leak=sk-canary"
    world = World(["93.184.216.34"], answer=b"HTTP/1.1 %d X\r\nLocation: %s\r\n\r\n" % (status, location))
    async with world.client() as http:
        with pytest.raises(Redirected, match="baseURL") as refused:
            await http.get("https://api.example.com/", headers=KEY, follow_redirects=follow)
    assert fault(refused.value).fault == Fault.UNAVAILABLE
    assert world.written.count(b"HTTP/1.1") == 1
    assert world.closed == 1


async def test_the_other_addresses_are_tried_when_the_first_is_dead() -> None:
    world = World(["2606:4700:4700::1111", "93.184.216.34"], dead=["2606:4700:4700::1111"])
    async with world.client() as http:
        assert (await http.get("https://api.example.com/")).status_code == 200
    assert world.connected == [("2606:4700:4700::1111", 443), ("93.184.216.34", 443)]


async def test_when_all_are_dead_a_few_were_tried() -> None:
    many = [f"93.184.216.{last}" for last in range(9)]
    world = World(many, dead=many)
    async with world.client() as http:
        with pytest.raises(httpx2.ConnectError) as refused:
            await http.get("https://api.example.com/")
    assert fault(refused.value).reason == Reason.PROVIDER_UNREACHABLE
    assert "api.example.com" in fault(refused.value).message
    assert len(world.connected) == 4


@pytest.mark.parametrize("answer", [OSError("the name is not resolved: sk-canary"), []])
async def test_a_name_without_an_address(answer: list[str] | OSError) -> None:
    world = World(answer)
    async with world.client() as http:
        with pytest.raises(NameNotResolved, match=r"api\.example\.com") as refused:
            await http.get("https://api.example.com/")
    assert (fault(refused.value).fault, fault(refused.value).reason) == (Fault.TRANSIENT, Reason.PROVIDER_UNREACHABLE)


async def test_a_resolver_that_hangs_ends_with_the_time_for_connecting() -> None:
    world = World()

    async def hangs(_: Target) -> list[str]:
        await asyncio.Event().wait()
        return []

    remote = Remote.model_validate({"provider": "OpenAICompatible", "model": "m"})
    async with client(remote, parse_hosts("api.example.com"), (), resolver=hangs, connector=world) as http:
        with pytest.raises(httpx2.ConnectTimeout) as refused:
            await http.get("https://api.example.com/", timeout=httpx2.Timeout(60, connect=0.05))
    assert fault(refused.value).fault == Fault.TRANSIENT


async def test_a_key_with_a_line_break_is_told_without_the_key() -> None:
    world = World(["93.184.216.34"])
    async with world.client() as http:
        with pytest.raises(httpx2.LocalProtocolError) as refused:
            await http.get("https://api.example.com/", headers={"Authorization": "Bearer sk-canary\n"})
    assert "canary" not in repr(refused.value)
    assert refused.value.__cause__ is None
    assert fault(refused.value).reason == Reason.CREDENTIALS_REFUSED


@pytest.mark.parametrize(
    ("spec", "exempt", "words"),
    [
        ({"caBundle": "nonsense"}, "", "spec.remote.caBundle"),
        ({"proxyURL": "http://proxy.internal:3128"}, "", "spec.remote.proxyURL.*remote.allowedHosts"),
        ({"proxyURL": "http://proxy.internal:3128"}, "proxy.internal", "spec.remote.proxyURL"),
        ({"proxyURL": "http://0x7f000001:3128"}, "proxy.internal:3128", "spec.remote.proxyURL.*number"),
        ({"proxyURL": "http://proxy.internal:3128/path"}, "proxy.internal:3128", "spec.remote.proxyURL.*path"),
    ],
)
def test_a_spec_that_gives_no_client_names_its_field(spec: dict[str, str], exempt: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        World().client(exempt=exempt, **spec)
