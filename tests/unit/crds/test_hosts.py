"""Where requests of a remote model may go, judged from texts alone."""

import pytest

from headrace_crds.hosts import AllowedHost, Refused, judge_base_url, parse_hosts, split
from tests.unit.address_vectors import NEVER, NOT_PUBLIC, UNREADABLE_URLS


@pytest.mark.parametrize(
    "entry", ["", "a:0", "a:65536", "http://a", "a/b", "*.example.com", "127.1", "a:b", "user@a", "a."]
)
def test_an_entry_that_is_no_host(entry: str) -> None:
    with pytest.raises(ValueError):
        AllowedHost.parse(entry)


def test_a_list_of_hosts() -> None:
    found = parse_hosts(" api.Example.com, llm.internal:8080 ,,[0::1]:9000,\n")
    assert [(str(each.host), each.port) for each in found] == [
        ("api.example.com", None),
        ("llm.internal", 8080),
        ("[::1]", 9000),
    ]
    assert parse_hosts("") == parse_hosts(" , ") == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a.example, https://b.example", "'https://b.example'"),
        ("a.example b.example", "'a.example b.example'"),
        ("a.example., b.example", "'a.example.'.*dot at its end"),
        ("exämple.com", "'exämple.com'.*xn--"),
        ("*.example.com", "'\\*.example.com'"),
        ("a.example:0", "'a.example:0'.*port"),
        ("0x7f000001", "'0x7f000001'.*number"),
        ("169.254.169.254", "'169.254.169.254'.*never go there"),
        ("a" * 5000, "'a{80}…'"),
    ],
)
def test_a_list_with_a_wrong_entry_names_it(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as refused:
        parse_hosts(text)
    assert len(str(refused.value)) < 250


@pytest.mark.parametrize(
    ("url", "allowed", "exempt"),
    [
        ("https://api.example.com/v1", "api.example.com", ""),
        ("HTTPS://API.Example.com:443/v1", "other.example,api.example.com", ""),
        ("https://api.example.com:8443/v1", "api.example.com:8443", ""),
        ("https://xn--exmple-cua.com/v1", "XN--exmple-cua.com", ""),
        ("https://8.8.8.8/v1", "8.8.8.8", ""),
        ("https://[2606:4700:4700:0::1111]/v1", "[2606:4700:4700::1111]", ""),
        ("http://llm.internal/v1", "llm.internal", "llm.internal"),
        ("http://llm.internal:8080/v1", "llm.internal:8080", "llm.internal:8080"),
        ("https://10.0.0.7:8443/v1", "10.0.0.7:8443", "10.0.0.7"),
        ("http://[::1]:9000/v1", "[::1]:9000", "[0::1]:9000"),
    ],
)
def test_a_base_url_that_passes(url: str, allowed: str, exempt: str) -> None:
    found = judge_base_url(url, allowed=parse_hosts(allowed), exempt=parse_hosts(exempt))
    assert found.trusted == bool(exempt)
    assert found.path == "/v1"


@pytest.mark.parametrize(
    ("url", "allowed", "exempt", "words"),
    [
        ("https://api.example.com", "", "", "allowed-hosts: api.example.com$"),
        ("https://api.example.com", "api.example.com.evil.example,example.com,pi.example.com", "", "annotate"),
        ("https://evil.example", "api.example.com", "evil.example", "annotate"),
        ("https://api.example.com:8443", "api.example.com", "", "allowed-hosts: api.example.com:8443$"),
        ("https://api.example.com:8443", "api.example.com", "api.example.com", "annotate"),
        ("https://api.example.com", "api.example.com:8443", "", "annotate"),
        ("https://api.example.com:80", "api.example.com", "", "annotate"),
        ("http://api.example.com", "api.example.com", "", "not https.*remote.allowedHosts"),
        ("http://api.example.com:443", "api.example.com:443", "", "not https.*remote.allowedHosts"),
        ("http://llm.internal:8080", "llm.internal:8080", "llm.internal", "not https"),
        ("https://10.0.0.7", "10.0.0.7", "", "public.*remote.allowedHosts"),
        ("https://[::1]", "[::1]", "", "public.*remote.allowedHosts"),
        ("https://[::ffff:10.0.0.7]", "[::ffff:10.0.0.7]", "10.0.0.7", "public"),
        ("https://[::ffff:10.0.0.7]", "10.0.0.7", "10.0.0.7", "annotate"),
    ],
)
def test_a_base_url_that_is_refused_says_what_to_do(url: str, allowed: str, exempt: str, words: str) -> None:
    with pytest.raises(Refused, match=words):
        judge_base_url(url + "/v1?token=secret", allowed=parse_hosts(allowed), exempt=parse_hosts(exempt))


def test_the_refusal_names_the_secret_and_neither_path_nor_query() -> None:
    with pytest.raises(Refused) as refused:
        judge_base_url("https://api.example.com:8443/path?token=x", allowed=(), exempt=(), secret="openai")
    assert str(refused.value) == (
        "https://api.example.com:8443 is not a host that the key may go to: "
        "annotate Secret openai with headrace.dev/allowed-hosts: api.example.com:8443"
    )


@pytest.mark.parametrize(("url", "word"), UNREADABLE_URLS)
def test_a_url_that_no_list_opens(url: str, word: str) -> None:
    everything = parse_hosts("example.com,example.com:65535,localhost,127.0.0.1,1.2.3.4,[::1]")
    with pytest.raises(Refused, match=word):
        judge_base_url(url, allowed=everything, exempt=everything)
    with pytest.raises(Refused, match=word):
        split(url)


@pytest.mark.parametrize("inside", [each for each in NOT_PUBLIC if each not in NEVER])
def test_an_exempt_host_may_lead_inside_and_another_may_not(inside: str) -> None:
    allowed = parse_hosts("llm.internal")
    exempt = judge_base_url("https://llm.internal/", allowed=allowed, exempt=allowed)
    other = judge_base_url("https://llm.internal/", allowed=allowed, exempt=())
    with pytest.raises(Refused, match=r"remote\.allowedHosts"):
        other.judged(["8.8.8.8", inside])
    assert exempt.judged(["8.8.8.8", inside]) == ["8.8.8.8", inside]


@pytest.mark.parametrize("address", NEVER)
def test_no_list_opens_a_metadata_service(address: str) -> None:
    allowed = parse_hosts("llm.internal")
    exempt = judge_base_url("https://llm.internal/", allowed=allowed, exempt=allowed)
    with pytest.raises(Refused, match="never go there"):
        exempt.judged(["8.8.8.8", address])
