"""A window with its books, for tests of them."""

from dataclasses import replace

from headrace_operator.decide.quota import Grant
from headrace_operator.decide.window import Bounds, Scope
from headrace_operator.refs import ModelRef, TaskRef
from headrace_operator.views import TaskView
from headrace_operator.window import Window

MODEL, OTHER = ModelRef("models", "qwen"), ModelRef("models", "llama")
BOUNDS = Bounds(model_tasks=4, model_bytes=1_000, namespace_tasks=3, namespace_bytes=600)


def a_view(number: int, namespace: str = "a", **members: object) -> TaskView:
    """A task that nobody has looked at."""
    ref = TaskRef(namespace, f"t{number}", f"uid-{number}", members.pop("model", MODEL))  # type: ignore[arg-type]
    view = TaskView(ref, "1", "", 0, "", "", finished=False, behind=False, deleting=False, created_ms=number * 1_000)
    return replace(view, **members)  # type: ignore[arg-type]  # the members of a view


def later(view: TaskView, phase: str, reason: str = "", **members: object) -> TaskView:
    version = str(int(view.resource_version) + 1)
    return replace(view, resource_version=version, phase=phase, reason=reason, **members)  # type: ignore[arg-type]


class Desk:
    """A window, who was woken by it, and the grants that it asks about."""

    def __init__(self, bounds: Bounds = BOUNDS, **grants: Grant) -> None:
        self.grants = grants
        self.woken: list[str] = []
        self.window = Window(
            bounds, lambda name: self.grants.get(name, Grant()), lambda ref: self.woken.append(ref.uid)
        )
        self.window.open([])

    def grant_of(self, namespace: str) -> Grant:
        return self.grants.get(namespace, Grant())

    def hand_out(self, view: TaskView) -> TaskView:
        assert self.window.ask(view) is None
        queued = later(view, "Queued")
        self.window.note(queued)
        return queued

    def refuse(self, view: TaskView) -> TaskView:
        """As the operator does when there is no seat."""
        hindrance = self.window.ask(view)
        assert hindrance is not None
        waits = later(view, "Waiting", "QuotaExceeded" if hindrance.scope is Scope.QUOTA else "QueueFull")
        self.window.note(waits)
        return waits

    def finish(self, view: TaskView) -> None:
        self.window.note(later(view, "Complete", finished=True))
