"""What the facade knows of models, quotas and namespaces: answered from memory, kept by its own watch.

It knows for everybody; what a caller is told of is judged here by `headrace_crds.admits`, the rule that the operator
judges tasks by, and by the models that an API key names.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final
from urllib.parse import quote

from headrace_bus import ModelKey
from headrace_crds.admits import admits
from headrace_crds.base import GROUP, VERSION
from headrace_crds.model import LLMModel
from headrace_crds.quota import QUOTA_NAME, LLMQuota
from headrace_facade.caller import Caller
from headrace_facade.errors import Unavailable
from headrace_facade.mirror import Mirror
from headrace_facade.own_account import NOT_SET_UP, OwnAccount

STALE_S: Final = 120.0
"""Silence that is told; less is a watch in which nothing happens."""
START_S: Final = 30.0
NAMESPACES_MOST: Final = 20_000
Labels = dict[str, str]


class Directory:
    """Raises Unavailable before everything was read once. Later answers may be as old as `condition` says."""

    def __init__(
        self,
        models: Mapping[str, Mirror[LLMModel]],
        quotas: Mapping[str, Mirror[LLMQuota]],
        namespaces: Mirror[Labels] | None,
        shared: Collection[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Mirrors by namespace, or one of all under the empty name; none: no account of its own. `shared`: namespaces
        whose models may be shared.
        """
        self._models = models
        self._quotas = quotas
        self._namespaces = namespaces
        self._shared = frozenset(shared)
        self._clock = clock
        self._began = clock()

    def model(self, caller: Caller, named: str) -> LLMModel | None:
        """By ``name`` in the caller's namespace, or ``namespace/name``. None: not there, not shared with the caller, or
        not named by its key; which of them is nobody's to know.
        """
        namespace, slash, name = named.partition("/")
        key = (namespace, name) if slash else (caller.namespace, named)
        mirror = _of(self._models, key[0])
        found = None if mirror is None else mirror.get(key)
        return found if found is not None and self.may_call(caller, found) else None

    def models(self, caller: Caller) -> list[LLMModel]:
        """All that the caller may call, its own namespace's first, by name."""
        self.check_synced()
        found = [model for mirror in self._models.values() for model in mirror.all() if self.may_call(caller, model)]
        own = caller.namespace
        return sorted(found, key=lambda model: (model.metadata.namespace != own, _key(model)))

    def any_model(self, key: ModelKey) -> LLMModel | None:
        """Whosever it is: for what follows from a model that a caller may call, as its fallback."""
        mirror = _of(self._models, key.namespace)
        return None if mirror is None else mirror.get((key.namespace, key.name))

    def may_call(self, caller: Caller, model: LLMModel) -> bool:
        """Whether it serves the caller's namespace, and the key, if it is one, names it."""
        if caller.models is not None and "/".join(_key(model)) not in caller.models:
            return False
        return self.serves(model, caller.namespace)

    def serves(self, model: LLMModel, namespace: str) -> bool:
        """As the operator judges tasks."""
        labels = None
        if self._namespaces is not None and model.metadata.namespace in self._shared:
            labels = self._namespaces.get(("", namespace))
        return admits(model, namespace, labels, self._shared)

    def quota(self, namespace: str) -> LLMQuota | None:
        """The one that counts."""
        mirror = _of(self._quotas, namespace)
        return None if mirror is None else mirror.get((namespace, QUOTA_NAME))

    def condition(self) -> str:
        """ok, or what cannot be answered, or how old the answers are."""
        mirrors = self._mirrors()
        if not mirrors:
            return NOT_SET_UP
        missing = sorted({mirror.path.rpartition("/")[2] for mirror in mirrors if not mirror.synced})
        if missing:
            return f"not read yet: {', '.join(missing)}"
        silent_s = max(mirror.silent_s for mirror in mirrors)
        return "ok" if silent_s < STALE_S else f"{silent_s:.0f} s old: the API server's watch does not answer"

    def check_started(self) -> None:
        """Raises Unavailable for the first seconds, until everything was read: a new pod takes no calls before it can.
        A facade that may not read models is ready after that all the same, for tasks.
        """
        if self._mirrors() and self._clock() - self._began < START_S:
            self.check_synced()

    def check_synced(self) -> None:
        """Raises Unavailable with what is missing."""
        if not self._mirrors() or not all(mirror.synced for mirror in self._mirrors()):
            raise Unavailable(self.condition())

    def _mirrors(self) -> list[Mirror[Any]]:
        rest = [] if self._namespaces is None else [self._namespaces]
        return [*self._models.values(), *self._quotas.values(), *rest]


@asynccontextmanager
async def open_directory(
    account: OwnAccount,
    watched: Collection[str],
    shared: Collection[str],
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[Directory]:
    """Watches until the end: all namespaces, or those `watched`. Without an account of its own it knows nothing."""
    if not account.set_up:
        yield Directory({}, {}, None, shared)
        return
    places = sorted(watched) or [""]
    models = {each: Mirror(account, _path(each, "llmmodels"), _model, clock=clock) for each in places}
    quotas = {each: Mirror(account, _path(each, "llmquotas"), _quota, clock=clock) for each in places}
    namespaces = Mirror(account, "/api/v1/namespaces", _labels, most=NAMESPACES_MOST, clock=clock) if shared else None
    mirrors: list[Mirror[Any]] = [*models.values(), *quotas.values(), *([namespaces] if namespaces else [])]
    async with AsyncExitStack() as stack:
        for mirror in mirrors:
            running = asyncio.create_task(mirror.run())
            stack.push_async_callback(_ended, running)
        yield Directory(models, quotas, namespaces, shared, clock)


async def _ended(running: "asyncio.Task[None]") -> None:
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def _of(mirrors: Mapping[str, Mirror[Any]], namespace: str) -> Mirror[Any] | None:
    """None where that namespace is not watched."""
    if not mirrors:
        raise Unavailable(NOT_SET_UP, 30)
    return mirrors.get("") or mirrors.get(namespace)


def _path(namespace: str, plural: str) -> str:
    within = f"/namespaces/{quote(namespace, safe='')}" if namespace else ""
    return f"/apis/{GROUP}/{VERSION}{within}/{plural}"


def _bare(body: dict[str, Any]) -> dict[str, Any]:
    """Without what nobody asks for here, and what may be larger than all the rest."""
    metadata = {name: value for name, value in body["metadata"].items() if name not in ("managedFields", "annotations")}
    return {**body, "metadata": metadata}


def _model(body: dict[str, Any]) -> LLMModel:
    return LLMModel.model_validate(_bare(body))


def _quota(body: dict[str, Any]) -> LLMQuota:
    return LLMQuota.model_validate(_bare(body))


def _labels(body: dict[str, Any]) -> Labels:
    return dict(body["metadata"].get("labels") or {})


def _key(model: LLMModel) -> tuple[str, str]:
    return str(model.metadata.namespace), model.metadata.name
