"""What the dialect is given: which models there are, and the service that runs calls."""

from typing import Annotated, Protocol

from fastapi import Depends, Request

from headrace_crds.model import LLMModel
from headrace_facade.caller import Caller
from headrace_facade.calls.contract import CallService


class Models(Protocol):
    def check_synced(self) -> None:
        """Raises Unavailable."""

    def model(self, caller: Caller, named: str) -> LLMModel | None: ...

    def models(self, caller: Caller) -> list[LLMModel]: ...


class Services(Protocol):
    """The part of Context that the dialect uses."""

    @property
    def directory(self) -> Models: ...

    @property
    def calls(self) -> CallService: ...


async def _services(request: Request) -> Services:
    services: Services = request.app.state.context
    return services


InServices = Annotated[Services, Depends(_services)]


def told_name(model: str, caller: Caller) -> str:
    """A model's id for this caller: `name` in its own namespace, else `namespace/name`."""
    return model.removeprefix(f"{caller.namespace}/")
