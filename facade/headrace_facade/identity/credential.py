"""What a request identifies itself with, by its form alone: a cluster's token or an API key."""

import hashlib
import re
from dataclasses import dataclass, field
from typing import Final

from starlette.datastructures import Headers

from headrace_facade.bearer import bearer_token
from headrace_facade.errors import Unauthenticated

API_KEY_HEADER: Final = "x-api-key"
KEY_PREFIX: Final = "hr_"
NEEDED: Final = (
    "an identity is needed: Authorization: Bearer … with a token of this Kubernetes cluster or an API key of Headrace, "
    "or x-api-key: …"
)


@dataclass(frozen=True)
class Credential:
    text: str = field(repr=False)

    @property
    def is_key(self) -> bool:
        return self.text.startswith(KEY_PREFIX)

    @property
    def digest(self) -> bytes:
        """SHA-256: under which answers are kept, so that the process holds no list of live secrets."""
        return hashlib.sha256(self.text.encode()).digest()


def credential_of(headers: Headers) -> Credential:
    """Raises Unauthenticated where there is none, or two that differ."""
    bearers, keys = headers.getlist("Authorization"), headers.getlist(API_KEY_HEADER)
    # The same form is asked of both, so that nothing odd reaches the API server.
    found = {_checked(each) for each in bearers} | {_checked(f"Bearer {each}") for each in keys}
    if not found:
        raise Unauthenticated(NEEDED)
    if len(found) > 1:
        raise Unauthenticated("the request has two identities that differ: send one of Authorization and x-api-key")
    return Credential(found.pop())


_BEARER: Final = re.compile(r"bearer +", re.IGNORECASE)


def _checked(authorization: str) -> str:
    try:
        return bearer_token(_BEARER.sub("Bearer ", authorization.strip(), count=1))
    except Unauthenticated as error:
        raise Unauthenticated(NEEDED) from error
