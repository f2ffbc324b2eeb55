"""Everything of a run, started and ended in order: what faults act on."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final

import aiohttp

from tests.chaos import installation
from tests.chaos.control_plane import Api, ApiServer
from tests.chaos.journal import Journal
from tests.chaos.network import Partition
from tests.chaos.pods import JOURNAL, Peculiar, Pod, base_environment, free_port, make_pods
from tests.chaos.processes import Kept
from tests.chaos.recorder import Recorder, Version
from tests.chaos.redis_process import ChaosRedis
from tests.chaos.remote_models import CONCURRENCY, RemoteModels, make_providers, serve_models
from tests.chaos.settings import RunSettings
from tests.chaos.webhooks import Receiver, receiving

MODEL: Final = "stub"
START_SECONDS: Final = 90.0


MAY_STAY: Final = frozenset(
    # What is known of models, workers and namespaces, and of tasks that are over, for a while.
    (
        *("clock", "done", "finish", "inbox", "pulse", "report", "requests", "result", "results"),
        *("seq", "service", "wake", "weights", "workers"),
        # A call that died with its pod is under way until its lease ends.
        *("booked", "calls", "gate", "waiting"),
    )
)


def unexpected(keys: Iterable[str]) -> set[str]:
    """Kinds of keys, as `headrace:{namespace/model}:KIND[:…]`, that may not be there when every task is over."""
    return {key.rpartition("}:")[2].partition(":")[0] for key in keys} - MAY_STAY


class NotReached(Exception):
    """What was waited for did not come."""


async def until(
    condition: Callable[[], Awaitable[object]], what: str, within_seconds: float, poll_seconds: float = 0.05
) -> None:
    """Poll until the condition is true. Raises NotReached that names `what`."""
    deadline = time.monotonic() + within_seconds
    while not await condition():
        if time.monotonic() > deadline:
            raise NotReached(f"{what}: not within {within_seconds:.0f} s")
        await asyncio.sleep(poll_seconds)


@dataclass
class World:
    """`isolated` is the pod whose way to Redis can be cut, None without namespaces; `remote` None: there are no remote
    models.
    """

    settings: RunSettings
    api: Api
    api_server: ApiServer
    redis: ChaosRedis
    recorder: Recorder
    journal: Journal
    tenant: str
    operators: list[Kept]
    pods: list[Pod]
    facade: Kept
    facade_url: str
    token: str
    http: aiohttp.ClientSession
    partition: Partition | None
    receiver: Receiver
    changed: asyncio.Event
    remote: RemoteModels | None

    def pod(self, name: str) -> Pod:
        return next(pod for pod in self.pods if pod.name == name)

    @property
    def isolated(self) -> Pod | None:
        return None if self.partition is None else self.pods[-1]

    async def leader(self) -> Kept | None:
        """The operator that the Lease names, while it lives."""
        path = f"/apis/coordination.k8s.io/v1/namespaces/{installation.SYSTEM}/leases/headrace-operator"
        lease = await self.api.find(path)
        holder = ((lease or {}).get("spec") or {}).get("holderIdentity")
        return next((each for each in self.operators if each.name == holder), None)

    @property
    def chain(self) -> RemoteModels:
        """The models that fall back on one another. There are some where a fault said that it needs them."""
        assert self.remote is not None
        return self.remote

    def parallelism(self, pod: str) -> int:
        """How much a pod runs at once."""
        return CONCURRENCY if self.remote and self.remote.is_remote(pod) else self.settings.parallelism

    async def serving(self) -> None:
        """Returns when every pod's runner has its engine or provider."""

        async def all_serve() -> bool:
            return all(pod.serves for pod in (*self.pods, *(self.remote.pods if self.remote else ())))

        await until(all_serve, "runners that serve", START_SECONDS)

    async def queued_at_least(self, number: int) -> bool:
        """By Redis' own count."""
        async with self.redis.admin() as client:
            return int(await client.zcard(f"headrace:{{{self.tenant}/{MODEL}}}:queued")) >= number

    async def parked_at_least(self, number: int) -> bool:
        async with self.redis.admin() as client:
            return int(await client.zcard(f"headrace:{{{self.tenant}/{MODEL}}}:parked")) >= number

    async def holds_nothing(self) -> bool:
        """Nothing of a task is left in Redis."""
        return not await self.residue()

    async def residue(self) -> set[str]:
        """Kinds of the tenant's keys that speak of tasks that are not over."""
        async with self.redis.admin() as client:
            return unexpected([key async for key in client.scan_iter(match=f"headrace:{{{self.tenant}/*", count=1000)])

    async def redis_names(self, uids: Collection[str]) -> set[str]:
        """The tenant's keys that name one of these tasks."""
        async with self.redis.admin() as client:
            keys = [key async for key in client.scan_iter(match=f"headrace:{{{self.tenant}/*", count=1000)]
        return {key for key in keys if any(uid in key for uid in uids)}

    async def facade_answers(self) -> bool:
        try:
            async with self.http.get(f"{self.facade_url}/healthz") as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    def latest(self, uid: str) -> Version | None:
        return self.recorder.latest(uid)


@contextlib.asynccontextmanager
async def world(
    settings: RunSettings, *, clock_offsets: dict[int, str], isolate: bool, remote: bool = False
) -> AsyncIterator[World]:
    """A running installation with one model. `clock_offsets` by the pod's number; `isolate`: the last pod stands in a
    network namespace; `remote`: there are more models, remote ones among them. Everything is ended on the way out."""
    async with contextlib.AsyncExitStack() as stack:
        api = Api(settings.state / "kubeconfig")
        stack.push_async_callback(api.close)
        await until(api.ready, "the API server", START_SECONDS)
        tenant = f"chaos-{settings.seed}-{int(time.time()) % 100_000}"
        partition = Partition(f"hrx{free_port() % 100_000}", settings.seed) if isolate else None
        if partition is not None:
            stack.callback(partition.close)
            partition.make()
            await partition.relay(api.address)
        redis_port = free_port()
        redis = await _start_redis(stack, settings, redis_port, partition)
        address = "127.0.0.1" if partition is None else partition.host_address
        receiver = await stack.enter_async_context(receiving())
        providers = make_providers(settings, tenant) if remote else []
        await installation.install(
            api,
            settings,
            installation.Places(
                redis.operator_url,
                redis.facade_url,
                f"redis://{address}:{redis_port}/0",
                tenant,
                receiver.host,
                tuple(provider.host for provider in providers),
            ),
        )
        await installation.create(api, f"/api/v1/namespaces/{tenant}/secrets", receiver.secret())
        stack.push_async_callback(installation.remove_namespace, api, tenant)
        changed = asyncio.Event()
        server = ApiServer(settings.state)
        recorder = Recorder(server.etcd_url, tenant, lambda _: changed.set())
        await recorder.start()
        stack.push_async_callback(recorder.stop)
        journal = Journal(settings.folder / JOURNAL)
        stack.callback(journal.close)
        base = base_environment(settings.tree, settings.checkout)
        operators = await installation.make_operators(api, settings, base)
        for operator in operators:
            stack.push_async_callback(operator.end)
            await operator.start()
        await _make_claim(api, tenant)
        body = installation.local_model(tenant, MODEL, settings.replicas, settings.parallelism)
        deployment = await installation.create_model(api, body)
        peculiar = {number: Peculiar(clock_offset=offset) for number, offset in clock_offsets.items()}
        if partition is not None:
            last = settings.replicas - 1
            peculiar[last] = Peculiar(tuple(partition.prefix), clock_offsets.get(last, ""))
        pods = await make_pods(api, deployment, settings.folder, base, peculiar)
        for pod in pods:
            stack.push_async_callback(pod.end)
            await pod.start()
        models = await serve_models(stack, api, settings, tenant, base, providers) if remote else None
        facade, port = await installation.make_facade(api, settings, base, redis.facade_url)
        stack.push_async_callback(facade.end)
        await facade.start()
        token = await installation.submitter_token(api, tenant)
        http = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=15)))
        built = World(
            settings, api, server, redis, recorder, journal, tenant, operators, pods, facade,
            f"http://127.0.0.1:{port}", token, http, partition, receiver, changed, models,
        )  # fmt: skip
        await built.serving()
        await until(built.facade_answers, "the facade", START_SECONDS)
        try:
            yield built
        finally:
            if not await api.ready():
                server.start()


async def _start_redis(
    stack: contextlib.AsyncExitStack, settings: RunSettings, port: int, partition: Partition | None
) -> ChaosRedis:
    folder = settings.folder / "redis"
    folder.mkdir()
    addresses = ("127.0.0.1",) if partition is None else ("127.0.0.1", partition.host_address)
    redis = ChaosRedis(folder, port, addresses)
    stack.callback(redis.end)
    await redis.start()
    return redis


async def _make_claim(api: Api, tenant: str) -> None:
    request = {"accessModes": ["ReadOnlyMany"], "resources": {"requests": {"storage": "1Gi"}}}
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "models"},
        "spec": request,
    }
    await installation.create(api, f"/api/v1/namespaces/{tenant}/persistentvolumeclaims", claim)
