"""Which pages may open a WebSocket. Pure.

Browsers let any page open one anywhere and say in `Origin` which page it is; other clients send none.
"""

from collections.abc import Collection
from typing import Final
from urllib.parse import urlsplit

_PORTS: Final = {"http": 80, "https": 443}


def is_admitted(origin: str | None, host: str | None, allowed: Collection[str]) -> bool:
    """No origin, the facade's own host, or one that is listed: `https://chat.example`, as browsers write it."""
    if origin is None or origin.lower().rstrip("/") in {each.lower().rstrip("/") for each in allowed}:
        return True
    try:
        page = urlsplit(origin)
        # Behind a proxy that ends TLS the scheme is not known here: its own default port is meant by none.
        here = urlsplit(f"//{host or ''}")
        default = _PORTS.get(page.scheme)
        same_port = (page.port or default) == (here.port or default)
    except ValueError:
        return False
    return default is not None and bool(page.hostname) and page.hostname == here.hostname and same_port
