"""The runner's only way to the API server: JSON patches on ``llmtasks/status``.

The official client's errors end here, as an `Answer`: what a refusal means is decided by ``commit_rule``.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, Self
from urllib.parse import quote, urlencode

import aiohttp
from kubernetes.aio import client, config
from kubernetes.aio.client.rest import RESTClientObject

from headrace_crds.base import GROUP, VERSION
from headrace_crds.names import FIELD_MANAGER_RUNNER, METADATA_ONLY

_PREFIX: Final = f"/apis/{GROUP}/{VERSION}"
_QUERY: Final = urlencode({"fieldManager": FIELD_MANAGER_RUNNER, "fieldValidation": "Strict"})
_REQUEST: Final = aiohttp.ClientTimeout(total=10.0)

Operation = dict[str, Any]
"""One operation of a JSON patch (RFC 6902)."""


@dataclass(frozen=True)
class Answer:
    """``status`` is the HTTP status, 0 where none came; ``body`` the object that was read; ``message`` the server says.

    The message may quote the object: it is judged, never logged.
    """

    status: int
    body: dict[str, Any] | None = None
    message: str = ""


class KubeUnconfigured(Exception):
    """There is neither a service account nor a usable kubeconfig."""


class TaskStatus(Protocol):
    """Whoever takes patches of a task's status."""

    async def patch(self, namespace: str, name: str, operations: list[Operation]) -> Answer: ...


class KubeTaskStatus:
    """The adapter over ``kubernetes.aio``. Never raises for what a server or network does."""

    def __init__(self, configuration: client.Configuration) -> None:
        self._configuration = configuration
        # Generated methods would copy every patch, result included, to look for typed models in it.
        self._http: Any = RESTClientObject(configuration)

    @classmethod
    async def connect(cls, kubeconfig: Path | None) -> Self:
        """In a pod by its service account, whose token file is read again every minute; else by a kubeconfig.

        Raises KubeUnconfigured.
        """
        configuration = client.Configuration()
        # Else aiohttp asks a thread for a .netrc and for proxies before every request.
        configuration.client_session_kwargs = {"trust_env": False}
        try:
            if kubeconfig is None:
                config.load_incluster_config(configuration)  # type: ignore[no-untyped-call]  # untyped in the client
            else:
                await config.load_kube_config(  # type: ignore[no-untyped-call]  # untyped in the client
                    config_file=str(kubeconfig), client_configuration=configuration
                )
        except (config.ConfigException, OSError) as error:
            raise KubeUnconfigured(f"no way to the API server: {error}") from error
        return cls(configuration)

    @property
    def host(self) -> str:
        """The API server's URL."""
        return str(self._configuration.host)

    async def aclose(self) -> None:
        await self._http.close()

    async def patch(self, namespace: str, name: str, operations: list[Operation]) -> Answer:
        """Send one JSON patch to the status of a task. Only the answer to one that tests alone has a body."""
        reads = all(operation["op"] == "test" for operation in operations)
        where = f"{_PREFIX}/namespaces/{quote(namespace, safe='')}/llmtasks/{quote(name, safe='')}/status"
        headers = {
            # Of an object that it has just written, a runner knows what it wants to know.
            "Accept": "application/json" if reads else METADATA_ONLY,
            "Content-Type": "application/json-patch+json",
            "User-Agent": FIELD_MANAGER_RUNNER,
        }
        try:
            token = await self._configuration.get_api_key_with_prefix("BearerToken")
            if token:
                headers["Authorization"] = token
            response = await self._http.request(
                "PATCH", f"{self.host}{where}?{_QUERY}", headers, operations, _request_timeout=_REQUEST
            )
            data: bytes = await response.read()
        except (TimeoutError, aiohttp.ClientError, OSError, config.ConfigException) as error:
            return Answer(0, message=type(error).__name__)
        if response.status != 200:
            return Answer(int(response.status), message=_message(data))
        return Answer(200, body=_object(data) if reads else None)


def _object(body: bytes) -> dict[str, Any] | None:
    """None: whatever answered was no API server."""
    try:
        found = json.loads(body)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body or b"{}").get("message", ""))
    except (ValueError, AttributeError):
        return body[:500].decode(errors="replace")
