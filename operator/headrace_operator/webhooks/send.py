"""One POST to a target: one resolution, a checked address, no redirects, no proxy, bounded in time and bytes.

It knows neither tasks nor secrets. TLS is for the name in the URL, whatever the address.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from socket import AF_INET, AF_INET6, AddressFamily
from typing import Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from headrace_crds.hosts import Target
from headrace_crds.resolve import Resolve, resolve

TOTAL_SECONDS: Final = 10.0
ANSWER_LIMIT_BYTES: Final = 64 * 1024
_CHUNK_BYTES: Final = 8 * 1024
_DRAIN_SECONDS: Final = 0.5
_NO_TIMER: Final = aiohttp.ClientTimeout(total=None)
"""aiohttp's own timer takes back two cancellations where it made one: a cancelled request becomes a late one."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the receiver said; `status` 0 when it said nothing, and `problem` then tells why."""

    status: int = 0
    retry_after: str = ""
    date: str = ""
    problem: str = ""


class _Pinned(AbstractResolver):
    """Answers with what was checked, and only for the host that was."""

    def __init__(self, host: str, addresses: Sequence[str]) -> None:
        self._host, self._addresses = host, addresses

    async def resolve(self, host: str, port: int = 0, family: AddressFamily = AF_INET) -> list[ResolveResult]:
        if host != self._host:
            raise OSError(f"not the host that was checked: {host}")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=AF_INET6 if ip_address(address).version == 6 else AF_INET,
                proto=0,
                flags=0,
            )
            for address in self._addresses
        ]

    async def close(self) -> None:
        """Holds nothing."""


@dataclass(frozen=True, slots=True)
class Sender:
    """`resolver` and `tls` are replaced in tests and by private authorities."""

    resolver: Resolve = resolve
    tls: ssl.SSLContext | None = None
    total_seconds: float = TOTAL_SECONDS

    async def post(self, target: Target, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Raises Refused when the name leads into a network. Returns later than `total_seconds` only while the system's
        resolver, which cannot be interrupted, still works: who gives it names to chew on keeps its own slot busy.
        """
        until = asyncio.get_running_loop().time() + self.total_seconds
        lookup = asyncio.ensure_future(self.resolver(target))
        try:
            async with asyncio.timeout_at(until):
                addresses = target.judged(await asyncio.shield(lookup))
                return await self._post(target, addresses, body, headers, until)
        except TimeoutError:
            await asyncio.wait({lookup})
            return Answer(problem=f"no answer within {self.total_seconds:g} s")
        except (aiohttp.ClientError, OSError) as error:
            return Answer(problem=_words(error))
        finally:
            if not lookup.cancel() and not lookup.cancelled():
                lookup.exception()  # looked at: it came too late to be told

    async def _post(
        self, target: Target, addresses: Sequence[str], body: bytes, headers: Mapping[str, str], until: float
    ) -> Answer:
        url = URL.build(
            scheme=target.scheme,
            host=target.host.name,
            port=target.port,
            path=target.path,
            query_string=target.query,
            encoded=True,
        )
        connector = aiohttp.TCPConnector(
            resolver=_Pinned(target.host.name, addresses),
            use_dns_cache=False,
            force_close=True,
            ssl=self.tls if self.tls is not None else True,
        )
        session = aiohttp.ClientSession(
            connector=connector,
            trust_env=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=_NO_TIMER,
            headers={"User-Agent": "headrace", "Content-Type": "application/json", "Accept-Encoding": "identity"},
        )
        async with (
            session,
            session.post(url, data=body, headers=headers, allow_redirects=False) as response,
        ):
            answer = Answer(
                status=response.status,
                retry_after=response.headers.get("Retry-After", "")[:64],
                date=response.headers.get("Date", "")[:64],
            )
            # The status is the answer. The body is read so that the receiver can end well, and told to nobody.
            with contextlib.suppress(aiohttp.ClientError, OSError):
                await _drain(response, until - _DRAIN_SECONDS)
            response.close()
            return answer


async def _drain(response: aiohttp.ClientResponse, until: float) -> None:
    """Raises TimeoutError."""
    left = ANSWER_LIMIT_BYTES
    async with asyncio.timeout_at(min(until, asyncio.get_running_loop().time() + _DRAIN_SECONDS)):
        while left > 0 and (chunk := await response.content.read(min(left, _CHUNK_BYTES))):
            left -= len(chunk)


def _words(error: Exception) -> str:
    """Nothing that the receiver sent, and no address: what a name leads to inside is not for the task's author."""
    match error:
        case aiohttp.ClientConnectorCertificateError() | ssl.SSLCertVerificationError():
            return "the receiver's certificate is not trusted"
        case aiohttp.ClientSSLError() | ssl.SSLError():
            return "no TLS with the receiver"
        case aiohttp.ClientConnectorError():
            return "no connection to the receiver"
        case aiohttp.ServerDisconnectedError():
            return "the receiver hung up"
        case aiohttp.ClientError():
            return "the receiver's answer is not HTTP"
        case _:
            return "the name is not resolved, or the connection broke"
