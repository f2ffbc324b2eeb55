"""A bare client of the API server: requests as dicts over one pool of connections, nothing retried or converted."""

import base64
import json
import ssl
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import aiohttp
import yaml

GROUP = "headrace.dev/v1alpha1"
MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
Body = dict[str, Any]


class Refused(Exception):
    """The API server's answer was none of success."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text[:300]}")
        self.status = status


class Api:
    """As the kubeconfig's administrator; requests may name another's token."""

    def __init__(self, kubeconfig: Path) -> None:
        self.config: Body = yaml.safe_load(kubeconfig.read_text())
        cluster, user = self.config["clusters"][0]["cluster"], self.config["users"][0]["user"]
        self.server: str = cluster["server"]
        self._tls = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
        self._tls_admin = ssl.create_default_context(
            cadata=base64.b64decode(cluster["certificate-authority-data"]).decode()
        )
        with tempfile.NamedTemporaryFile() as pair:
            for part in ("client-certificate-data", "client-key-data"):
                pair.write(base64.b64decode(user[part]))
            pair.flush()
            self._tls_admin.load_cert_chain(pair.name)

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        self._admin = aiohttp.ClientSession(
            self.server, connector=aiohttp.TCPConnector(limit=256, ssl=self._tls_admin), timeout=timeout
        )
        self._others = aiohttp.ClientSession(
            self.server, connector=aiohttp.TCPConnector(limit=256, ssl=self._tls), timeout=timeout
        )
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._admin.close()
        await self._others.close()

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content: str = "application/json",
        token: str | None = None,
        query: dict[str, str] | None = None,
        accept: str = "application/json",
    ) -> bytes:
        headers = {"Content-Type": content, "Accept": accept}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        session = self._admin if token is None else self._others
        data = None if body is None else json.dumps(body).encode()
        async with session.request(method, path, data=data, headers=headers, params=query) as answer:
            text = await answer.read()
            if answer.status >= 300:
                raise Refused(answer.status, text.decode(errors="replace"))
            return text

    async def document(self, method: str, path: str, body: Any = None, **options: Any) -> Body:
        found: Body = json.loads(await self.request(method, path, body, **options))
        return found

    async def apply(self, path: str, body: Body) -> None:
        """Create, or leave what is there."""
        try:
            await self.request("POST", path, body)
        except Refused as refused:
            if refused.status != 409:
                raise

    async def namespace(self, name: str) -> None:
        await self.apply("/api/v1/namespaces", {"metadata": {"name": name}})

    async def token(self, namespace: str, account: str) -> str:
        asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 7200}}
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        answer = await self.document("POST", path, asked)
        token: str = answer["status"]["token"]
        return token

    def kubeconfig(self, token: str) -> str:
        """The same cluster with that token alone."""
        user = {"name": self.config["contexts"][0]["context"]["user"], "user": {"token": token}}
        return yaml.safe_dump({**self.config, "users": [user]})

    async def pages(self, path: str, limit: int = 250, accept: str = "application/json") -> AsyncIterator[list[Body]]:
        cursor = ""
        while True:
            query = {"limit": str(limit), **({"continue": cursor} if cursor else {})}
            page = await self.document("GET", path, query=query, accept=accept)
            yield page.get("items") or []
            cursor = (page.get("metadata") or {}).get("continue") or ""
            if not cursor:
                return

    async def watch(self, path: str, since: str) -> AsyncIterator[Body]:
        """Events after that version, until the caller has enough. Raises Refused at an ERROR event."""
        query = {"watch": "1", "resourceVersion": since, "allowWatchBookmarks": "false", "timeoutSeconds": "3600"}
        async with self._admin.get(path, params=query) as answer:
            if answer.status >= 300:
                raise Refused(answer.status, await answer.text())
            rest = b""
            async for chunk in answer.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    event: Body = json.loads(line)
                    if event["type"] == "ERROR":
                        raise Refused(410, line.decode())
                    yield event

    async def version(self, path: str) -> str:
        """The collection's present resourceVersion."""
        page = await self.document("GET", path, query={"limit": "1"})
        version: str = page["metadata"]["resourceVersion"]
        return version


def tasks_path(namespace: str, name: str = "") -> str:
    return f"/apis/{GROUP}/namespaces/{namespace}/llmtasks" + (f"/{name}" if name else "")
