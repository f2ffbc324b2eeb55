"""The API server, reached as the user's kubeconfig says: objects as dicts, failures as words for people.

The one module of the commands that talks to a cluster. Nothing is retried: whoever types the command may type it again.
"""

import contextlib
import json
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote, urlencode

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import Configuration
from kubernetes.aio.client.rest import RESTClientObject

from headrace_crds.base import GROUP, VERSION

FIELD_MANAGER: Final = "headrace-cli"
PAGE: Final = 50
"""Objects per answer: a task can be larger than 1 MiB."""
TIMEOUT_SECONDS: Final = 30.0

Body = dict[str, Any]


class ClusterError(Exception):
    """The message says what happened and what to do."""


class Forbidden(ClusterError):
    """The kubeconfig's user may not do this."""


class Taken(ClusterError):
    """An object of that name exists."""


class Cluster:
    """Objects of Headrace. Raises ClusterError."""

    def __init__(self, configuration: Configuration, namespace: str) -> None:
        self.namespace = namespace
        """Of the kubeconfig's context; for commands that name none."""
        self._configuration = configuration
        self._http: Any = RESTClientObject(configuration)

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(cls, kubeconfig: str | None, context: str | None) -> AsyncIterator[Self]:
        """By a kubeconfig as kubectl finds it; in a pod without one by its service account."""
        configuration = Configuration()
        try:
            namespace = await _configured(configuration, kubeconfig, context)
        except (config.ConfigException, OSError) as error:
            raise ClusterError(f"no cluster: {error}; name a file by --kubeconfig or KUBECONFIG") from error
        cluster = cls(configuration, namespace)
        try:
            yield cluster
        finally:
            await cluster._http.close()

    async def get(self, plural: str, namespace: str, name: str) -> Body | None:
        """The object; None when there is none."""
        return await self._request("GET", f"{_path(plural, namespace)}/{quote(name, safe='')}")

    async def pages(self, plural: str, namespace: str | None) -> AsyncIterator[list[Body]]:
        """All objects of a namespace, or of all namespaces, page by page."""
        cursor = ""
        while True:
            query = {"limit": str(PAGE), **({"continue": cursor} if cursor else {})}
            answer = await self._request("GET", _path(plural, namespace), query=query)
            if answer is None:
                raise ClusterError("the cluster does not know LLMTask: install the CRDs of Headrace")
            yield answer.get("items") or []
            cursor = (answer.get("metadata") or {}).get("continue") or ""
            if not cursor:
                return

    async def create(self, plural: str, namespace: str, body: Mapping[str, Any]) -> Body:
        """Raises Taken."""
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
        made = await self._request("POST", _path(plural, namespace), query=query, body=body)
        if made is None:
            raise ClusterError(f"there is no namespace {namespace!r}, or the CRDs of Headrace are not installed")
        return made

    async def change(self, plural: str, namespace: str, name: str, spec: Mapping[str, Any]) -> Body | None:
        """Sets these members of the spec; None when there is no such object."""
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
        path, content = f"{_path(plural, namespace)}/{quote(name, safe='')}", "application/merge-patch+json"
        return await self._request("PATCH", path, query=query, body={"spec": spec}, content=content)

    async def create_secret(self, namespace: str, body: Mapping[str, Any]) -> Body:
        """Raises Taken."""
        made = await self._request("POST", _secrets(namespace), query={"fieldManager": FIELD_MANAGER}, body=body)
        if made is None:
            raise ClusterError(f"there is no namespace {namespace!r}")
        return made

    async def secret_pages(self, namespace: str, kind: str) -> AsyncIterator[list[Body]]:
        """The Secrets of that type, page by page."""
        cursor = ""
        while True:
            query = {"limit": str(PAGE), "fieldSelector": f"type={kind}", **({"continue": cursor} if cursor else {})}
            answer = await self._request("GET", _secrets(namespace), query=query) or {}
            yield answer.get("items") or []
            cursor = (answer.get("metadata") or {}).get("continue") or ""
            if not cursor:
                return

    async def delete_secret(self, namespace: str, name: str) -> bool:
        """Whether there was one."""
        return await self._request("DELETE", f"{_secrets(namespace)}/{quote(name, safe='')}") is not None

    async def bearer_token(self) -> str | None:
        """What the kubeconfig's user identifies with; None for one who has a client certificate."""
        header = await self._configuration.get_api_key_with_prefix("BearerToken") or ""
        return str(header).partition(" ")[2] or None

    async def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content: str = "application/json",
    ) -> Body | None:
        url = self._configuration.host + path + (f"?{urlencode(query)}" if query else "")
        headers = {"Accept": "application/json", "Content-Type": content, "User-Agent": FIELD_MANAGER}
        token = await self._configuration.get_api_key_with_prefix("BearerToken")
        if token:
            headers["Authorization"] = token
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        try:
            response = await self._http.request(method, url, headers, body, _request_timeout=timeout)
            data: bytes = await response.read()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            reason = str(error) or type(error).__name__
            raise ClusterError(f"{self._configuration.host} cannot be reached: {reason}") from error
        if response.status == 404:
            return None
        if not 200 <= response.status <= 299:
            raise _refused(response.status, data)
        return dict(json.loads(data))


async def _configured(configuration: Configuration, kubeconfig: str | None, context: str | None) -> str:
    """Fills the configuration in; gives the namespace to use."""
    # The client looks into the environment once, when it is imported.
    kubeconfig = kubeconfig or os.environ.get("KUBECONFIG") or None
    if kubeconfig is None and "KUBERNETES_SERVICE_HOST" in os.environ and not _has_kubeconfig():
        config.load_incluster_config(configuration)  # type: ignore[no-untyped-call]  # untyped in the client
        return "default"
    await config.load_kube_config(  # type: ignore[no-untyped-call]  # untyped in the client
        config_file=kubeconfig, context=context, client_configuration=configuration, persist_config=False
    )
    contexts, current = config.list_kube_config_contexts(kubeconfig)  # type: ignore[no-untyped-call]  # as above
    chosen = current if context is None else next(each for each in contexts if each["name"] == context)
    return str((chosen.get("context") or {}).get("namespace") or "default")


def _has_kubeconfig() -> bool:
    return (Path.home() / ".kube" / "config").exists()


def _path(plural: str, namespace: str | None) -> str:
    within = f"namespaces/{quote(namespace, safe='')}/" if namespace is not None else ""
    return f"/apis/{GROUP}/{VERSION}/{within}{plural}"


def _secrets(namespace: str) -> str:
    return f"/api/v1/namespaces/{quote(namespace, safe='')}/secrets"


def _refused(status: int, data: bytes) -> ClusterError:
    try:
        message = str(json.loads(data).get("message") or "")
    except (ValueError, AttributeError):
        message = ""
    match status:
        case 401:
            return ClusterError("the cluster does not accept the kubeconfig's credentials: log in again")
        case 403:
            return Forbidden(message or "the kubeconfig's user may not do this")
        case 409:
            return Taken(message)
    return ClusterError(f"the API server answered {status}: {message[:500]}")
