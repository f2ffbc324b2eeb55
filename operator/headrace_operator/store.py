"""What events told, slimmed down: which tasks, models, Deployments and pods exist, and who belongs to whom.

It may be behind. Decisions that write are therefore made on what is read afresh or written under a resourceVersion;
the store says where to look.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Protocol

from headrace_crds.model import LLMModel
from headrace_operator.decide.snapshots import DeploymentView, PodView
from headrace_operator.refs import ModelRef, TaskRef
from headrace_operator.views import TaskView
from headrace_operator.webhooks.owed import Owed


class Listener(Protocol):
    """Whoever keeps books on tasks."""

    def note(self, view: TaskView) -> None: ...

    def drop(self, ref: TaskRef) -> None: ...


class Store:
    """Every `put` and `drop` says whether something changed: what did not is not worth a reconcile."""

    def __init__(self) -> None:
        self.owed = Owed()
        self.listeners: list[Listener] = []
        self._tasks: dict[str, TaskView] = {}
        self._tasks_of: defaultdict[ModelRef, set[str]] = defaultdict(set)
        self._models: dict[ModelRef, LLMModel] = {}
        self._deployments: dict[ModelRef, DeploymentView] = {}
        self._pods: defaultdict[ModelRef, dict[str, PodView]] = defaultdict(dict)

    # Tasks, by uid

    def put_task(self, view: TaskView) -> bool:
        before = self._tasks.get(view.ref.uid)
        if before is not None and before.resource_version == view.resource_version:
            return False
        if before is not None and before.ref.model != view.ref.model:
            self._forget_model(before.ref)
        self._tasks[view.ref.uid] = view
        self._tasks_of[view.ref.model].add(view.ref.uid)
        self.owed.note(view)
        for listener in self.listeners:
            listener.note(view)
        return True

    def drop_task(self, ref: TaskRef) -> bool:
        """Only when it is known under that name and model: a ref may be made of what a stranger wrote into Redis."""
        present = self._tasks.get(ref.uid)
        if present is None or present.ref != ref:
            return False
        self._forget_model(ref)
        del self._tasks[ref.uid]
        for listener in self.listeners:
            listener.drop(ref)
        return True

    def _forget_model(self, ref: TaskRef) -> None:
        of_model = self._tasks_of.get(ref.model)
        if of_model is not None:
            of_model.discard(ref.uid)
            if not of_model:
                del self._tasks_of[ref.model]

    def task(self, uid: str) -> TaskView | None:
        return self._tasks.get(uid)

    def tasks(self) -> Iterator[TaskView]:
        return iter(list(self._tasks.values()))

    def open_tasks_of(self, model: ModelRef) -> list[TaskView]:
        views = (self._tasks[uid] for uid in self._tasks_of.get(model, ()))
        return [view for view in views if not view.finished]

    # Models and what they own, by name

    def put_model(self, ref: ModelRef, model: LLMModel) -> bool:
        before = self._models.get(ref)
        if before is not None and before.metadata.resource_version == model.metadata.resource_version:
            return False
        self._models[ref] = model
        return True

    def drop_model(self, ref: ModelRef, uid: str | None = None) -> bool:
        """With a uid: only that incarnation."""
        present = self._models.get(ref)
        if present is None or (uid is not None and present.metadata.uid != uid):
            return False
        del self._models[ref]
        return True

    def model(self, ref: ModelRef) -> LLMModel | None:
        return self._models.get(ref)

    def models(self) -> list[ModelRef]:
        return list(self._models)

    def put_deployment(self, ref: ModelRef, view: DeploymentView) -> bool:
        changed = self._deployments.get(ref) != view
        self._deployments[ref] = view
        return changed

    def drop_deployment(self, ref: ModelRef) -> bool:
        return self._deployments.pop(ref, None) is not None

    def deployment(self, ref: ModelRef) -> DeploymentView | None:
        return self._deployments.get(ref)

    def put_pod(self, ref: ModelRef, view: PodView) -> bool:
        pods = self._pods[ref]
        changed = pods.get(view.name) != view
        pods[view.name] = view
        return changed

    def drop_pod(self, ref: ModelRef, name: str) -> bool:
        pods = self._pods.get(ref)
        if pods is None or pods.pop(name, None) is None:
            return False
        if not pods:
            del self._pods[ref]
        return True

    def pods(self, ref: ModelRef) -> list[PodView]:
        return sorted(self._pods.get(ref, {}).values(), key=lambda pod: pod.name)
