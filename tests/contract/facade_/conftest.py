"""The facade in this process, a real API server behind it, and callers with real tokens."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from headrace_facade.app import create_app
from headrace_facade.context import open_context
from headrace_facade.settings import Settings
from tests.contract.callers import Caller, Server, service_account
from tests.contract.conftest import Kubectl

VERBS = "create,get,list,patch,delete"


@pytest.fixture
def settings(kubectl: Kubectl, namespace: str, tmp_path: Path) -> Settings:
    server = Server.of(kubectl)
    authority = tmp_path / "ca.crt"
    authority.write_text(server.authority, encoding="utf-8")
    return Settings(kube_url=server.url, kube_ca_file=str(authority), default_namespace=namespace)


@pytest.fixture
async def http(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with open_context(settings) as context:
        transport = httpx.ASGITransport(create_app(context))
        async with httpx.AsyncClient(transport=transport, base_url="http://facade") as http:
            yield http


@pytest.fixture
def alice(kubectl: Kubectl, namespace: str) -> Caller:
    """May do everything with tasks in the test's namespace, and nothing elsewhere."""
    return allowed(kubectl, namespace, "alice", VERBS)


def allowed(kubectl: Kubectl, namespace: str, name: str, verbs: str, resource: str = "llmtasks") -> Caller:
    """A service account that may do this with tasks in the namespace; returns when the API server has heard of it."""
    caller = service_account(kubectl, namespace, name)
    role = f"{name}-{resource}"
    kubectl.ok("create", "role", role, "-n", namespace, f"--verb={verbs}", f"--resource={resource}.headrace.dev")
    subject = f"--serviceaccount={namespace}:{name}"
    kubectl.ok("create", "rolebinding", role, "-n", namespace, f"--role={role}", subject)
    deadline = time.monotonic() + 10
    question = (
        "auth",
        "can-i",
        verbs.split(",")[0],
        f"{resource}.headrace.dev",
        "-n",
        namespace,
        f"--as={caller.user}",
    )
    while kubectl.run(*question).returncode:
        assert time.monotonic() < deadline
    return caller
