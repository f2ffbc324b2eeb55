"""A provider that asks for a client certificate (mTLS): what it is shown, what it refuses, and a pair that changes."""

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from loopback_server import NAME, Pair, answer, client_of, fixed, loopback, pair, proxy_to, to_loopback

from headrace_crds.hosts import parse_hosts
from headrace_crds.reasons import Reason
from headrace_crds.remote import Remote
from headrace_runner.providers.client_certificate import CERTIFICATE_FILE, KEY_FILE, ClientCertificate
from headrace_runner.providers.protocol import Fault
from headrace_runner.providers.transport import client
from headrace_runner.providers.transport_errors import CertificateRefused, TlsFailed, fault_of

OK = fixed(answer(b"{}"))
MINE, NEXT = "runner-a", "runner-b"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return pair(tmp_path_factory.mktemp("server"), NAME)


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return pair(tmp_path_factory.mktemp("mine"), MINE)


@pytest.fixture(scope="module")
def following(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return pair(tmp_path_factory.mktemp("following"), NEXT)


@pytest.fixture(scope="module")
def expired(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return pair(tmp_path_factory.mktemp("expired"), "expired", days=-1)


def asking(server: Pair, *trusted: Pair, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """Of a server that serves nobody without a certificate of ``trusted``."""
    context = server.server()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata="".join(each.pem for each in trusted))
    if version is not None:
        context.maximum_version = version
    return context


def put(folder: Path, certificate: Pair, key: Pair | None = None) -> ClientCertificate:
    """As the kubelet does: complete, and at once. ``pair`` writes the key before the certificate."""
    for name, text in (
        (CERTIFICATE_FILE, certificate.pem),
        (KEY_FILE, (key or certificate).file.read_text().partition("-----BEGIN CERTIFICATE")[0]),
    ):
        (folder / f"{name}.next").write_text(text)
        (folder / f"{name}.next").rename(folder / name)
    return ClientCertificate(folder, None)


def shown_to(seen: list[Any]) -> Any:
    async def reply(writer: asyncio.StreamWriter) -> None:
        seen.append(dict(each[0] for each in writer.get_extra_info("peercert")["subject"])["commonName"])
        await OK(writer)

    return reply


def trusting_server(folder: Path, server: Pair) -> ClientCertificate:
    return ClientCertificate(folder, server.pem)


@contextlib.contextmanager
def outspoken(tls: ssl.SSLContext) -> Iterator[str]:
    """The URL of a server that says by an alert what it has against a certificate, as most do and asyncio does not. It
    takes one connection, and what follows on it, so that no reset overtakes the alert.
    """
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        try:
            there, _ = listener.accept()
        except OSError:
            return
        with there:
            wrapped = tls.wrap_socket(there, server_side=True, do_handshake_on_connect=False)
            with contextlib.suppress(ssl.SSLError):
                wrapped.do_handshake()
            with socket.socket(fileno=wrapped.detach()) as plain, contextlib.suppress(OSError):
                plain.shutdown(socket.SHUT_WR)
                while plain.recv(4096):
                    pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"https://{NAME}:{listener.getsockname()[1]}/v1"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def client_to(url: str, certificate: ClientCertificate | None = None, **spec: str) -> httpx2.AsyncClient:
    remote = Remote.model_validate({"provider": "OpenAICompatible", "model": "m", **spec})
    hosts = parse_hosts(url.split("/")[2])
    return client(remote, hosts, hosts, certificate=certificate, resolver=to_loopback)


async def refusal(url: str, http: httpx2.AsyncClient) -> str:
    """What the one who runs the model reads."""
    with pytest.raises(CertificateRefused) as refused:
        await http.post(url, json={"prompt": "canary"})
    found = fault_of(refused.value)
    assert found is not None
    assert (found.fault, found.reason) == (Fault.UNAVAILABLE, Reason.CREDENTIALS_REFUSED)
    assert "canary" not in found.message
    assert "BEGIN" not in found.message
    return found.message


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_it_is_shown_to_who_asks(version: ssl.TLSVersion, server: Pair, mine: Pair, tmp_path: Path) -> None:
    put(tmp_path, mine)
    seen: list[Any] = []
    async with (
        loopback(shown_to(seen), asking(server, mine, version=version)) as there,
        client_of(there, certificate=trusting_server(tmp_path, server), caBundle=server.pem) as http,
    ):
        for _ in range(3):
            assert (await http.get(there.url("https"))).json() == {}
        assert seen == [MINE] * 3
        assert there.connections == 1, "connections are kept as without one"


async def test_the_server_is_judged_all_the_same(server: Pair, mine: Pair, tmp_path: Path) -> None:
    put(tmp_path, mine)
    async with (
        loopback(OK, asking(server, mine)) as there,
        client_of(there, certificate=trusting_server(tmp_path, mine)) as http,
    ):
        with pytest.raises(httpx2.TransportError, match=f"certificate of {NAME} is not trusted"):
            await http.get(there.url("https"))
        assert there.got == []


async def test_a_provider_that_asks_while_the_model_has_none(server: Pair, mine: Pair) -> None:
    with outspoken(asking(server, mine, version=ssl.TLSVersion.TLSv1_3)) as url:
        async with client_to(url, caBundle=server.pem) as http:
            told = await refusal(url, http)
    assert told == f"{NAME} asks for a client certificate: set spec.remote.clientCertificate"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    ("given", "words"),
    [("expired", "it has expired"), ("following", "does not know its authority")],
)
async def test_a_certificate_that_the_provider_does_not_take(
    given: str,
    words: str,
    version: ssl.TLSVersion,
    server: Pair,
    mine: Pair,
    expired: Pair,
    tmp_path: Path,
    request: Any,
) -> None:
    put(tmp_path, request.getfixturevalue(given))
    with outspoken(asking(server, mine, expired, version=version)) as url:
        async with client_to(url, trusting_server(tmp_path, server)) as http:
            told = await refusal(url, http)
    assert words in told
    assert told.endswith("look at the Secret of spec.remote.clientCertificate")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_provider_that_hangs_up_without_a_word(
    version: ssl.TLSVersion, server: Pair, mine: Pair, following: Pair, tmp_path: Path
) -> None:
    put(tmp_path, following)
    async with (
        loopback(OK, asking(server, mine, version=version)) as there,
        client_of(there, certificate=trusting_server(tmp_path, server)) as http,
    ):
        with pytest.raises(TlsFailed, match="whether it takes the client certificate"):
            await http.get(there.url("https"))
        assert there.got == []


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ("another key", "tls.key is not the key of tls.crt"),
        ("no file", "does the Secret of spec.remote.clientCertificate have tls.crt and tls.key"),
        ("no PEM", "in PEM, the key without a password"),
        ("a password", "in PEM, the key without a password"),
    ],
)
async def test_a_pair_that_is_none(
    spoil: str, words: str, server: Pair, mine: Pair, following: Pair, tmp_path: Path
) -> None:
    put(tmp_path, mine, following if spoil == "another key" else None)
    if spoil == "no file":
        (tmp_path / KEY_FILE).unlink()
    elif spoil == "no PEM":
        (tmp_path / CERTIFICATE_FILE).write_text("sk-canary")
    elif spoil == "a password":
        process = await asyncio.create_subprocess_exec(
            *("openssl", "ec", "-in", KEY_FILE, "-out", KEY_FILE, "-aes256", "-passout", "pass:secret"),
            cwd=tmp_path,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert await process.wait() == 0
    async with (
        loopback(OK, asking(server, mine)) as there,
        client_of(there, certificate=trusting_server(tmp_path, server)) as http,
    ):
        assert words in await refusal(there.url("https"), http)
        assert there.connections == 0, "nobody is asked without it"
        put(tmp_path, mine)
        assert (await http.get(there.url("https"))).status_code == 200, "mended without a restart"


async def test_another_pair_is_shown_from_the_next_request_on(
    server: Pair, mine: Pair, following: Pair, tmp_path: Path
) -> None:
    certificate = put(tmp_path, mine)
    before = certificate.version()
    seen: list[Any] = []
    async with (
        loopback(shown_to(seen), asking(server, mine, following)) as there,
        client_of(there, certificate=trusting_server(tmp_path, server)) as http,
    ):
        await http.get(there.url("https"))
        put(tmp_path, following)
        assert certificate.version() not in (before, None), "the breaker half-opens by it"
        for _ in range(2):
            await http.get(there.url("https"))
        assert seen == [MINE, NEXT, NEXT]
        assert there.connections == 2
        (tmp_path / CERTIFICATE_FILE).unlink()
        assert certificate.version() is None
        with pytest.raises(CertificateRefused):
            await http.get(there.url("https"))
        assert len(seen) == 3, "one that was taken away is not used on"


async def test_a_proxy_is_shown_none(server: Pair, mine: Pair, tmp_path: Path) -> None:
    put(tmp_path, mine)
    tunnels: list[bytes] = []
    to_proxy: list[object] = []
    to_provider: list[Any] = []
    curious = server.server()
    curious.verify_mode = ssl.CERT_OPTIONAL
    curious.load_verify_locations(cadata=mine.pem)
    async with (
        loopback(shown_to(to_provider), asking(server, mine)) as there,
        proxy_to(there, tunnels, curious, to_proxy) as port,
    ):
        spec = {"provider": "OpenAICompatible", "model": "m", "caBundle": server.pem}
        remote = Remote.model_validate({**spec, "proxyURL": f"https://{NAME}:{port}"})
        hosts, certificate = parse_hosts(f"{NAME}:{there.port},{NAME}:{port}"), trusting_server(tmp_path, server)
        async with client(remote, hosts, hosts, certificate=certificate, resolver=to_loopback) as http:
            assert (await http.get(there.url("https"))).status_code == 200
    assert len(tunnels) == 1
    assert to_proxy in ([None], [{}])
    assert to_provider == [MINE]
