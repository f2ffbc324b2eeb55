"""The runner's only way to the API server: JSON patches on ``llmtasks/status``.

The official client's errors end here, as an `Answer`: what a refusal means is decided by ``commit_rule``.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, Self

import aiohttp
from kubernetes.aio import client, config

from headrace_crds.base import GROUP, VERSION
from headrace_crds.names import FIELD_MANAGER_RUNNER

_PLURAL: Final = "llmtasks"
_REQUEST_SECONDS: Final = 10.0

Operation = dict[str, Any]
"""One operation of a JSON patch (RFC 6902)."""


@dataclass(frozen=True)
class Answer:
    """``status`` is the HTTP status, 0 where none came; ``body`` the object on success; ``message`` the server's words.

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

    def __init__(self, api: client.ApiClient) -> None:
        self._api = api
        self._objects = client.CustomObjectsApi(api)

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
        return cls(client.ApiClient(configuration))

    @property
    def host(self) -> str:
        """The API server's URL."""
        return str(self._api.configuration.host)

    async def aclose(self) -> None:
        await self._api.close()  # type: ignore[no-untyped-call]  # untyped in the client

    async def patch(self, namespace: str, name: str, operations: list[Operation]) -> Answer:
        """Send one JSON patch to the status of a task."""
        try:
            body = await self._objects.patch_namespaced_custom_object_status(
                GROUP,
                VERSION,
                namespace,
                _PLURAL,
                name,
                operations,
                field_manager=FIELD_MANAGER_RUNNER,
                field_validation="Strict",
                _content_type="application/json-patch+json",
                _request_timeout=_REQUEST_SECONDS,
            )
        except client.ApiException as error:
            return Answer(int(error.status or 0), message=_message(error.body))
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            return Answer(0, message=type(error).__name__)
        return Answer(200, body=body if isinstance(body, dict) else None)


def _message(body: str | bytes | None) -> str:
    try:
        return str(json.loads(body or "{}").get("message", ""))
    except (ValueError, AttributeError):
        return str(body)[:500]
