"""The only module that talks to the API server: tasks as plain objects, failures as `errors`.

Each request carries the token of whoever asked. A token is never kept, and nothing is retried here: the caller is told.
"""

import asyncio
import json
import re
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import quote

import aiohttp

from headrace_bus.tracing import traceparent
from headrace_crds import GROUP, VERSION
from headrace_crds.names import ANNOTATION_TRACEPARENT
from headrace_crds.quota import QUOTA_NAME
from headrace_facade.budget import ByteBudget
from headrace_facade.errors import (
    BadRequest,
    Conflict,
    Expired,
    FacadeError,
    FieldProblem,
    Forbidden,
    Invalid,
    NotFound,
    Throttled,
    Unauthenticated,
    Unavailable,
    UpstreamFailed,
)

FIELD_MANAGER: Final = "headrace-facade"
ANSWER_LIMIT_BYTES: Final = 8 * 1024 * 1024
"""Several times the largest object that an API server stores."""
_READINESS_KEPT_S: Final = 1.0
# What the API server puts before its reason: the value (quoted, a number, or what kind of value), the path once more.
_BEFORE_REASON: Final = re.compile(
    r'^((Invalid|Unsupported) value: (?:"(?:[^"\\]|\\.)*"|[^\s:]+): )?(\S+ in body )?', re.DOTALL
)

Token = str
"""A bearer token as it came; never logged."""
KubeObject = dict[str, Any]


class AnswerTooLarge(UpstreamFailed):
    """More than ANSWER_LIMIT_BYTES: a list has to be asked for in smaller pages."""


class KubeClient:
    """LLMTasks at the API server. Raises FacadeError."""

    def __init__(self, session: aiohttp.ClientSession, url: str, answers: ByteBudget) -> None:
        self._session = session
        self._url = url
        self._answers = answers
        self._readiness = asyncio.Lock()
        self._ready_until = 0.0

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, url: str, ca_file: str | None, timeout_s: float, answers: ByteBudget
    ) -> AsyncIterator["KubeClient"]:
        """Connections are made when needed, so this succeeds while the API server is away."""
        context = ssl.create_default_context(cafile=ca_file) if url.startswith("https:") else True
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context, limit=100),
            timeout=aiohttp.ClientTimeout(total=timeout_s, connect=min(3.0, timeout_s)),
            headers={"Accept": "application/json", "User-Agent": "headrace-facade"},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=True,
        )
        async with session:
            yield cls(session, url, answers)

    async def create_task(self, namespace: str, task: KubeObject, token: Token, *, dry_run: bool = False) -> KubeObject:
        """Strict: a field that the installed CRD does not know is an error and not dropped. The task goes on in the
        trace of the request.
        """
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict", **({"dryRun": "All"} if dry_run else {})}
        return await self._request("POST", tasks_path(namespace), token, query=query, body=_traced(task))

    async def change_task(self, namespace: str, name: str, spec: KubeObject, token: Token) -> KubeObject:
        """Sets these members of the spec and no others."""
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
        path, content = f"{tasks_path(namespace)}/{quote(name, safe='')}", "application/merge-patch+json"
        return await self._request("PATCH", path, token, query=query, body={"spec": spec}, content=content)

    async def delete_task(self, namespace: str, name: str, token: Token) -> None:
        await self._request("DELETE", f"{tasks_path(namespace)}/{quote(name, safe='')}", token)

    async def get_model(self, namespace: str, name: str, token: Token) -> KubeObject:
        return await self._request("GET", f"{_objects(namespace, 'llmmodels')}/{quote(name, safe='')}", token)

    async def scale_model(self, namespace: str, name: str, replicas: int, token: Token) -> None:
        """By the scale subresource, as `kubectl scale` does."""
        path = f"{_objects(namespace, 'llmmodels')}/{quote(name, safe='')}/scale"
        query, content = {"fieldManager": FIELD_MANAGER}, "application/merge-patch+json"
        await self._request("PATCH", path, token, query=query, body={"spec": {"replicas": replicas}}, content=content)

    async def get_config_map(self, namespace: str, name: str, token: Token) -> KubeObject:
        return await self._request("GET", _config_map(namespace, name), token)

    async def create_config_map(self, namespace: str, config_map: KubeObject, token: Token) -> KubeObject:
        query = {"fieldManager": FIELD_MANAGER}
        return await self._request("POST", _config_map(namespace), token, query=query, body=config_map)

    async def change_config_map(self, namespace: str, name: str, data: Mapping[str, str], token: Token) -> KubeObject:
        """Sets these members of its data and no others."""
        query, content = {"fieldManager": FIELD_MANAGER}, "application/merge-patch+json"
        path = _config_map(namespace, name)
        return await self._request("PATCH", path, token, query=query, body={"data": dict(data)}, content=content)

    async def delete_config_map(self, namespace: str, name: str, token: Token) -> None:
        await self._request("DELETE", _config_map(namespace, name), token)

    async def list_config_maps(self, namespace: str, selector: str, most: int, token: Token) -> list[KubeObject]:
        """Of this label selector, by name, `most` at most; for those that hold little."""
        found: list[KubeObject] = []
        query = {"labelSelector": selector, "limit": "100"}
        while True:
            answer = await self._request("GET", _config_map(namespace), token, query=query)
            found += answer.get("items") or []
            continue_ = (answer.get("metadata") or {}).get("continue")
            if not continue_ or len(found) >= most:
                return found[:most]
            query["continue"] = continue_

    async def get_quota(self, namespace: str, token: Token) -> KubeObject:
        """The one quota that counts."""
        return await self._request("GET", f"{_objects(namespace, 'llmquotas')}/{QUOTA_NAME}", token)

    async def get_task(self, namespace: str, name: str, token: Token) -> KubeObject:
        return await self._request("GET", f"{tasks_path(namespace)}/{quote(name, safe='')}", token)

    async def list_tasks(
        self, namespace: str, limit: int, continue_: str | None, token: Token, *, selector: str = ""
    ) -> tuple[KubeObject, int]:
        """One page of a consistent list, and its size in bytes. Raises AnswerTooLarge."""
        query = {"limit": str(limit)} | ({"continue": continue_} if continue_ else {})
        if selector:
            query["labelSelector"] = selector
        return await self._sized("GET", tasks_path(namespace), token, query=query)

    async def list_events(
        self, namespace: str, selector: str, limit: int, continue_: str | None, token: Token
    ) -> KubeObject:
        """One page; `selector` is of fields."""
        query = {"limit": str(limit), "fieldSelector": selector} | ({"continue": continue_} if continue_ else {})
        path = f"/api/v1/namespaces/{quote(namespace, safe='')}/events"
        return await self._request("GET", path, token, query=query)

    async def check_ready(self) -> None:
        """Raises Unavailable with the reason. Asked without a token; an answer is kept for a second."""
        async with self._readiness:
            if time.monotonic() < self._ready_until:
                return
            status, _, body = await self._send("GET", "/readyz", {})
            # An API server that admits nobody without a token has answered, too.
            if status not in (200, 401, 403):
                raise Unavailable(
                    f"the API server is not ready: it answers {status} {body[:200].decode(errors='replace')}"
                )
            self._ready_until = time.monotonic() + _READINESS_KEPT_S

    async def _request(
        self,
        method: str,
        path: str,
        token: Token,
        *,
        query: Mapping[str, str] | None = None,
        body: KubeObject | None = None,
        content: str = "application/json",
    ) -> KubeObject:
        answer, _ = await self._sized(method, path, token, query=query, body=body, content=content)
        return answer

    async def _sized(
        self,
        method: str,
        path: str,
        token: Token,
        *,
        query: Mapping[str, str] | None = None,
        body: KubeObject | None = None,
        content: str = "application/json",
    ) -> tuple[KubeObject, int]:
        headers = {"Authorization": f"Bearer {token}"}
        data = None
        if body is not None:
            headers["Content-Type"] = content
            data = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        status, retry_after, raw = await self._send(method, path, headers, query, data)
        try:
            answer = json.loads(raw)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise convert(status, {"message": raw[:200].decode(errors="replace")}, retry_after)
        if status >= 300:
            raise convert(status, answer, retry_after)
        return answer, len(raw)

    async def _send(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        query: Mapping[str, str] | None = None,
        data: bytes | None = None,
    ) -> tuple[int, str | None, bytes]:
        try:
            async with self._session.request(
                method, self._url + path, params=query, headers=headers, data=data, allow_redirects=False
            ) as response:
                return response.status, response.headers.get("Retry-After"), await self._read(response)
        except TimeoutError as error:
            raise Unavailable("the API server did not answer in time: try again") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Unavailable(f"the API server cannot be reached ({type(error).__name__}): try again") from error

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        body = bytearray()
        with self._answers.share() as share:
            async for piece in response.content.iter_any():
                if len(body) + len(piece) > ANSWER_LIMIT_BYTES:
                    response.close()
                    raise AnswerTooLarge(f"the API server's answer is larger than {ANSWER_LIMIT_BYTES >> 20} MiB")
                share.take(len(piece))
                body += piece
        return bytes(body)


def _config_map(namespace: str, name: str = "") -> str:
    path = f"/api/v1/namespaces/{quote(namespace, safe='')}/configmaps"
    return f"{path}/{quote(name, safe='')}" if name else path


def _objects(namespace: str, plural: str) -> str:
    return f"/apis/{GROUP}/{VERSION}/namespaces/{quote(namespace, safe='')}/{plural}"


def tasks_path(namespace: str) -> str:
    return _objects(namespace, "llmtasks")


def convert(status: int, answer: Mapping[str, Any], retry_after: str | None) -> FacadeError:
    """The facade's error for a `metav1.Status` of the API server."""
    message = str(answer.get("message") or f"the API server answered {status}")
    details = answer.get("details") or {}
    match status:
        case 400:
            return BadRequest(message)
        case 401:
            return Unauthenticated("the API server does not accept this token: it has expired or is of another cluster")
        case 403:
            return Forbidden(message)
        case 404:
            # Nothing is named where even the kind is unknown.
            if not details.get("name"):
                return Unavailable("the API server does not serve LLMTask: install the CRDs of the Headrace chart", 30)
            return NotFound(message)
        case 409:
            return Conflict(message)
        case 410:
            return Expired("this list can no longer be continued: start again without `continue`")
        case 422:
            causes = details.get("causes") or []
            problems = [FieldProblem(str(c.get("field", "")), _reason(str(c.get("message", "")))) for c in causes]
            return Invalid(message, problems)
        case 429:
            return Throttled("the API server asks to slow down", _seconds(retry_after))
        case 503 | 504:
            return Unavailable("the API server cannot serve this at the moment: try again", _seconds(retry_after))
    return UpstreamFailed(f"the API server answered {status}: {message[:500]}")


def _traced(task: KubeObject) -> KubeObject:
    found = traceparent()
    if found is None:
        return task
    metadata = task["metadata"]
    annotations = {**metadata.get("annotations", {}), ANNOTATION_TRACEPARENT: found}
    return {**task, "metadata": {**metadata, "annotations": annotations}}


def _reason(message: str) -> str:
    """The reason alone: the value is the caller's own and can be long; the path is told beside it."""
    return _BEFORE_REASON.sub("", message)


def _seconds(retry_after: str | None) -> int:
    return min(int(retry_after), 300) if retry_after and retry_after.isdecimal() else 2
