"""For routes: the caller of a request as a parameter."""

from typing import Annotated

from fastapi import Depends, Request

from headrace_facade.caller import Caller
from headrace_facade.context import Context


async def authenticated(request: Request) -> Caller:
    """The caller, for its own namespace. A route whose body names another asks `callers.authenticate` itself."""
    context: Context = request.app.state.context
    return await context.callers.authenticate(request.headers)


Authenticated = Annotated[Caller, Depends(authenticated)]
