"""How a request of a remote model fails on its way, and what that means for the next one."""

import httpx2

from headrace_crds.reasons import Reason
from headrace_runner.providers.protocol import Fault, ProviderError


def fault_of(error: BaseException) -> ProviderError | None:
    """What a failed request means, looked for in the error and in its causes, as the SDKs wrap it.

    None: not the transport's affair, such as a status that the provider answered with.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ProviderError):
            return seen
        if isinstance(seen, httpx2.RequestError):
            message = "the connection to the provider failed: look whether the runner may reach it"
            return ProviderError(Fault.TRANSIENT, Reason.PROVIDER_UNREACHABLE, message)
        seen = seen.__cause__
    return None
