"""HTML of the page's templates, with the headers that let it load its own files and nothing else."""

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from headrace_facade.errors import FacadeError, NotFound
from headrace_facade.page.session import PATH

_CONTENT_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        # The script makes no HTML of texts, and cannot.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS: Final = {
    "Content-Security-Policy": _CONTENT_POLICY,
    # Not no-referrer: with that a browser sends forms with Origin: null.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_KINDS: Final = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}
_WORDS: Final = {403: "Not allowed", 404: "Not found", 429: "Too many requests", 503: "Not available now"}


@dataclass(frozen=True)
class Asset:
    body: bytes
    kind: str
    digest: str


def _assets() -> dict[str, Asset]:
    found = {}
    for each in (files(__package__) / "static").iterdir():
        kind = _KINDS.get(each.name.rpartition(".")[2])
        if kind is not None:
            body = each.read_bytes()
            found[each.name] = Asset(body, kind, hashlib.sha256(body).hexdigest()[:16])
    return found


_ASSETS: Final = _assets()


def asset(name: str, digest: str) -> Response:
    """Kept by browsers where the address holds its digest. Raises NotFound."""
    found = _ASSETS.get(name)
    if found is None:
        raise NotFound("no such file")
    headers = {"Cross-Origin-Resource-Policy": "same-origin"}
    if digest == found.digest:
        headers["Cache-Control"] = "public, max-age=31536000, immutable"
    return Response(found.body, media_type=found.kind, headers=headers)


def _address(name: str) -> str:
    return f"{PATH}/static/{name}?{_ASSETS[name].digest}"


_TEMPLATES: Final = Environment(
    loader=PackageLoader(__package__, "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.globals["asset"] = _address


@dataclass(frozen=True)
class Shown:
    """Who looks at what, for the frame around each page."""

    name: str = ""
    """Of the identity; empty before the sign-in."""
    namespace: str = ""
    current: str = ""
    """The entry of the menu that this page is."""
    given: str = ""
    """The namespace that the address names; it goes along with every link."""

    @property
    def query(self) -> str:
        return f"?{urlencode({'namespace': self.given})}" if self.given else ""


def html(template: str, shown: Shown, status: int = 200, **words: Any) -> HTMLResponse:
    text = _TEMPLATES.get_template(template).render(shown=shown, **words)
    return HTMLResponse(text.encode(errors="replace"), status, HEADERS)


def problem_page(request: Request, error: FacadeError) -> HTMLResponse:
    """An error for people; its status is the error's."""
    title = _WORDS.get(error.status, "Something went wrong")
    answer = html(
        "problem.html",
        Shown(current="problem"),
        error.status,
        title=title,
        message=error.message,
        trace_id=request.state.trace_id,
    )
    answer.headers.update(error.headers)
    return answer
