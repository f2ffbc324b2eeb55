"""The caller's token in a request's headers. It is the API server's to judge: here only its form is looked at."""

import re
from typing import Final

from headrace_facade.errors import Unauthenticated

_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]{1,16384}=*")


def bearer_token(authorization: str | None) -> str:
    """The token of an `Authorization` header. Raises Unauthenticated."""
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not _TOKEN.fullmatch(token):
        raise Unauthenticated("a bearer token of this Kubernetes cluster is needed: Authorization: Bearer …")
    return token
