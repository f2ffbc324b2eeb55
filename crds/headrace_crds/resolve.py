"""One question to the system's resolver, in a thread of its own.

Not in asyncio's pool of threads: a name server that never answers would keep the process's other lookups from theirs.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence

from headrace_crds.hosts import Target

Resolve = Callable[[Target], Awaitable[Sequence[str]]]
"""The addresses of the target's host. Raises OSError."""


async def resolve(target: Target) -> list[str]:
    """Raises OSError. A public name is asked for as it stands, without the search domains of the pod."""
    if target.host.literal:
        return [target.host.name]
    name = target.host.name if target.trusted else f"{target.host.name}."
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[str]] = loop.create_future()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(name, target.port, type=socket.SOCK_STREAM)
            addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        except (OSError, UnicodeError) as error:
            tell(OSError(f"the name is not resolved: {type(error).__name__}"))
        else:
            tell(addresses)

    def tell(found: list[str] | OSError) -> None:
        def settle() -> None:
            if answer.done():
                return
            if isinstance(found, OSError):
                answer.set_exception(found)
            else:
                answer.set_result(found)

        # The loop may have ended while the name server was thinking.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle)

    threading.Thread(target=ask, name="resolver", daemon=True).start()
    return await answer
