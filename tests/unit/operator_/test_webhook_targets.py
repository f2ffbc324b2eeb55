"""Where webhooks may go: the whole table of vectors is judged without opening a connection."""

import asyncio
import socket

import pytest

from headrace_operator.webhooks import target
from headrace_operator.webhooks.address import is_never, is_public
from headrace_operator.webhooks.resolve import resolve
from headrace_operator.webhooks.send import Sender
from headrace_operator.webhooks.target import AllowedHost, Refused

NOT_PUBLIC = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.31.196.1",
    "192.52.193.1",
    "192.88.99.1",
    "192.168.1.1",
    "192.175.48.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:7f00:1",
    "::ffff:93.184.216.34",
    "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::127.0.0.1",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:10::1",
    "2001:20::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "2620:4f:8000::1",
    "2a00:1450:4001:813:0:5efe:7f00:1",
    "2a00:1450:4001:813:200:5efe:127.0.0.1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "2a00:1450::1%2",
    "fec0::1",
    "ff02::1",
    "",
    "example.com",
    "127.1",
    "0177.0.0.1",
    "1.2.3.4.5",
    "2130706433",
]
PUBLIC = ["1.1.1.1", "8.8.8.8", "93.184.216.34", "172.32.0.1", "100.128.0.1", "192.0.1.1", "2606:4700:4700::1111"]
PUBLIC += ["2a00:1450:4001:813::200e", "2001:4860:4860::8888"]


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_an_address_that_is_not_an_ordinary_public_one(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_an_ordinary_public_address(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("http://example.com/", "not https"),
        ("https://example.com:22/", "port"),
        ("https://example.com:80/", "port"),
        ("https://example.com:0/", "port"),
        ("https://example.com:65536/", "port"),
        ("https://example.com:/", "not an http"),
        ("https://example.com./", "dot at its end"),
        ("https://localhost./", "dot at its end"),
        ("https://127.0.0.1./", "number"),
        ("https://127.0.0.1/", "public"),
        ("https://[::1]/", "public"),
        ("https://[::ffff:127.0.0.1]/", "public"),
        ("https://[::127.0.0.1]/", "public"),
        ("https://[64:ff9b::7f00:1]/", "public"),
        ("https://[2002:7f00:1::]/", "public"),
        ("https://[fe80::1%25eth0]/", "not an http"),
        ("https://[1.2.3.4]/", "IPv6"),
        ("https://[::1/", "not an http"),
        ("https://169.254.169.254/latest/meta-data/", "public"),
        ("https://127.1/", "number"),
        ("https://0177.0.0.1/", "number"),
        ("https://0x7f.0.0.1/", "number"),
        ("https://0x7f000001/", "number"),
        ("https://0x/", "number"),
        ("https://2130706433/", "number"),
        ("https://017700000001/", "number"),
        ("https://1.2.3/", "number"),
        ("https://1.2.3.4.5/", "number"),
        ("https://example.0x7f/", "number"),
        ("https://①②⑦.⓪.⓪.①/", "not an http"),
        ("https://exämple.com/", "not an http"),
        ("https://example。com/", "not an http"),
        ("https://user@example.com/", "not an http"),
        ("https://user:pw@example.com/", "not an http"),
        ("https://example.com@127.0.0.1/", "not an http"),
        ("https://example.com\\@127.0.0.1/", "not an http"),
        ("https://example.com/a\\b", "not an http"),
        ("https://example.com#@127.0.0.1/", "not an http"),
        ("https://example.com/#fragment", "not an http"),
        ("https://example.com/ HTTP/1.1", "not an http"),
        ("https://example.com/\r\nHost: inside", "not an http"),
        ("https://example.com/\x00", "not an http"),
        ("https://exa\tmple.com/", "not an http"),
        ("https:/example.com/", "not an http"),
        ("https:example.com", "not an http"),
        ("//example.com/", "not an http"),
        ("ftp://example.com/", "not an http"),
        ("file:///etc/passwd", "not an http"),
        ("gopher://example.com/", "not an http"),
        ("https://-example.com/", "DNS name"),
        ("https://exa..mple.com/", "DNS name"),
        ("https://.example.com/", "DNS name"),
        ("https://" + "a" * 64 + ".com/", "DNS name"),
        ("https://" + "a." * 126 + "com/", "DNS name"),
        ("https://example.com/" + "a" * 2048, "not an http"),
        ("", "not an http"),
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


NEVER = [
    "169.254.0.1",
    "169.254.169.254",
    "168.63.129.16",
    "100.100.100.200",
    "192.0.0.192",
    "fe80::1",
    "fe80::1%eth0",
    "febf::1",
    "fd00:ec2::254",
    "fd00:0ec2:0:0:0:0:0:254",
    "::ffff:169.254.169.254",
    "::169.254.169.254",
    "::ffff:0:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
]


@pytest.mark.parametrize("address", NEVER)
def test_metadata_services_are_out_of_reach_of_the_allow_list(address: str) -> None:
    assert is_never(address)
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


@pytest.mark.parametrize(
    "address", ["10.0.0.1", "127.0.0.1", "169.253.1.1", "::1", "fd00::1", "fec0::1", "8.8.8.8", ""]
)
def test_other_addresses_may_be_allowed(address: str) -> None:
    assert not is_never(address)


@pytest.mark.parametrize(
    "entry", ["", "a:0", "a:65536", "http://a", "a/b", "*.example.com", "127.1", "a:b", "user@a", "a."]
)
def test_an_entry_that_is_no_host(entry: str) -> None:
    with pytest.raises(ValueError):
        AllowedHost.parse(entry)


@pytest.mark.parametrize("inside", NOT_PUBLIC)
@pytest.mark.parametrize("order", [1, -1])
async def test_one_address_inside_is_enough_and_nothing_is_connected(
    inside: str, order: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket.socket, "connect", _never)
    monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", _never)
    asked: list[str] = []

    async def answers(of: target.Target) -> list[str]:
        asked.append(of.host.name)
        return ["93.184.216.34", inside][::order]

    with pytest.raises(Refused, match="public"):
        await Sender(answers).post(target.parse("https://rebinding.example/"), b"{}", {})
    assert asked == ["rebinding.example"], "asked once"


async def test_a_resolver_that_never_answers_is_told_as_such() -> None:
    released = asyncio.Event()

    async def hangs(_: target.Target) -> list[str]:
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
