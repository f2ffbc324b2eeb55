"""What httpx2 raises, said as a provider says it."""

import httpx2

from headrace_crds.reasons import Reason
from headrace_runner.providers.protocol import Fault, ProviderError


def fault_of(error: BaseException) -> ProviderError | None:
    """The fault that an error of the client means; None for one that is not the client's."""
    if isinstance(error, ProviderError):
        return error
    if isinstance(error, httpx2.TimeoutException):
        return ProviderError(Fault.TRANSIENT, Reason.PROVIDER_UNREACHABLE, "the provider did not answer in time")
    if isinstance(error, httpx2.RemoteProtocolError | httpx2.ReadError):
        return ProviderError(Fault.TRANSIENT, Reason.PROVIDER_UNREACHABLE, "the provider cut the connection")
    if isinstance(error, httpx2.DecodingError):
        return ProviderError(Fault.TRANSIENT, Reason.PROVIDER_ANSWER_INVALID, "the answer's compression is broken")
    if isinstance(error, httpx2.RequestError):
        return ProviderError(Fault.TRANSIENT, Reason.PROVIDER_UNREACHABLE, "the provider cannot be reached")
    return None
