"""For routes: the caller of a request as a parameter."""

from typing import TYPE_CHECKING, Annotated, Final

from fastapi import Depends, Request
from fastapi.security import APIKeyHeader, HTTPBearer

from headrace_facade.caller import Caller
from headrace_facade.identity.credential import API_KEY_HEADER

if TYPE_CHECKING:
    # The context holds what translates by the dialects, whose routes ask for the caller.
    from headrace_facade.context import Context

SCHEMES: Final = (
    Depends(HTTPBearer(auto_error=False, description="A token of this Kubernetes cluster, or an API key of Headrace.")),
    Depends(APIKeyHeader(name=API_KEY_HEADER, auto_error=False, description="Either of them, as well.")),
)
"""For a router's ``dependencies``: /openapi.json tells of them, and they refuse nothing."""


async def authenticated(request: Request) -> Caller:
    """The caller, for its own namespace. A route whose body names another asks `callers.authenticate` itself."""
    context: Context = request.app.state.context
    return await context.callers.authenticate(request.headers)


Authenticated = Annotated[Caller, Depends(authenticated)]
