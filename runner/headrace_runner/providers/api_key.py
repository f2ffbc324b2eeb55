"""The provider's key for one request."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from headrace_crds.reasons import Reason
from headrace_runner.providers.protocol import Fault, ProviderError


def read_key(credential: Callable[[], str], *, needed: bool) -> str:
    """The key, read anew. Raises ProviderError where there is none and one is ``needed``, or no header can carry it."""
    try:
        key = credential().strip()
    except OSError as error:
        missing = (
            f"the key cannot be read ({type(error).__name__}): check the Secret that spec.remote.credentials names"
        )
        raise ProviderError(Fault.UNAVAILABLE, Reason.CREDENTIALS_NOT_FOUND, missing) from None
    if needed and not key:
        empty = "the key is empty: put one into the Secret that spec.remote.credentials names"
        raise ProviderError(Fault.UNAVAILABLE, Reason.CREDENTIALS_NOT_FOUND, empty)
    if not (key.isascii() and key.isprintable()) or " " in key:
        odd = "the key has characters that no key has: check the Secret that spec.remote.credentials names"
        raise ProviderError(Fault.UNAVAILABLE, Reason.CREDENTIALS_REFUSED, odd)
    return key


def and_key(said: Iterable[str], credential: Callable[[], str]) -> Iterator[str]:
    """What the request says, and the key: what no message may repeat."""
    yield from said
    with suppress(ProviderError):
        yield read_key(credential, needed=False)
