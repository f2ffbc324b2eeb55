"""The one adapter to the API server: requests as dicts over `kubernetes.aio`, errors converted once.

Generated API classes are not used: they would be models of everything, and typed bodies are not wanted here.
"""

import asyncio
import json
import math
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import Configuration
from kubernetes.aio.client.rest import RESTClientObject

from headrace_crds.base import GROUP, VERSION
from headrace_crds.names import FIELD_MANAGER_OPERATOR, METADATA_ONLY
from headrace_operator.errors import KubeConflict, KubeError, KubeNotFound, KubeRefused, KubeTooLarge, KubeUnavailable

REQUEST_TIMEOUT_SECONDS: Final = 15.0
_NO_TIMER: Final = aiohttp.ClientTimeout(total=None)
"""aiohttp's own timer takes back two cancellations where it made one: a cancelled request becomes a late one."""
_DNS_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
_TOO_LARGE: Final = re.compile(r"too large|Too long: may not be more than")
"""As the API server, its validation and etcd (a 500) say it."""
_METADATA_LIST_ONLY: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Resource:
    """What a URL needs to know of a kind."""

    api_version: str
    plural: str
    readable: bool = True
    """False: the operator has no `get`; ownership is probed by a dry run (RBAC.md)."""

    def path(self, namespace: str | None, name: str | None = None, *tail: str) -> str:
        """Raises KubeNotFound for what cannot be a name: it may come from a label or a spec that anybody wrote."""
        for part in (namespace, name):
            if part is not None and (not _DNS_NAME.fullmatch(part) or ".." in part):
                raise KubeNotFound(f"no {self.plural} can be called {part[:64]!r}")
        prefix = "/api/" if "/" not in self.api_version else "/apis/"
        parts = [self.api_version]
        if namespace is not None:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        if name is not None:
            parts.append(name)
        return prefix + "/".join([*parts, *tail])


MODELS: Final = Resource(f"{GROUP}/{VERSION}", "llmmodels")
QUOTAS: Final = Resource(f"{GROUP}/{VERSION}", "llmquotas")
TASKS: Final = Resource(f"{GROUP}/{VERSION}", "llmtasks")
DEPLOYMENTS: Final = Resource("apps/v1", "deployments")
JOBS: Final = Resource("batch/v1", "jobs")
CLAIMS: Final = Resource("v1", "persistentvolumeclaims")
CONFIG_MAPS: Final = Resource("v1", "configmaps")
EVENTS: Final = Resource("events.k8s.io/v1", "events")
NAMESPACES: Final = Resource("v1", "namespaces")
NODES: Final = Resource("v1", "nodes")
PODS: Final = Resource("v1", "pods")
LEASES: Final = Resource("coordination.k8s.io/v1", "leases")
CHILDREN: Final[Mapping[str, Resource]] = {
    "ServiceAccount": Resource("v1", "serviceaccounts"),
    "RoleBinding": Resource("rbac.authorization.k8s.io/v1", "rolebindings"),
    "Secret": Resource("v1", "secrets", readable=False),
    "NetworkPolicy": Resource("networking.k8s.io/v1", "networkpolicies"),
    "Deployment": DEPLOYMENTS,
}


@dataclass(frozen=True, slots=True)
class Credentials:
    """How kopf reaches the same API server as this adapter."""

    server: str
    ca_path: str | None
    token: str | None
    certificate_path: str | None
    private_key_path: str | None
    insecure: bool


class Kube:
    """Every request of the operator but kopf's watches. Raises `KubeError` and nothing else."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._http: Any = RESTClientObject(configuration)
        self._writable_seconds: Callable[[], float] = lambda: math.inf

    def fence(self, writable_seconds: Callable[[], float]) -> None:
        """From here on writes, but of Leases, are sent only while this many seconds are left, and end with them."""
        self._writable_seconds = writable_seconds

    @classmethod
    async def connect(cls, kubeconfig: str | None) -> Self:
        """In a pod by its service account, whose token file is read again every minute; else by a kubeconfig."""
        configuration = Configuration()
        # Else aiohttp asks a thread for a .netrc and for proxies before every request.
        configuration.client_session_kwargs = {"trust_env": False}
        if kubeconfig is None:
            config.load_incluster_config(configuration)  # type: ignore[no-untyped-call]  # untyped in the client
        else:
            await config.load_kube_config(  # type: ignore[no-untyped-call]  # untyped in the client
                config_file=kubeconfig, client_configuration=configuration
            )
        return cls(configuration)

    async def aclose(self) -> None:
        await self._http.close()

    async def credentials(self) -> Credentials:
        """The present ones: a token is read afresh."""
        header = await self._configuration.get_api_key_with_prefix("BearerToken") or ""
        return Credentials(
            server=self._configuration.host,
            ca_path=self._configuration.ssl_ca_cert,
            token=header.partition(" ")[2] or None,
            certificate_path=self._configuration.cert_file,
            private_key_path=self._configuration.key_file,
            insecure=not self._configuration.verify_ssl,
        )

    async def get(self, resource: Resource, namespace: str, name: str) -> Body | None:
        """The object; None when there is none."""
        try:
            return await self._request("GET", resource.path(namespace, name))
        except KubeNotFound:
            return None

    async def probe(self, resource: Resource, namespace: str | None, name: str) -> Body | None:
        """The object's metadata alone; None when there is none. Works without `get` where the resource says so. No
        namespace: of a kind that has none.
        """
        accept = METADATA_ONLY
        try:
            path = resource.path(namespace, name)
            if resource.readable:
                return await self._request("GET", path, accept=accept)
            return await self._request(
                "PATCH", path, query={"dryRun": "All"}, body={}, content="application/merge-patch+json", accept=accept
            )
        except KubeNotFound:
            return None

    async def listed(
        self,
        resource: Resource,
        namespaces: Sequence[str],
        *,
        limit: int,
        labels: str = "",
        fields: str = "",
        whole: bool = False,
    ) -> AsyncIterator[Body]:
        """Every object of the namespaces (none named: of all), asked for in pages of `limit`. Its metadata alone, or,
        of kinds that are small, the `whole`. `labels` and `fields` are selectors.
        """
        accept = "application/json" if whole else _METADATA_LIST_ONLY
        for namespace in namespaces or (None,):
            query = {"limit": str(limit)}
            query |= {"labelSelector": labels} if labels else {}
            query |= {"fieldSelector": fields} if fields else {}
            while True:
                page = await self._request("GET", resource.path(namespace), query=query, accept=accept)
                for item in page.get("items") or []:
                    yield item
                cursor = (page.get("metadata") or {}).get("continue") or ""
                if not cursor:
                    break
                query["continue"] = cursor

    async def patch_status(
        self, resource: Resource, namespace: str, name: str, status: Mapping[str, Any], *, resource_version: str
    ) -> Body:
        """A merge patch of the status, valid for this version of the object alone. The answer is the whole object."""
        return await self._request(
            "PATCH",
            resource.path(namespace, name, "status"),
            query={"fieldManager": FIELD_MANAGER_OPERATOR, "fieldValidation": "Strict"},
            body={"metadata": {"resourceVersion": resource_version}, "status": status},
            content="application/merge-patch+json",
        )

    async def apply(self, manifest: Mapping[str, Any], *, uid: str = "") -> Body:
        """Server-side apply. With a uid: to that object alone, and by force, because it is known to be ours."""
        metadata = dict(manifest["metadata"])
        if uid:
            metadata["uid"] = uid
        return await self._request(
            "PATCH",
            CHILDREN[manifest["kind"]].path(metadata["namespace"], metadata["name"]),
            query={
                "fieldManager": FIELD_MANAGER_OPERATOR,
                "fieldValidation": "Strict",
                "force": "true" if uid else "false",
            },
            body={**manifest, "metadata": metadata},
            content="application/apply-patch+yaml",
        )

    async def create(self, resource: Resource, namespace: str, body: Mapping[str, Any]) -> Body:
        return await self._request("POST", resource.path(namespace), body=body, fenced=resource is not LEASES)

    async def replace(self, resource: Resource, namespace: str, name: str, body: Mapping[str, Any]) -> Body:
        """A full update; the body's resourceVersion makes it conditional."""
        path = resource.path(namespace, name)
        return await self._request("PUT", path, body=body, fenced=resource is not LEASES)

    async def delete(
        self, resource: Resource, namespace: str, name: str, *, uid: str, resource_version: str | None = None
    ) -> None:
        """That very object, in that version if one is given. Raises KubeNotFound, and KubeConflict for another."""
        preconditions = {"uid": uid, **({"resourceVersion": resource_version} if resource_version else {})}
        # Else a Job's pods would be orphaned.
        options = {"preconditions": preconditions, "propagationPolicy": "Background"}
        await self._request("DELETE", resource.path(namespace, name), body=options)

    async def read(self, path: str) -> Body:
        """Anything else, such as discovery."""
        return await self._request("GET", path)

    async def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content: str = "application/json",
        accept: str = "application/json",
        fenced: bool = True,
    ) -> Body:
        url = self._configuration.host + path + (f"?{urlencode(query)}" if query else "")
        headers = {"Accept": accept, "Content-Type": content, "User-Agent": FIELD_MANAGER_OPERATOR}
        try:
            token = await self._configuration.get_api_key_with_prefix("BearerToken")
            if token:
                headers["Authorization"] = token
            left = self._writable_seconds() if fenced and method != "GET" else math.inf
            if left <= 0:
                raise KubeUnavailable(f"{method} {path}: not sent, the lease ran out")
            async with asyncio.timeout(min(left, REQUEST_TIMEOUT_SECONDS)):
                response = await self._http.request(method, url, headers, body, _request_timeout=_NO_TIMER)
                data: bytes = await response.read()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise KubeUnavailable(f"{method} {path}: {type(error).__name__}") from error
        if 200 <= response.status <= 299:
            return dict(json.loads(data))
        raise _converted(response.status, data, f"{method} {path}")


def _converted(status: int, data: bytes, request: str) -> KubeError:
    try:
        message = str(json.loads(data).get("message", ""))
    except (ValueError, AttributeError):
        message = "the answer is not a Status"
    text = f"{request}: {status}: {message}"[:500]
    if status in (413, 422, 500) and _TOO_LARGE.search(message):
        return KubeTooLarge(text)
    match status:
        case 409:
            return KubeConflict(text)
        case 404 | 410:
            return KubeNotFound(text)
        case 400 | 403 | 405 | 413 | 415 | 422:
            return KubeRefused(text)
    # 401: a token that has just expired; the next request reads it again.
    return KubeUnavailable(text)
