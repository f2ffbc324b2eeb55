"""What kopf would remember of an object to tell what changed: nothing.

Handlers are `on.event` only and never ask. kopf's own storage copies every object deeply to find out.
"""

from collections.abc import Iterable

import kopf


class NoEssence(kopf.DiffBaseStorage):
    """Every object looks the same."""

    def build(self, *, body: kopf.Body, extra_fields: Iterable[kopf.FieldSpec] | None = None) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        pass
