"""The page over the whole path: a browser, the facade with its own rights, operator, runner, engine and a real model.

HEADRACE_PAGE_IMAGE names the file that the README's picture is written to.
"""

import asyncio
import contextlib
import os
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import pytest
from cluster_world import RUNNER, Cluster, Operator, until
from playwright.async_api import expect
from redis.asyncio import Redis
from redis_server import RedisServer

from headrace_bus import FACADE_ACL, ModelKey
from headrace_facade.context import open_context
from tests.contract.api_server import ApiServer
from tests.contract.callers import Caller
from tests.contract.chart.conftest import Helm
from tests.contract.conftest import Kubectl, required
from tests.contract.facade_.browsing import Visit, chromium, visiting
from tests.contract.facade_.conftest import allowed
from tests.contract.facade_.own_rights import OwnRights, installed, removed
from tests.contract.runner_.pod_world import ENDLESS, Engine, Runner
from tests.fake_calls.service import FakeContext
from tests.fake_calls.serving import served

pytestmark = [pytest.mark.contract, pytest.mark.timeout(300)]

POD = "headrace-smol-0"
SLOW_MS = 90_000
COUNTRIES = {"france": "France", "japan": "Japan", "italy": "Italy"}


@pytest.fixture
def namespace(api_server: ApiServer) -> Iterator[str]:
    """With a name for the picture, where there is to be one."""
    name = "team-a" if os.environ.get("HEADRACE_PAGE_IMAGE") else f"t-{uuid.uuid4().hex[:10]}"
    status, answer = api_server.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    assert status == 201, answer
    yield name
    for plural in ("llmtasks", "llmmodels"):
        api_server.request("DELETE", f"/apis/headrace.dev/v1alpha1/namespaces/{name}/{plural}")
    api_server.request("DELETE", f"/api/v1/namespaces/{name}")


Start = Callable[[], Awaitable[None]]


@pytest.fixture
async def start_runner(
    operator: Operator, cluster: Cluster, server: RedisServer, key: ModelKey, kubeconfig: str, tmp_path: Path
) -> AsyncIterator[Start]:
    """Begins one that serves a real model, with two slots, in a pod that the operator sees."""
    cluster.model(capabilities=["Chat", "Completion"])
    with (
        tempfile.TemporaryDirectory(prefix="hr-page-") as folder,
        contextlib.ExitStack() as ends,
    ):  # a socket's path is short

        async def deployed() -> bool:
            return cluster.get("deployment", RUNNER) is not None

        async def start() -> None:
            engine = Engine(Path(folder), Path(os.environ["HEADRACE_TEST_MODEL"]))
            ends.callback(engine.end)
            settings = {"HEADRACE_MODEL_GENERATION": "1"}
            runner = Runner(tmp_path, server, engine, key, Path(kubeconfig), POD, settings=settings)
            ends.callback(runner.end)
            cluster.pod(POD)
            await until(runner.ready, 60)
            cluster.pod_ready(POD)

        await until(deployed)
        yield start


@pytest.fixture
def own(kubectl: Kubectl, kubeconfig: str, namespace: str, tmp_path: Path) -> Iterator[OwnRights]:
    folder = tmp_path / "facade"
    folder.mkdir()
    sharing = ("--set", f"sharing.modelNamespaces={{{namespace}}}")
    yield installed(kubectl, Helm(required("HEADRACE_KUBE"), kubeconfig), namespace, folder, *sharing)
    removed(kubectl, namespace)


@dataclass(frozen=True)
class Tenants:
    alice: Caller
    stranger: Caller
    """Of another namespace, and without a right in the test's."""


@pytest.fixture
def tenants(kubectl: Kubectl, namespace: str) -> Iterator[Tenants]:
    alice = allowed(kubectl, namespace, "alice", "create,get,list,watch")
    allowed_models = ("--verb=get", "--resource=llmmodels.headrace.dev,llmquotas.headrace.dev")
    kubectl.ok("create", "role", "reads", "-n", namespace, *allowed_models)
    kubectl.ok("create", "rolebinding", "reads", "-n", namespace, "--role=reads", f"--serviceaccount={namespace}:alice")
    other = f"{namespace}-other"
    kubectl.ok("create", "namespace", other)
    yield Tenants(alice, allowed(kubectl, other, "stranger", "create,get,list,watch"))
    kubectl.run("delete", "namespace", other, "--wait=false")


@pytest.fixture
async def visit(own: OwnRights, server: RedisServer, tmp_path: Path) -> AsyncIterator[Visit]:
    async with Redis.from_url(server.url) as redis:
        await redis.execute_command("ACL", "SETUSER", "facade", "reset", "on", ">secret", *FACADE_ACL)
    url = tmp_path / "facade-url"
    url.write_text(server.url.replace("redis://", "redis://facade:secret@"), encoding="utf-8")
    async with (
        open_context(replace(own.settings, redis_url_file=str(url))) as context,
        served(cast("FakeContext", context)) as address,
        chromium() as browser,
        visiting(browser, address) as visit,
    ):
        yield visit


async def test_a_tenant_watches_its_tasks_and_talks_to_its_model(
    start_runner: Start, cluster: Cluster, visit: Visit, tenants: Tenants, namespace: str
) -> None:
    page, slow = visit.page, expect
    # What is asked for before there is a runner waits for it.
    for name, country in COUNTRIES.items():
        cluster.task(f"capital-of-{name}", prompt=f"What is the capital of {country}? Answer in one sentence.")
    cluster.task("without-a-model", modelRef={"name": "nowhere"})
    await visit.sign_in(tenants.alice.token)
    model = page.locator("#models tbody tr")
    await slow(model).to_contain_text("0 of 1", timeout=SLOW_MS)
    for name in COUNTRIES:
        await slow(page.get_by_role("row", name=f"capital-of-{name}")).to_contain_text("queued", timeout=SLOW_MS)
    await slow(page.get_by_role("row", name="without-a-model")).to_contain_text("ModelNotFound", timeout=SLOW_MS)
    await slow(page.locator("#tile-waiting")).to_have_text("3", timeout=SLOW_MS)
    await page.get_by_role("link", name="capital-of-japan").click()
    await slow(page.locator("#facts")).to_contain_text("Place in the queue")
    await slow(page.locator("#chain tbody tr").first).to_contain_text("Queued")

    await start_runner()
    await slow(page.locator("#announce")).to_contain_text("completed", timeout=SLOW_MS)
    await slow(page.locator("#result")).to_contain_text("Tokyo")
    await slow(page.locator("#facts")).to_contain_text("generated")

    await page.get_by_role("link", name="Overview").click()
    await slow(page.locator("#ended-tasks tbody th")).to_have_count(3, timeout=SLOW_MS)
    await slow(page.locator("#live-tasks tbody th")).to_have_text(["without-a-model"])
    await slow(model).to_contain_text("Serving", timeout=SLOW_MS)
    await slow(model).to_contain_text("1 of 1")
    if image := os.environ.get("HEADRACE_PAGE_IMAGE"):
        await pictured(visit, cluster, image)

    await page.get_by_role("link", name="Playground").click()
    await page.get_by_label("Prompt", exact=True).fill("What is the capital of France? Answer in one sentence.")
    await page.get_by_label("Temperature").fill("0")
    await page.get_by_role("button", name="Send").click()
    await slow(page.locator("#told")).to_contain_text("ended by Stop", timeout=SLOW_MS)
    await slow(page.locator("#answer")).to_contain_text("Paris")
    visit.check()

    await page.get_by_role("button", name="Sign out").click()
    await visit.sign_in(tenants.stranger.token)
    await slow(page.get_by_role("heading", level=1)).to_have_text(f"Overview of {tenants.stranger.namespace}")
    await slow(page.locator("#models-empty")).to_be_visible()
    await slow(page.locator("#live-tasks-empty")).to_have_text("No task waits or runs.")
    for path in (f"/ui?namespace={namespace}", f"/ui/tasks/{namespace}.capital-of-japan"):
        assert await visit.open(path) == 403
        assert "Tokyo" not in await page.content()
    await visit.open("/ui/sign-in")
    await page.get_by_label("Token or API key").fill(tenants.alice.token[:-4] + "AAAA")
    await page.get_by_role("button", name="Sign in").click()
    await slow(page.get_by_role("alert")).to_contain_text("does not accept this token")


async def pictured(visit: Visit, cluster: Cluster, image: str) -> None:
    """The overview with tasks in each state."""
    page = visit.page
    endless = ("translate-chapter-1", "translate-chapter-2", "summary-of-report-17", "release-notes")
    for name in endless:
        cluster.task(name, prompt=f"Write a long story about {name}.", **ENDLESS)
        state = "queued" if name in endless[2:] else "processing"
        await expect(page.get_by_role("row", name=name)).to_contain_text(state, timeout=SLOW_MS)
    await page.set_viewport_size({"width": 1280, "height": 860})
    await asyncio.to_thread(Path(image).parent.mkdir, parents=True, exist_ok=True)
    await page.screenshot(path=image)
    # The playground's call needs a slot.
    for name in endless:
        cluster.patch("llmtask", name, {"spec": {"cancel": True}})
