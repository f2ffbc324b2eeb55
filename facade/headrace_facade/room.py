"""Asks for what `bounds` judges by: counts in Redis, and the namespace's LLMQuota with the caller's token.

What cannot be asked is no reason to refuse: the object waits where there is no room.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from pydantic import ValidationError

from headrace_bus import ModelKey
from headrace_crds.model import LLMModel
from headrace_crds.quota import LLMQuota
from headrace_facade.allowance import needs_model, refused
from headrace_facade.bounds import Bounds, queue_filled, quota_used_up
from headrace_facade.errors import FacadeError, Forbidden, Unauthenticated
from headrace_facade.kube import KubeClient, KubeObject, Token
from headrace_facade.queues import Queues, QueueUnknown

QUOTA_KEPT_S: Final = 2.0
QUOTA_WITHIN_S: Final = 1.0
_KEPT_NAMESPACES: Final = 1024


class Room:
    """A quota is remembered for two seconds per namespace: whoever may create tasks there may hear of it."""

    def __init__(
        self, kube: KubeClient, queues: Queues, bounds: Bounds, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._kube = kube
        self._queues = queues
        self._bounds = bounds
        self._clock = clock
        self._quotas: dict[str, tuple[LLMQuota | None, float]] = {}

    async def refusal(self, namespace: str, model: ModelKey, token: Token, made: KubeObject) -> FacadeError | None:
        """Why this task would only wait; None when it would not, or that is not known."""
        quota = await self._quota(namespace, token)
        if quota is not None and (told := quota_used_up(namespace, quota)) is not None:
            return told
        if quota is not None and needs_model(quota):
            told = refused(namespace, quota, await self._model(model, token), made, time.time())
            if told is not None:
                return told
        try:
            return queue_filled(namespace, model, await self._queues.recent_stats(model), self._bounds)
        except QueueUnknown:
            return None

    async def _model(self, model: ModelKey, token: Token) -> LLMModel | None:
        """With the caller's right, and so for each caller anew."""
        try:
            async with asyncio.timeout(QUOTA_WITHIN_S):
                return LLMModel.model_validate(await self._kube.get_model(model.namespace, model.name, token))
        except (FacadeError, ValidationError, TimeoutError):
            return None

    async def _quota(self, namespace: str, token: Token) -> LLMQuota | None:
        kept = self._quotas.get(namespace)
        if kept is not None and self._clock() < kept[1]:
            return kept[0]
        try:
            async with asyncio.timeout(QUOTA_WITHIN_S):
                quota = LLMQuota.model_validate(await self._kube.get_quota(namespace, token))
        except (Unauthenticated, Forbidden):
            # Says something of this caller, and nothing of the namespace.
            return None
        except (FacadeError, ValidationError, TimeoutError):
            quota = None
        self._quotas.pop(namespace, None)
        if len(self._quotas) >= _KEPT_NAMESPACES:
            del self._quotas[next(iter(self._quotas))]
        self._quotas[namespace] = quota, self._clock() + QUOTA_KEPT_S
        return quota
