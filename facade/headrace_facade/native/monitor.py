"""What a tenant may see of the whole: its own numbers, the models that serve it, and the GPUs of its own models.

Redis is asked for a model once in two seconds, however many look. What runners tell is hostile input.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from headrace_bus import ModelKey, Stats
from headrace_crds.model import LLMModel
from headrace_facade.caller import Caller
from headrace_facade.calls.chain import key_of
from headrace_facade.directory import Directory
from headrace_facade.errors import FacadeError, Unavailable
from headrace_facade.identity.kept import Kept
from headrace_facade.kube import KubeClient
from headrace_facade.native.models import view
from headrace_facade.native.monitor_schema import Away, GpuView, MonitorStatus, QueueView, QueueViews
from headrace_facade.openai_dialect.port import told_name
from headrace_facade.queues import Queues, QueueUnknown
from headrace_facade.why import serving_slots

MODELS_MOST: Final = 100
WORKERS_MOST: Final = 64
GPUS_MOST: Final = 16
"""Of one runner."""
KEPT_S: Final = 2.0
_AT_ONCE: Final = 8
_KEPT_MODELS: Final = 1024
_WORD_LIMIT: Final = 128
_NUMBER_MOST: Final = 1 << 53
"""Beyond it a JSON number is not whole in every client."""


@dataclass(frozen=True)
class _Seen:
    stats: Stats
    slots: int
    gpus: tuple[tuple[str, Mapping[str, Any]], ...]
    """Runner and what it tells of one GPU."""


class Monitor:
    """Raises Unavailable before the models were read."""

    def __init__(
        self,
        kube: KubeClient,
        directory: Directory,
        queues: Queues,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._kube = kube
        self._directory = directory
        self._queues = queues
        self._wall_clock = wall_clock
        self._kept: Kept[_Seen] = Kept(KEPT_S, KEPT_S, entries=_KEPT_MODELS, questions=_AT_ONCE)

    async def queue(self, caller: Caller) -> QueueViews:
        models = self._directory.models(caller)
        seen = await self._look(models[:MODELS_MOST])
        return QueueViews(
            namespace=caller.namespace, queues=self._queue_views(caller, seen), left_off=_left_off(models)
        )

    async def status(self, caller: Caller) -> MonitorStatus:
        models = self._directory.models(caller)
        seen = await self._look(models[:MODELS_MOST])
        return MonitorStatus(
            namespace=caller.namespace,
            queues=self._queue_views(caller, seen),
            left_off=_left_off(models),
            models=[view(model, caller) for model, _ in seen],
            gpus=[
                found
                for model, known in seen
                if _is_own(model, caller) and isinstance(known, _Seen)
                for worker, told in known.gpus
                if (found := gpu_view(model.metadata.name, worker, told)) is not None
            ],
            away=await self._away(),
        )

    async def _look(self, models: list[LLMModel]) -> list[tuple[LLMModel, _Seen | str]]:
        """What is known of each, or why nothing is."""
        return list(zip(models, await asyncio.gather(*(self._seen(model) for model in models)), strict=True))

    async def _seen(self, model: LLMModel) -> _Seen | str:
        key = key_of(model)
        has_gpus = model.spec.local is not None and model.spec.local.gpu is not None
        try:
            found = await self._kept.get(str(key).encode(), lambda: self._asked(key, has_gpus))
        except QueueUnknown as error:
            return str(error)
        except Unavailable:
            return "too many models are being looked at: try again"
        return found if found is not None else "nothing is known of it"

    async def _asked(self, key: ModelKey, has_gpus: bool) -> _Seen:
        stats, reports = await self._queues.stats(key), await self._queues.reports(key)
        gpus: list[tuple[str, Mapping[str, Any]]] = []
        for worker in sorted(reports)[:WORKERS_MOST] if has_gpus else ():
            gpus += [(worker, told) for told in (await self._queues.gpus(key, worker))[:GPUS_MOST]]
        return _Seen(stats, serving_slots(reports), tuple(gpus))

    def _queue_views(self, caller: Caller, seen: list[tuple[LLMModel, _Seen | str]]) -> list[QueueView]:
        return [self._queue_view(caller, model, known) for model, known in seen]

    def _queue_view(self, caller: Caller, model: LLMModel, known: _Seen | str) -> QueueView:
        name = told_name(str(key_of(model)), caller)
        if isinstance(known, str):
            return QueueView(model=name, queued=None, unknown=known)
        stats = known.stats
        queued = stats.by_namespace.get(caller.namespace, 0)
        if not _is_own(model, caller):
            return QueueView(model=name, queued=queued)
        oldest_ms, mean_ms = stats.oldest_queued_ms, stats.mean_service_ms
        return QueueView(
            model=name,
            queued=queued,
            queued_together=stats.queued,
            delayed=stats.delayed,
            running=stats.leased,
            oldest_wait_seconds=None if oldest_ms is None else round(max(self._wall_clock() - oldest_ms / 1000, 0), 3),
            mean_service_seconds=None if mean_ms is None else round(mean_ms / 1000, 3),
            slots=known.slots,
        )

    async def _away(self) -> list[Away]:
        found = {"redis": await self._queues.condition(), "models": self._directory.condition(), "api-server": "ok"}
        try:
            await self._kube.check_ready()
        except FacadeError as error:
            found["api-server"] = error.message
        return [Away(what=what, message=message) for what, message in sorted(found.items()) if message != "ok"]


def gpu_view(model: str, pod: str, told: Mapping[str, Any]) -> GpuView | None:
    """None where it is not what a runner tells of a GPU."""
    name, total, used = told.get("name"), _number(told.get("totalBytes")), _number(told.get("usedBytes"))
    if not isinstance(name, str) or total is None or used is None:
        return None
    return GpuView(
        model=model,
        pod=_word(pod),
        name=_word(name),
        total_bytes=total,
        used_bytes=used,
        utilization_percent=_number(told.get("utilizationPercent")),
        temperature_celsius=_number(told.get("temperatureCelsius")),
        power_milliwatts=_number(told.get("powerMilliwatts")),
    )


def _number(value: object) -> int | None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and isinstance(value, int) and 0 <= value <= _NUMBER_MOST else None


def _word(text: str) -> str:
    return "".join(each if each.isprintable() else " " for each in text[:_WORD_LIMIT])


def _is_own(model: LLMModel, caller: Caller) -> bool:
    return model.metadata.namespace == caller.namespace


def _left_off(models: list[LLMModel]) -> int:
    return max(len(models) - MODELS_MOST, 0)
