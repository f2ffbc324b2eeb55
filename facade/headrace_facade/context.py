"""The composition root: everything a request needs, built once per process."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from headrace_bus.tracing import SILENT, Tracing
from headrace_facade.budget import ByteBudget
from headrace_facade.calls.contract import CallService
from headrace_facade.calls.opening import open_calls
from headrace_facade.chunks import Lists
from headrace_facade.directory import Directory, open_directory
from headrace_facade.identity import Callers
from headrace_facade.kube import KubeClient
from headrace_facade.metrics import Metrics
from headrace_facade.native.following import Following
from headrace_facade.native.logs import Logs
from headrace_facade.native.monitor import Monitor
from headrace_facade.native.resuming import Resumables, open_resumables
from headrace_facade.openai_batches.batches import Batches
from headrace_facade.openai_batches.files import FILES_AT_ONCE, Files
from headrace_facade.own_account import OwnAccount
from headrace_facade.page.service import Pages
from headrace_facade.queues import Queues, open_queues
from headrace_facade.rates import Rates, open_rates
from headrace_facade.room import Room
from headrace_facade.service import TaskService
from headrace_facade.sessions.store import Sessions, open_sessions
from headrace_facade.settings import Settings
from headrace_facade.sockets.door import Door
from headrace_facade.sockets.tickets import Tickets, open_tickets
from headrace_facade.watches import Watches
from headrace_facade.why import WhyService


@dataclass(frozen=True)
class Context:
    settings: Settings
    kube: KubeClient
    tasks: TaskService
    why: WhyService
    queues: Queues
    metrics: Metrics
    bodies: ByteBudget
    callers: Callers
    directory: Directory
    rates: Rates
    calls: CallService
    following: Following
    monitor: Monitor
    sessions: Sessions
    tickets: Tickets
    door: Door
    resumables: Resumables
    logs: Logs
    files: Files
    batches: Batches
    transfers: Lists
    """Of files, few at once, as each is held whole."""
    pages: Pages
    tracing: Tracing = SILENT


@asynccontextmanager
async def open_context(settings: Settings, tracing: Tracing = SILENT) -> AsyncIterator[Context]:
    """Clients that are closed at the end."""
    bodies = ByteBudget(settings.bodies_limit_bytes, "too many request bodies are being read: try again")
    answers = ByteBudget(settings.answers_limit_bytes, "too many answers of the API server are being read: try again")
    async with AsyncExitStack() as stack:
        kube = await stack.enter_async_context(
            KubeClient.connect(settings.kube_url, settings.kube_ca_file, settings.kube_timeout_s, answers)
        )
        queues = await open_queues(settings.redis_url_file, stack)
        room = Room(kube, queues, settings.bounds)
        tasks = TaskService(kube, room, settings.default_namespace, settings.default_ttl_seconds)
        account = await stack.enter_async_context(
            OwnAccount.connect(
                settings.kube_url, settings.kube_ca_file, settings.kube_timeout_s, settings.kube_token_file
            )
        )
        callers = Callers.of(account, settings.keys_namespace, settings.default_namespace)
        directory = await stack.enter_async_context(
            open_directory(account, settings.watch_namespaces, settings.sharing_model_namespaces)
        )
        rates = await open_rates(
            settings.redis_url_file, settings.requests_per_minute, settings.tokens_per_minute, stack
        )
        why = WhyService(kube, queues)
        calls = await stack.enter_async_context(open_calls(settings, directory, rates, queues))
        monitor = Monitor(kube, directory, queues)
        watches = await stack.enter_async_context(Watches.connect(settings.kube_url, settings.kube_ca_file, answers))
        tickets = await stack.enter_async_context(open_tickets(settings.redis_url_file))
        files = Files(kube)
        following = Following(kube, watches, why)
        yield Context(
            settings,
            kube,
            tasks,
            why,
            queues,
            Metrics(),
            bodies,
            callers,
            directory,
            rates,
            calls,
            following,
            monitor,
            await stack.enter_async_context(open_sessions(settings.redis_url_file, settings.session_ttl_hours)),
            tickets,
            Door(callers, tickets, settings.allowed_origins),
            await stack.enter_async_context(open_resumables()),
            Logs(kube),
            files,
            Batches(kube, files, room),
            Lists(told="too many files are under way: try again", at_once=FILES_AT_ONCE),
            Pages(kube, tasks, why, monitor, following),
            tracing,
        )
