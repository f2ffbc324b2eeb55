"""The sign-in: which credential a request has, and whose request it is."""

import pytest
from starlette.datastructures import Headers
from starlette.responses import Response

from headrace_facade.errors import BadRequest, Forbidden, Invalid, Unauthenticated
from headrace_facade.identity.credential import credential_of
from headrace_facade.page import session


def test_the_cookie_stands_for_the_header() -> None:
    for cookies in ("headrace=a.b-c", "x=1; headrace=a.b-c; y=2"):
        assert credential_of(session.identity(Headers({"Cookie": cookies}))).text == "a.b-c"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Cookie": "headrac=a"},
        {"Cookie": "headrace=a; headrace=b"},
        {"Cookie": "headrace=a b"},
        {"Cookie": "headrace="},
        {"Authorization": "Bearer a"},
        {"x-api-key": "a"},
    ],
    ids=["nothing", "another", "two", "no-token", "empty", "header", "key"],
)
def test_anything_else_is_nobody(headers: dict[str, str]) -> None:
    with pytest.raises(Unauthenticated):
        credential_of(session.identity(Headers(headers)))


@pytest.mark.parametrize(
    ("headers", "own"),
    [
        ({"Sec-Fetch-Site": "same-origin", "Host": "a"}, True),
        ({"Origin": "https://a", "Host": "a"}, True),
        ({"Origin": "http://a:81", "Host": "a:81"}, True),
        ({"Origin": "https://a", "Host": "a:81"}, False),
        ({"Origin": "https://b", "Host": "a"}, False),
        ({"Origin": "null", "Host": "a"}, False),
        ({"Origin": "https://a", "Host": "a", "Sec-Fetch-Site": "same-site"}, False),
        ({"Host": "a", "Sec-Fetch-Site": "none"}, False),
        ({"Host": "a"}, False),
        ({"Origin": "null"}, False),
    ],
)
def test_only_the_page_itself_may_ask(headers: dict[str, str], own: bool) -> None:
    if own:
        session.check_same_origin(Headers(headers))
    else:
        with pytest.raises(Forbidden):
            session.check_same_origin(Headers(headers))


@pytest.mark.parametrize(
    ("host", "secure"),
    [
        ("localhost:8000", False),
        ("127.0.0.1:8000", False),
        ("[::1]:8000", False),
        ("llm.example.com", True),
        ("localhost.evil.example", True),
        ("127.0.0.1.evil.example", True),
        ("[", True),
        ("", True),
    ],
)
def test_the_cookie_is_secure_but_for_this_machine(host: str, secure: bool) -> None:
    answer, headers = Response(), Headers({"Host": host})
    session.sign_in(answer, headers, "a.b")
    cookie = answer.headers["set-cookie"]
    assert ("; Secure" in cookie) is secure
    assert cookie.startswith("headrace=a.b; HttpOnly; Max-Age=3600; Path=/ui; SameSite=strict")


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ("/ui/tasks/a.b-c?namespace=a", "/ui/tasks/a.b-c?namespace=a"),
        ("/ui", "/ui"),
        (None, "/ui"),
        ("//evil.example", "/ui"),
        ("/ui//evil.example", "/ui"),
        ("https://evil.example/ui", "/ui"),
        ("/uix", "/ui"),
        ("/ui/../v1", "/ui"),
        ("/ui/\\evil.example", "/ui"),
        ("/ui\r\nX: y", "/ui"),
        ("/ui/" + "a" * 600, "/ui"),
    ],
    ids=range(11),
)
def test_the_way_back_stays_on_the_page(given: str | None, where: str) -> None:
    assert session.next_path(given) == where


def test_a_form_is_read_and_what_no_header_may_have_is_refused() -> None:
    fields = session.form_fields(b"credential=+Bearer+a.b%3D+&namespace=")
    assert (session.credential_in(fields), fields["namespace"]) == ("a.b=", "")
    for body in (b"credential=\xff", b"&".join(b"a=1" for _ in range(99))):
        with pytest.raises(BadRequest):
            session.form_fields(body)
    for text in ("", "a\nb", "ä", "a;b"):
        with pytest.raises(Unauthenticated):
            session.credential_in({"credential": text})
    with pytest.raises(Invalid):
        session.credential_in({"credential": "x" * 3801})
