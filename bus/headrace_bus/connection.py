"""Speaks redis-py, with `wire` alone: commands, scripts, blocking reads, and the errors' conversion.

redis-py's own retries are off: by default it runs a script again up to ten times when a reply is
late. What may be repeated is decided here, by the caller's word, once.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any, Final, get_args

from redis import exceptions as vendor
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import PubSub
from redis.asyncio.connection import AbstractConnection, parse_url
from redis.asyncio.connection import Connection as TcpConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from headrace_bus.errors import BusCorrupt, BusDenied, BusError, BusOutOfMemory, BusUnavailable
from headrace_bus.scripts import ScriptName, script
from headrace_bus.settings import BusSettings
from headrace_bus.wire import Reply, Wire

TRIES: Final = 2
"""How often a command is sent. A mutation's second run finds the first one's reply by its request id."""

_UNAVAILABLE: Final = frozenset(
    {"BUSY", "LOADING", "MISCONF", "READONLY", "NOREPLICAS", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "UNBLOCKED"}
)

_DENIED: Final = frozenset({"NOAUTH", "WRONGPASS", "NOPERM"})
_DENIED_IN_SCRIPT: Final = "The user executing the script can't"


def convert(error: Exception) -> BusError:
    """The bus's error for one of redis-py's."""
    text = str(error)
    match error:
        case vendor.AuthenticationError() | vendor.AuthorizationError() | vendor.NoPermissionError():
            return BusDenied(text)
        case vendor.OutOfMemoryError():
            return BusOutOfMemory(text)
        case vendor.ConnectionError() | vendor.TimeoutError() | vendor.ReadOnlyError() | OSError():
            return BusUnavailable(text)
    code = text.split(" ", 1)[0]
    if code in _DENIED or text.startswith(_DENIED_IN_SCRIPT):
        return BusDenied(text)
    if code == "OOM":
        return BusOutOfMemory(text)
    if code in _UNAVAILABLE:
        return BusUnavailable(text)
    if code == "WRONGTYPE":
        return BusCorrupt(text)
    return BusError(text)


@contextlib.contextmanager
def converted() -> Iterator[None]:
    """Lets no error of redis-py out."""
    try:
        yield
    except (vendor.RedisError, OSError) as error:
        raise convert(error) from error


def _as_it_comes(response: Any, **_options: Any) -> Any:
    return response


class Connection:
    """Two ways to one server: a wire for replies that come at once, a pool whose connections wait for something."""

    def __init__(self, settings: BusSettings) -> None:
        self._settings = settings
        self.closed = False
        self._wire = Wire(self._connection, reply_within_s=settings.socket_timeout_s)
        # No socket time-out: every blocking read sets its own, above the time it blocks.
        self._waiters = BlockingConnectionPool(
            max_connections=settings.max_waiters, timeout=settings.socket_timeout_s, **self._options(None)
        )
        self._blocking = Redis(connection_pool=self._waiters)
        # As it comes: redis-py would make a dict of a record, in which a call has one event at most.
        self._blocking.set_response_callback("XREAD", _as_it_comes)
        # Untyped in redis-py.
        self._execute_blocking: Callable[..., Awaitable[Reply]] = self._blocking.execute_command

    def _connection(self) -> AbstractConnection:
        options = self._options(self._settings.socket_timeout_s)
        kind: type[AbstractConnection] = options.pop("connection_class", TcpConnection)
        return kind(**options)

    def _options(self, socket_timeout_s: float | None) -> dict[str, Any]:
        # from_url would let the URL's query decide over retries and time-outs.
        options: dict[str, Any] = {
            **parse_url(self._settings.url),
            "socket_timeout": socket_timeout_s,
            "retry": Retry(NoBackoff(), 0),
            "retry_on_timeout": False,
            "protocol": 2,
            "driver_info": None,
            "decode_responses": False,
        }
        if "path" not in options:
            options["socket_connect_timeout"] = self._settings.connect_timeout_s
        credentials = {"username": self._settings.username, "password": self._settings.password}
        options.update({name: value for name, value in credentials.items() if value is not None})
        for of_a_pool in ("max_connections", "timeout"):
            options.pop(of_a_pool, None)
        return options

    async def command(self, *args: bytes | str | int) -> Reply:
        """One command whose repetition does no harm: sent once more when the connection breaks before the reply."""
        limit_s = self._settings.call_timeout_s
        if limit_s is None:
            return await self._tried(*args)
        try:
            async with asyncio.timeout(limit_s):
                return await self._tried(*args)
        except TimeoutError as error:
            raise BusUnavailable(f"no reply within {limit_s} s") from error

    async def _tried(self, *args: bytes | str | int) -> Reply:
        for left in reversed(range(TRIES)):
            try:
                with converted():
                    return await self._wire.call(*args)
            except BusUnavailable as error:
                if left == 0 or not isinstance(error.__cause__, vendor.ConnectionError | vendor.TimeoutError | OSError):
                    raise
        raise AssertionError("unreachable")

    async def run(self, name: ScriptName, prefix: str, *args: bytes | str | int) -> Reply:
        """A script on the model whose keys begin with `prefix`. Sent twice at most: a script knows what it has done.

        Raises BusCorrupt when the script stumbles over what the model's keys hold.
        """
        try:
            return await self._evaluated(name, prefix, *args)
        except BusCorrupt as error:
            raise BusCorrupt(f"{name} on {prefix}: {error}") from error
        except BusError as error:
            if type(error) is BusError and isinstance(error.__cause__, vendor.ResponseError):
                raise BusCorrupt(f"{name} on {prefix}: {error}") from error
            raise

    async def _evaluated(self, name: ScriptName, prefix: str, *args: bytes | str | int) -> Reply:
        wanted = script(name)
        try:
            return await self.command("EVALSHA", wanted.sha, 1, prefix, *args)
        except BusError as error:
            if not isinstance(error.__cause__, vendor.NoScriptError):
                raise
        try:
            return await self.command("EVAL", wanted.source, 1, prefix, *args)
        except BusDenied as error:
            raise BusUnavailable(f"{name} is not loaded yet; the operator does that with its next grant") from error

    async def info(self, section: str) -> dict[str, str]:
        """One section of INFO."""
        text = (await self.command("INFO", section)).decode()
        return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)

    async def load_scripts(self) -> None:
        """Every script that Redis does not hold, for those who may call but not load."""
        scripts = [script(name) for name in get_args(ScriptName)]
        held = await self.command("SCRIPT", "EXISTS", *(each.sha for each in scripts))
        for each, there in zip(scripts, held, strict=True):
            if not there:
                await self.command("SCRIPT", "LOAD", each.source)

    async def pop(self, key: str, timeout_s: float) -> bytes | None:
        """Blocks for an element of a list, at most so long. Raises BusUnavailable."""
        reply_within_s = timeout_s + self._settings.connect_timeout_s + self._settings.socket_timeout_s
        try:
            async with asyncio.timeout(reply_within_s):
                with converted():
                    reply = await self._execute_blocking("BLPOP", key, f"{timeout_s:.3f}")
                    return None if reply is None else bytes(reply[1])
        except TimeoutError as error:
            raise BusUnavailable(f"no reply to BLPOP within {reply_within_s:.1f} s") from error

    async def read_streams(self, keys: Sequence[bytes], after: Sequence[str], count: int, timeout_s: float) -> Reply:
        """Blocks for entries of streams, at most so long; up to `count` of each, as [key, [[id, [name, value, …]], …]].

        Raises BusUnavailable.
        """
        reply_within_s = timeout_s + self._settings.connect_timeout_s + self._settings.socket_timeout_s
        # 0 would block for ever.
        block_ms = max(1, int(timeout_s * 1000))
        try:
            async with asyncio.timeout(reply_within_s):
                with converted():
                    command = ("XREAD", "COUNT", count, "BLOCK", block_ms, "STREAMS", *keys, *after)
                    return await self._execute_blocking(*command)
        except TimeoutError as error:
            raise BusUnavailable(f"no reply to XREAD within {reply_within_s:.1f} s") from error

    @contextlib.asynccontextmanager
    async def subscription(self, pattern: str) -> AsyncIterator[PubSub]:
        """A pattern subscription on a connection of its own; errors inside come out converted."""
        with converted():
            async with self._blocking.pubsub() as pubsub:
                await pubsub.psubscribe(pattern)
                yield pubsub

    async def aclose(self) -> None:
        """Closes every connection; a blocked read ends with BusUnavailable."""
        self.closed = True
        await self._wire.aclose()
        with contextlib.suppress(vendor.RedisError, OSError):
            await self._blocking.aclose()
            await self._waiters.disconnect(inuse_connections=True)
