"""`GET …/why`: the chain by the objects that the caller may read, and the place in the queue by Redis."""

import math
from collections.abc import Awaitable, Mapping
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from headrace_bus import ModelKey
from headrace_crds.base import ApiModel
from headrace_crds.model import LLMModel
from headrace_crds.quota import LLMQuota
from headrace_crds.remote import MAX_CONCURRENCY_LIMIT
from headrace_crds.task import TaskPhase
from headrace_crds.why import Seen, TaskFacts, explain, since
from headrace_facade.errors import FacadeError, NotFound
from headrace_facade.kube import KubeClient, KubeObject, Token
from headrace_facade.objects import task_status
from headrace_facade.queues import Queues, QueueUnknown
from headrace_facade.schema import Why, WhyLink
from headrace_facade.service import parts

T = TypeVar("T", bound=ApiModel)
SLOTS_MOST: Final = 64
"""Of one runner with an engine, as LLMModel.spec.local.parallelism bounds it: what a report says is not trusted."""
_START: Final = "estimated_start_seconds"


class WhyService:
    """Raises FacadeError when the task itself cannot be read; what else cannot be is said in the answer."""

    def __init__(self, kube: KubeClient, queues: Queues) -> None:
        self._kube = kube
        self._queues = queues

    async def why(self, task_id: str, token: Token) -> Why:
        task = TaskFacts.of(await self._kube.get_task(*parts(task_id), token))
        model: Seen[LLMModel] = Seen()
        quota: Seen[LLMQuota] = Seen()
        if not task.settled:
            model = await _seen(LLMModel, self._kube.get_model(task.model_namespace, task.model_name, token))
            quota = await _seen(LLMQuota, self._kube.get_quota(task.namespace, token))
        chain = explain(task, model, quota)
        ahead, start_s, unknown = await self.place(task)
        return Why(
            task_id=task_id,
            status=task_status(task.status),
            reason=chain[0].reason,
            message=chain[0].message,
            since=since(task),
            chain=[WhyLink.model_validate(vars(link)) for link in chain],
            position=None if ahead is None else ahead + 1,
            ahead=ahead,
            estimated_start_seconds=start_s,
            unknown=unknown,
        )

    async def place(self, task: TaskFacts) -> tuple[int | None, float | None, dict[str, str]]:
        """How many deliveries come first, seconds until the start, and why either is None."""
        if task.status.phase is not TaskPhase.QUEUED:
            told = f"the task is not in the queue: its phase is {task.status.phase or 'not set yet'}"
            return None, None, {"position": told, _START: told}
        model = ModelKey(task.model_namespace, task.model_name)
        try:
            ahead = await self._queues.ahead(model, task.uid)
            if ahead is None:
                told = "the task is on its way into the queue, out of it, or waits for its next attempt"
                return None, None, {"position": told, _START: told}
            mean_ms = (await self._queues.stats(model)).mean_service_ms
            slots = serving_slots(await self._queues.reports(model))
        except QueueUnknown as error:
            return None, None, {"position": str(error), _START: str(error)}
        if mean_ms is None:
            return ahead, None, {_START: "nothing has been measured: no task of this model has ended yet"}
        if slots == 0:
            return ahead, None, {_START: "no runner of this model serves at the moment, or its provider is not asked"}
        return ahead, round(mean_ms / 1000 * ahead / slots, 3), {}


def serving_slots(reports: Mapping[str, Mapping[str, Any]]) -> int:
    """Tasks that the runners which serve take at once. A remote model's pods share what its provider is given at once,
    and take nothing while no request is made.
    """
    serving = [report for report in reports.values() if report.get("state") == "Serving"]
    slots = sum(_bounded(report.get("slots"), SLOTS_MOST) for report in serving if not _told(report))
    shared = [_shared(report) for report in serving if _told(report)]
    return slots + max(shared, default=0)


def _shared(report: Mapping[str, Any]) -> int:
    provider = _told(report)
    if provider.get("breaker") == "Open":
        return 0
    concurrency = provider.get("concurrency")
    return _bounded(report.get("slots") if concurrency is None else concurrency, MAX_CONCURRENCY_LIMIT)


def _told(report: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a remote model's runner tells of its provider."""
    provider = report.get("provider")
    return provider if isinstance(provider, Mapping) else {}


def _bounded(value: object, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return 0
    return min(max(int(value), 0), most)


async def _seen(kind: type[T], asked: Awaitable[KubeObject]) -> Seen[T]:
    try:
        return Seen(kind.model_validate(await asked))
    except NotFound:
        return Seen()
    except FacadeError as error:
        return Seen(unread=f"cannot be read with your token: {error.message}")
    except ValidationError:
        return Seen(unread=f"this {kind.__name__} is of a version that the facade does not know")
