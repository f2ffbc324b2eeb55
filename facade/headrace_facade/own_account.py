"""The API server, asked with the facade's own ServiceAccount: who a caller is, what may be called.

Nothing is done here in a caller's name; `kube` does that with the caller's token. Every failure but "there is none" is
Unavailable: whoever asks to let somebody in, and hears nothing, lets nobody in.
"""

import base64
import json
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp

from headrace_facade.errors import Gone, NotFound, Unavailable

ANSWER_LIMIT_BYTES: Final = 16 * 1024 * 1024
TOKEN_KEPT_S: Final = 10.0
"""The kubelet renews a projected token long before it ends."""
WATCH_SECONDS: Final = 290
"""Asked of the API server for one watch."""
SILENCE_S: Final = 90.0
"""Of a watch before it is begun again; bookmarks come every minute."""

NOT_SET_UP: Final = "this facade has no account of its own (HEADRACE_KUBE_TOKEN_FILE): it can verify nobody"
Json = dict[str, Any]


class OwnAccount:
    """Raises Unavailable, and NotFound where an object does not exist. `token_file` None: everything is Unavailable."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        token_file: Path | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session = session
        self._url = url
        self._file = token_file
        self._clock = clock
        self._token: tuple[str, float] = ("", 0.0)

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, url: str, ca_file: str | None, timeout_s: float, token_file: str | None
    ) -> AsyncIterator["OwnAccount"]:
        """Connections are made when they are needed. A token file that does not exist is none."""
        context = ssl.create_default_context(cafile=ca_file) if url.startswith("https:") else True
        session = aiohttp.ClientSession(
            # Watches stay, so this is no bound on requests.
            connector=aiohttp.TCPConnector(ssl=context, limit=0),
            timeout=aiohttp.ClientTimeout(total=timeout_s, connect=min(3.0, timeout_s)),
            headers={"Accept": "application/json", "User-Agent": "headrace-facade"},
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        file = Path(token_file) if token_file else None
        async with session:
            yield cls(session, url, file if file is not None and file.exists() else None)

    @property
    def set_up(self) -> bool:
        return self._file is not None

    def audiences(self) -> list[str]:
        """The API server's own, as it wrote them into our token; [] where that is no JWT."""
        audiences = claims(self._own_token()).get("aud")
        return [audiences] if isinstance(audiences, str) else [str(each) for each in audiences or []]

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> Json:
        """One object, or one page of a list."""
        return await self._request("GET", path, query, None)

    async def review(self, path: str, body: Json) -> Json:
        """A TokenReview or a SubjectAccessReview with its status."""
        return await self._request("POST", path, None, body)

    async def watch(self, path: str, version: str) -> AsyncGenerator[Json, None]:
        """Events after that resourceVersion, until the API server ends them. Raises Gone where it is too old."""
        query = {
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        timeout = aiohttp.ClientTimeout(total=None, connect=3.0, sock_read=SILENCE_S)
        try:
            async with self._session.get(
                self._url + path, params=query, headers=self._headers(), timeout=timeout, allow_redirects=False
            ) as response:
                if response.status != 200:
                    raise _failed(response.status, await _read(response))
                try:
                    async for line in _lines(response):
                        event: Json = json.loads(line)
                        if event.get("type") == "ERROR":
                            raise _failed(int((event.get("object") or {}).get("code") or 500), line)
                        yield event
                finally:
                    # In the middle of an answer nobody waits for the goodbye of TLS.
                    if response.connection is not None and response.connection.transport is not None:
                        response.connection.transport.abort()
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise Unavailable(f"the API server's watch ended ({type(error).__name__})") from error

    async def _request(self, method: str, path: str, query: Mapping[str, str] | None, body: Json | None) -> Json:
        try:
            async with self._session.request(
                method, self._url + path, params=query, headers=self._headers(), json=body, allow_redirects=False
            ) as response:
                raw = await _read(response)
                if response.status >= 300:
                    raise _failed(response.status, raw)
                answer = json.loads(raw)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise Unavailable("the API server cannot be asked who may do this: try again") from error
        if not isinstance(answer, dict):
            raise Unavailable("the API server's answer cannot be read: try again")
        return answer

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._own_token()}"}

    def _own_token(self) -> str:
        if self._file is None:
            raise Unavailable(NOT_SET_UP, 30)
        token, until = self._token
        if self._clock() >= until:
            try:
                token = self._file.read_text(encoding="ascii").strip()
            except (OSError, ValueError) as error:
                raise Unavailable("this facade's own token cannot be read") from error
            self._token = token, self._clock() + TOKEN_KEPT_S
        return token


def claims(token: str) -> Json:
    """A JWT's claims, which nobody has verified here; {} of anything else."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        found = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > ANSWER_LIMIT_BYTES:
            response.close()
            raise ValueError("answer too large")
    return bytes(body)


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    rest = bytearray()
    async for piece in response.content.iter_any():
        rest += piece
        *lines, last = rest.split(b"\n")
        rest = last
        if len(rest) > ANSWER_LIMIT_BYTES:
            raise ValueError("event too large")
        for line in lines:
            if line:
                yield bytes(line)


def _failed(status: int, raw: bytes) -> NotFound | Gone | Unavailable:
    """The body is not told: it names what the facade's account may not do."""
    if status == 404:
        return NotFound("there is none")
    if status == 410 or (status == 200 and b"Expired" in raw):
        return Gone("too old")
    if status in (401, 403):
        return Unavailable("this facade's own account has no right to ask: see docs/facade.md, Identities", 30)
    return Unavailable(f"the API server answers {status}: try again")
