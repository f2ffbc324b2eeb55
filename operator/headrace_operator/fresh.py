"""Bodies of tasks that a watch has just brought and nobody has accepted yet, so that the first look need not ask for
what is known already.

Whoever looks at one of these may look at an old version: good for decisions that are written under its resourceVersion
alone, and every accept is. Each is given once, so that whoever is refused reads afresh.
"""

from collections.abc import Mapping
from typing import Any, Final

from headrace_operator.views import TaskView

BODIES_MAX: Final = 1_000
INPUT_CHARS_MAX: Final = 8 * 1024 * 1024
"""Together. What comes beyond is not kept: those that came first are looked at first."""

Body = Mapping[str, Any]


class Fresh:
    """Bounded; forgets what is given, replaced or gone."""

    def __init__(self) -> None:
        self._bodies: dict[str, tuple[str, int, Body]] = {}
        self._chars = 0

    def __len__(self) -> int:
        return len(self._bodies)

    def keep(self, view: TaskView, body: Body) -> None:
        """The body of an event, if it is of use; whatever was kept of the task before is forgotten."""
        self.forget(view.ref.uid)
        if view.attempt or view.finished or view.deleting or len(self._bodies) >= BODIES_MAX:
            return
        chars = _input_chars(body)
        if self._chars + chars <= INPUT_CHARS_MAX:
            self._bodies[view.ref.uid] = view.resource_version, chars, body
            self._chars += chars

    def take(self, view: TaskView | None) -> Body | None:
        """The body of exactly that version, once."""
        if view is None:
            return None
        kept = self.forget(view.ref.uid)
        return kept[2] if kept is not None and kept[0] == view.resource_version else None

    def forget(self, uid: str) -> tuple[str, int, Body] | None:
        kept = self._bodies.pop(uid, None)
        if kept is not None:
            self._chars -= kept[1]
        return kept

    def clear(self) -> None:
        self._bodies.clear()
        self._chars = 0


def _input_chars(body: Body) -> int:
    spec = body.get("spec") or {}
    messages = sum(len(each.get("content") or "") for each in spec.get("messages") or [])
    output = spec.get("output") or {}
    texts = [output.get(name) or "" for name in ("jsonSchema", "grammar", "regex")] + (output.get("choice") or [])
    texts += (spec.get("embed") or {}).get("input") or []
    return len(spec.get("prompt") or "") + messages + sum(len(text) for text in texts)
