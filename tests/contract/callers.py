"""Who calls the API server in tests: service accounts with real tokens, judged by authorization and admission."""

import base64
import json
import ssl
from dataclasses import dataclass
from typing import Any

import httpx

from tests.contract.conftest import Kubectl

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
TASKS = "/apis/headrace.dev/v1alpha1/namespaces/{}/llmtasks"
MODELS = "/apis/headrace.dev/v1alpha1/namespaces/{}/llmmodels"


@dataclass(frozen=True)
class Server:
    """The API server's address and the authority that signed its certificate."""

    url: str
    authority: str

    @classmethod
    def of(cls, kubectl: Kubectl) -> "Server":
        config = json.loads(kubectl.ok("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
        cluster = config["clusters"][0]["cluster"]
        return cls(cluster["server"], base64.b64decode(cluster["certificate-authority-data"]).decode())


@dataclass(frozen=True)
class Caller:
    """A service account and its token."""

    server: Server
    namespace: str
    name: str
    token: str

    @property
    def user(self) -> str:
        return f"system:serviceaccount:{self.namespace}:{self.name}"

    def request(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json"
    ) -> httpx.Response:
        return httpx.request(
            method,
            self.server.url + path,
            content=None if body is None else json.dumps(body),
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": content_type},
            verify=ssl.create_default_context(cadata=self.server.authority),
            timeout=30,
        )


def token_of(kubectl: Kubectl, namespace: str, name: str) -> Caller:
    """A token by the TokenRequest API of an account that exists."""
    token = kubectl.ok("create", "token", name, "-n", namespace).strip()
    return Caller(Server.of(kubectl), namespace, name, token)


def service_account(kubectl: Kubectl, namespace: str, name: str, *cluster_roles: str) -> Caller:
    """A new account, bound to the cluster roles in its namespace."""
    kubectl.ok("create", "serviceaccount", name, "-n", namespace)
    for role in cluster_roles:
        bind(kubectl, namespace, f"{namespace}:{name}", role)
    return token_of(kubectl, namespace, name)


def bind(kubectl: Kubectl, namespace: str, account: str, cluster_role: str) -> None:
    """Gives `account` (namespace:name) a cluster role in `namespace`."""
    name = f"{account.replace(':', '-')}-{cluster_role}"
    subject = f"--serviceaccount={account}"
    kubectl.ok("create", "rolebinding", name, "-n", namespace, f"--clusterrole={cluster_role}", subject)
