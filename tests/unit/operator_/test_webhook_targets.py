"""Where webhooks may go: the whole table of vectors is judged without opening a connection."""

import asyncio
import socket

import pytest

from headrace_crds.hosts import AllowedHost, Refused, Target
from headrace_crds.resolve import resolve
from headrace_operator.webhooks import target
from headrace_operator.webhooks.send import Sender
from tests.unit.address_vectors import NEVER, NOT_PUBLIC, UNREADABLE_URLS


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("http://example.com/", "not https"),
        ("https://example.com:22/", "port"),
        ("https://example.com:80/", "port"),
        ("https://127.0.0.1/", "public"),
        ("https://[::1]/", "public"),
        ("https://[::ffff:127.0.0.1]/", "public"),
        ("https://[::127.0.0.1]/", "public"),
        ("https://[64:ff9b::7f00:1]/", "public"),
        ("https://[2002:7f00:1::]/", "public"),
        ("https://169.254.169.254/latest/meta-data/", "public"),
        *UNREADABLE_URLS,
    ],
)
def test_a_url_that_is_refused_before_anything_is_asked(url: str, word: str) -> None:
    with pytest.raises(Refused, match=word):
        target.parse(url)


@pytest.mark.parametrize(
    ("url", "host", "port", "path", "query"),
    [
        ("https://example.com", "example.com", 443, "/", ""),
        ("HTTPS://Example.COM/Hook?a=1&b=%20", "example.com", 443, "/Hook", "a=1&b=%20"),
        ("https://xn--exmple-cua.com:8443/x", "xn--exmple-cua.com", 8443, "/x", ""),
        ("https://example.com?q", "example.com", 443, "/", "q"),
        ("https://1.1.1.1/", "1.1.1.1", 443, "/", ""),
        ("https://[2606:4700:4700:0::1111]/", "2606:4700:4700::1111", 443, "/", ""),
        ("https://9to5.example/", "9to5.example", 443, "/", ""),
        ("https://example.com/@user:pw", "example.com", 443, "/@user:pw", ""),
    ],
)
def test_a_url_that_passes(url: str, host: str, port: int, path: str, query: str) -> None:
    found = target.parse(url)
    assert (found.scheme, found.host.name, found.port, found.path, found.query) == ("https", host, port, path, query)
    assert not found.trusted


@pytest.mark.parametrize(
    ("entry", "url", "passes"),
    [
        ("hooks.internal", "http://hooks.internal/x", True),
        ("hooks.internal", "https://HOOKS.internal:8443/x", True),
        ("hooks.internal", "http://hooks.internal:8080/x", False),
        ("hooks.internal:8080", "http://hooks.internal:8080/x", True),
        ("hooks.internal:8080", "http://hooks.internal/x", False),
        ("hooks.internal", "http://a.hooks.internal/x", False),
        ("hooks.internal", "http://hooks.internal.example/x", False),
        ("hooks.internal", "http://hooks.internal./x", False),
        ("127.0.0.1:9000", "http://127.0.0.1:9000/x", True),
        ("127.0.0.1:9000", "http://127.0.0.1:9001/x", False),
        ("127.0.0.1:9000", "http://127.1:9000/x", False),
        ("127.0.0.1:9000", "http://[::ffff:127.0.0.1]:9000/x", False),
        ("[::1]:9000", "http://[0::1]:9000/x", True),
    ],
)
def test_the_allow_list_names_exactly_one_host(entry: str, url: str, passes: bool) -> None:
    allowed = [AllowedHost.parse(entry)]
    if not passes:
        with pytest.raises(Refused):
            target.parse(url, allowed)
        return
    found = target.parse(url, allowed)
    assert found.trusted
    assert found.judged(["10.0.0.1", "127.0.0.1"]) == ["10.0.0.1", "127.0.0.1"]


@pytest.mark.parametrize("address", NEVER)
def test_metadata_services_are_out_of_reach_of_the_allow_list(address: str) -> None:
    named = target.parse("http://hooks.internal/x", [AllowedHost.parse("hooks.internal")])
    with pytest.raises(Refused, match="never go there") as refused:
        named.judged(["10.0.0.1", address])
    assert "allowedHosts" not in str(refused.value)
    if "%" in address:
        return
    literal = f"[{address}]" if ":" in address else address
    for entry in (literal, f"{literal}:80"):
        with pytest.raises(ValueError, match="never go there"):
            AllowedHost.parse(entry)
    for scheme in ("https", "http"):
        with pytest.raises(Refused, match="never go there") as refused:
            target.parse(f"{scheme}://{literal}/")
        assert "allowedHosts" not in str(refused.value)


@pytest.mark.parametrize("inside", NOT_PUBLIC)
@pytest.mark.parametrize("order", [1, -1])
async def test_one_address_inside_is_enough_and_nothing_is_connected(
    inside: str, order: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket.socket, "connect", _never)
    monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", _never)
    asked: list[str] = []

    async def answers(of: Target) -> list[str]:
        asked.append(of.host.name)
        return ["93.184.216.34", inside][::order]

    with pytest.raises(Refused, match="public"):
        await Sender(answers).post(target.parse("https://rebinding.example/"), b"{}", {})
    assert asked == ["rebinding.example"], "asked once"


async def test_a_resolver_that_never_answers_is_told_as_such() -> None:
    released = asyncio.Event()

    async def hangs(_: Target) -> list[str]:
        await released.wait()
        return []

    posted = asyncio.ensure_future(
        Sender(hangs, total_seconds=0.01).post(target.parse("https://slow.example/"), b"", {})
    )
    await asyncio.wait({posted}, timeout=0.2)
    assert not posted.done(), "its slot is free only when the resolver's thread is"
    released.set()
    assert "no answer" in (await posted).problem


async def test_public_names_are_asked_for_without_search_domains(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def getaddrinfo(name: str, port: int, **_: object) -> list[tuple[object, ...]]:
        asked.append(name)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("1.1.1.1", port))] * 2

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert await resolve(target.parse("https://example.com/")) == ["1.1.1.1"]
    assert await resolve(target.parse("http://svc/", [AllowedHost.parse("svc")])) == ["1.1.1.1"]
    assert await resolve(target.parse("https://8.8.8.8/")) == ["8.8.8.8"]
    assert asked == ["example.com.", "svc"]


async def test_a_name_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(*_: object, **__: object) -> list[object]:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    answer = await Sender().post(target.parse("https://nowhere.example/"), b"", {})
    assert answer.status == 0
    assert "not resolved" in answer.problem


def _never(*_: object) -> None:
    raise AssertionError("a connection was opened")
