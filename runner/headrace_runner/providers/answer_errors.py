"""Answers that are no use: the ProviderErrors that providers of this family share."""

from headrace_crds.reasons import Reason
from headrace_runner.providers.protocol import Fault, ProviderError
from headrace_runner.providers.transport_errors import fault_of


def invalid(what: str) -> ProviderError:
    """An answer that is none of this API's; another try may go better."""
    return ProviderError(
        Fault.TRANSIENT, Reason.PROVIDER_ANSWER_INVALID, f"the provider's answer makes no sense: {what}"
    )


def not_a_stream() -> ProviderError:
    return invalid("it is no stream of events; is spec.remote.baseURL that of the API?")


def lost(error: Exception) -> ProviderError:
    """What a client's error means, whatever it is."""
    return fault_of(error) or ProviderError(
        Fault.TRANSIENT, Reason.PROVIDER_UNREACHABLE, f"the answer could not be read ({type(error).__name__})"
    )
