"""Who looks at the page: the credential in a cookie, judged anew with each request, and nothing kept here.

The cookie holds the credential itself: a key that encrypted it would be one more secret in every replica, and whoever
has the cookie could use the page either way. No script can read it, no other site's request carries it, and no path
beside /ui is sent it.
"""

import re
from typing import Final
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response

from headrace_facade.errors import BadRequest, FieldProblem, Forbidden, Invalid, Unauthenticated
from headrace_facade.identity.credential import NEEDED, credential_of

PATH: Final = "/ui"
COOKIE: Final = "headrace"
KEPT_S: Final = 3600
"""A browser forgets it after that, whatever the credential's own end."""
CREDENTIAL_MOST: Final = 3800
"""Browsers drop cookies above 4 KiB without a word."""
_NEXT: Final = re.compile(r"/ui(/[A-Za-z0-9][A-Za-z0-9._-]*)*/?(\?[A-Za-z0-9._&=%-]*)?")
_LOOPBACK: Final = re.compile(r"(localhost|.+\.localhost|127\.[0-9.]+|::1)")


def identity(headers: Headers) -> Headers:
    """The cookie as the header that it stands for. Raises Unauthenticated.

    Another header would be another identity than the one that the page shows: it does not count here.
    """
    cookies = [part.strip().partition("=") for line in headers.getlist("Cookie") for part in line.split(";")]
    found = [value for name, _, value in cookies if name == COOKIE]
    # Two are a stranger's, set for a parent domain, beside our own.
    if len(found) != 1:
        raise Unauthenticated(NEEDED)
    return Headers({"Authorization": f"Bearer {found[0]}"})


def has_cookie(headers: Headers) -> bool:
    return any(part.strip().startswith(f"{COOKIE}=") for line in headers.getlist("Cookie") for part in line.split(";"))


def form_fields(body: bytes) -> dict[str, str]:
    """Of application/x-www-form-urlencoded. Raises BadRequest."""
    try:
        given = parse_qs(body.decode("ascii"), keep_blank_values=True, max_num_fields=8, errors="strict")
    except ValueError as error:
        raise BadRequest("the form cannot be read") from error
    return {name: values[0].strip() for name, values in given.items()}


def credential_in(fields: dict[str, str]) -> str:
    """What was typed, in the form that a header may have. Raises Unauthenticated and Invalid."""
    text = fields.get("credential", "").removeprefix("Bearer ").strip()
    if len(text) > CREDENTIAL_MOST:
        told = f"a browser keeps {CREDENTIAL_MOST} characters at most: sign in with a shorter token"
        raise Invalid.of([FieldProblem("credential", told)])
    return credential_of(Headers({"Authorization": f"Bearer {text}"})).text


def sign_in(response: Response, headers: Headers, credential: str) -> None:
    response.set_cookie(
        COOKIE,
        credential,
        max_age=KEPT_S,
        path=PATH,
        # Behind a proxy the scheme is not known here; what is not on this machine has to be https.
        secure=not is_loopback(headers),
        httponly=True,
        samesite="strict",
    )


def sign_out(response: Response, headers: Headers) -> None:
    response.delete_cookie(COOKIE, PATH, secure=not is_loopback(headers), httponly=True, samesite="strict")


def is_loopback(headers: Headers) -> bool:
    return _LOOPBACK.fullmatch(_host_name(headers)) is not None


def _host_name(headers: Headers) -> str:
    try:
        return urlsplit(f"//{headers.get('Host', '')}").hostname or ""
    except ValueError:
        return ""


def check_same_origin(headers: Headers) -> None:
    """Raises Forbidden for a request that another site's page made, or nobody's page.

    As Go's net/http.CrossOriginProtection judges, but that a request without any word is refused, too: only browsers
    come here, and every one of them sends Origin with a POST.
    """
    site = headers.get("Sec-Fetch-Site")
    origin = headers.get("Origin")
    same = origin is not None and urlsplit(origin).netloc == headers.get("Host")
    if site is not None:
        same = site == "same-origin"
    if not same:
        raise Forbidden("this request was not made by the page itself: open /ui and try again")


def next_path(text: str | None) -> str:
    """Where to go after the sign-in: a path of the page, and never another site's."""
    return text if text is not None and len(text) <= 512 and _NEXT.fullmatch(text) else PATH
