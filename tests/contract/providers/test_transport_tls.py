"""Whom the runner's transport talks to: TLS for the name, keep-alive, redirects, proxies. All on loopback."""

import asyncio
import ssl

import httpx2
import pytest
from loopback_server import NAME, Loopback, Pair, answer, client_of, fixed, loopback, pair, proxy_to, to_loopback

from headrace_crds.hosts import parse_hosts
from headrace_crds.reasons import Reason
from headrace_crds.remote import Remote
from headrace_runner.providers.protocol import Fault
from headrace_runner.providers.transport import client
from headrace_runner.providers.transport_errors import HostNotAllowed, ProxyFailed, Redirected, TlsFailed, fault_of

KEY = {"Authorization": "Bearer sk-canary"}
OK = fixed(answer(b"{}"))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return pair(tmp_path_factory.mktemp("good"), NAME)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return pair(tmp_path_factory.mktemp("other"), "other.example")


@pytest.fixture(scope="module")
def expired(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return pair(tmp_path_factory.mktemp("expired"), NAME, days=-1)


async def test_connections_are_kept_and_used_again() -> None:
    async with loopback(OK) as there, client_of(there) as http:
        for number in range(5):
            response = await http.post(there.url(), json={"n": number}, headers=KEY)
            assert response.http_version == "HTTP/1.1"
        assert (there.connections, len(there.got)) == (1, 5)
        assert f"host: {NAME}:{there.port}\r\n".encode() in there.got[0].head.lower()


async def test_a_connection_that_the_server_has_ended_is_not_used_again() -> None:
    ended = asyncio.Event()

    async def once(writer: asyncio.StreamWriter) -> None:
        writer.write(answer(b"x"))
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        ended.set()

    async with loopback(once) as there, client_of(there) as http:
        for number in (1, 2, 3):
            ended.clear()
            assert (await http.post(there.url(), json={})).content == b"x"
            await ended.wait()
            assert there.connections == number


async def test_no_more_connections_than_the_model_has_calls_and_two() -> None:
    async with loopback(OK) as there, client_of(there, maxConcurrency=2) as http:
        await asyncio.gather(*(http.get(there.url()) for _ in range(20)))
        assert len(there.got) == 20
        assert 1 <= there.connections <= 4


async def test_the_own_authority_is_trusted_for_the_name(good: Pair) -> None:
    names: list[str | None] = []
    context = good.server()
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    async with loopback(OK, context) as there, client_of(there, caBundle=good.pem) as http:
        assert (await http.get(there.url("https"), headers=KEY)).json() == {}
        assert names == [NAME]


@pytest.mark.parametrize(
    ("served", "trusted", "words"),
    [
        ("good", None, "not trusted.*spec.remote.caBundle"),
        ("good", "other", "not trusted.*spec.remote.caBundle"),
        ("other", "other", "is for another name"),
        ("expired", "expired", "has expired"),
    ],
)
async def test_a_certificate_that_is_not_trusted(
    served: str, trusted: str | None, words: str, request: pytest.FixtureRequest
) -> None:
    spec = {} if trusted is None else {"caBundle": request.getfixturevalue(trusted).pem}
    async with (
        loopback(OK, request.getfixturevalue(served).server()) as there,
        client_of(there, **spec) as http,
    ):
        with pytest.raises(TlsFailed, match=words) as refused:
            await http.get(there.url("https"), headers=KEY)
        assert there.got == []
    found = fault_of(refused.value)
    assert found is not None
    assert (found.fault, found.reason) == (Fault.TRANSIENT, Reason.PROVIDER_UNREACHABLE)
    assert NAME in found.message


async def test_the_own_authority_replaces_the_usual_ones(good: Pair) -> None:
    remote = Remote.model_validate(
        {
            "provider": "OpenAI",
            "model": "m",
            "caBundle": good.pem,
            "credentials": {"secretKeyRef": {"name": "s", "key": "k"}},
        }
    )
    http = client(remote, (), ())
    context = http._transport._pool._ssl_context  # type: ignore[attr-defined]
    assert [each["subject"] for each in context.get_ca_certs()] == [((("commonName", NAME),),)]
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    await http.aclose()


async def test_a_port_without_tls() -> None:
    async with loopback(fixed(b"SSH-2.0-OpenSSH\r\n")) as there, client_of(there) as http:
        # A server that waits for a request: the handshake is all that it sees.
        with pytest.raises((TlsFailed, httpx2.ConnectTimeout)) as refused:
            await http.get(there.url("https"), headers=KEY, timeout=httpx2.Timeout(5, connect=0.3))
        assert there.got == []
    found = fault_of(refused.value)
    assert found is not None
    assert found.fault == Fault.TRANSIENT


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_the_key_does_not_follow_a_redirect(status: int) -> None:
    async with loopback(OK) as elsewhere:
        away = f"HTTP/1.1 {status} X\r\nLocation: {elsewhere.url()}\r\nContent-Length: 0\r\n\r\n".encode()
        async with loopback(fixed(away)) as there, client_of(there, elsewhere) as http:
            with pytest.raises(Redirected) as refused:
                await http.post(there.url(), json={}, headers=KEY, follow_redirects=True)
        assert elsewhere.connections == 0
    found = fault_of(refused.value)
    assert found is not None
    assert (found.fault, found.reason) == (Fault.UNAVAILABLE, Reason.HOST_NOT_ALLOWED)


async def test_a_cookie_of_one_answer_is_not_in_the_next_request() -> None:
    async with loopback(fixed(answer(b"{}", "Set-Cookie: session=1"))) as there, client_of(there) as http:
        for _ in range(2):
            assert "set-cookie" not in (await http.get(there.url())).headers
        assert not any(b"session" in each.head for each in there.got)


async def test_no_proxy_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    async with loopback(OK) as proxy, loopback(OK) as there:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        async with client_of(there) as http:
            assert (await http.get(there.url())).status_code == 200
        assert proxy.connections == 0


def through(port: int, target: Loopback, *, proxy: str = "proxy.example", **spec: str) -> httpx2.AsyncClient:
    remote = Remote.model_validate(
        {"provider": "OpenAICompatible", "model": "m", "proxyURL": f"http://{proxy}:{port}", **spec}
    )
    return client(remote, parse_hosts(f"{NAME}:{target.port}"), parse_hosts(f"{proxy}:{port}"), resolver=to_loopback)


async def test_a_proxy_is_asked_for_the_name_and_sees_no_key(good: Pair) -> None:
    tunnels: list[bytes] = []
    async with loopback(OK, good.server()) as there:
        async with proxy_to(there, tunnels) as port, through(port, there, caBundle=good.pem) as http:
            for _ in range(2):
                assert (await http.get(there.url("https"), headers=KEY)).status_code == 200
            with pytest.raises(HostNotAllowed):
                await http.get("https://evil.example/", headers=KEY)
        authority = f"{NAME}:{there.port}"
        assert tunnels == [f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode()]
        assert b"canary" in there.got[0].head


async def test_a_wrong_certificate_behind_a_proxy_costs_no_connection(other: Pair) -> None:
    tunnels: list[bytes] = []
    async with loopback(OK, other.server()) as there:
        async with proxy_to(there, tunnels) as port, through(port, there, caBundle=other.pem) as http:
            for _ in range(40):  # more than the pool has
                with pytest.raises(TlsFailed, match="another name"):
                    await http.get(there.url("https"), headers=KEY)
        assert there.got == []


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"HTTP/1.1 407 sk-leak\r\n\r\n", "does not connect"),
        (b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\nx", "more than a proxy"),
        (b"SSH-2.0\r\n\r\n", "does not connect"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 4000, "as a proxy"),
    ],
)
async def test_a_proxy_that_does_not_connect(said: bytes, words: str, good: Pair) -> None:
    async with loopback(fixed(said)) as proxy, loopback(OK, good.server()) as there:
        async with through(proxy.port, there, caBundle=good.pem) as http:
            with pytest.raises(ProxyFailed, match=words) as refused:
                await http.get(there.url("https"), headers=KEY)
        assert "leak" not in str(refused.value)
        assert there.connections == 0
        assert not any(b"canary" in each.head for each in proxy.got)
