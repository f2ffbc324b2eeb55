"""``spec.remote.extraBody``: only members that a provider lists, so that none changes what the runner relies on."""

from collections.abc import Collection, Mapping
from typing import Any


def check_members(extra: Mapping[str, Any] | None, allowed: Collection[str], provider: str) -> None:
    """Raises ValueError with the first member that is not ``allowed``, and those that are."""
    for name in extra or {}:
        if name not in allowed:
            listed = ", ".join(sorted(allowed))
            raise ValueError(
                f"spec.remote.extraBody: remove {name[:64]!r}: {provider} does not take it there; allowed: {listed}"
            )
