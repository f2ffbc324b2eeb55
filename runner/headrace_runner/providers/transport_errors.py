"""STAND-IN, not to be merged: the integrator takes the module of this name from the transport's engineer."""

import httpx2

from headrace_crds.reasons import Reason
from headrace_runner.providers.protocol import Fault, ProviderError


def fault_of(error: BaseException) -> ProviderError | None:
    """What a transport's error means, looked for along ``__cause__``; None where nothing there is one."""
    at: BaseException | None = error
    while at is not None:
        if isinstance(at, ProviderError):
            return at
        if isinstance(at, (httpx2.TransportError, OSError)):
            return ProviderError(Fault.TRANSIENT, Reason.PROVIDER_UNREACHABLE, f"no answer: {type(at).__name__}")
        at = at.__cause__
    return None
