"""Finds a provider by the name that ``spec.remote.provider`` gives it.

The built-in ones are entry points like those of other distributions, kept here because a checkout is not installed.
A distribution cannot take a built-in name. Nothing is imported before a model names it.
"""

from importlib.metadata import EntryPoint, entry_points
from typing import Final, cast

from headrace_runner.providers.protocol import ENTRY_POINT_GROUP, ProviderFactory

_MODULES: Final = {
    "OpenAI": "openai_api",
    "Anthropic": "anthropic_api",
    "OpenAICompatible": "compatible",
    "HTTP": "http_api",
}
BUILT_IN: Final = {
    name: EntryPoint(name, f"headrace_runner.providers.{module}:create", ENTRY_POINT_GROUP)
    for name, module in _MODULES.items()
}


class ProviderNotFound(ValueError):
    """No provider has that name, or the one that has cannot be loaded."""


def find(name: str) -> ProviderFactory:
    """Import the provider's factory. Raises ProviderNotFound with the names that there are."""
    found = _installed() | BUILT_IN
    if name not in found:
        there = ", ".join(sorted(found))
        raise ProviderNotFound(f"spec.remote.provider: this runner image has no provider {name!r}; it has {there}")
    try:
        factory = found[name].load()
    except Exception as error:  # another distribution's module may raise whatever it likes
        raise ProviderNotFound(
            f"spec.remote.provider: {name} cannot be loaded from {found[name].value} ({type(error).__name__}): "
            "build the runner image with what it needs"
        ) from error
    if not callable(factory):
        raise ProviderNotFound(f"spec.remote.provider: {name} is {found[name].value}, which is no factory")
    return cast("ProviderFactory", factory)


def _installed() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
