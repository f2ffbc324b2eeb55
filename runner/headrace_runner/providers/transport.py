"""The only way of requests of a remote model out of the pod: judged, resolved once, pinned, bounded."""

from collections.abc import Sequence

import httpx2

from headrace_crds.hosts import AllowedHost
from headrace_crds.remote import Remote


def client(remote: Remote, allowed: Sequence[AllowedHost], exempt: Sequence[AllowedHost]) -> httpx2.AsyncClient:
    """The client of one model. Raises ValueError that names the field of `spec.remote` and the remedy."""
    return httpx2.AsyncClient(trust_env=False, follow_redirects=False)
