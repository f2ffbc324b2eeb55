"""The bus's door: one method per transition or question; the transitions themselves are Lua.

It must not know objects, engines or HTTP: what an envelope's payload means, whether an attempt may
follow and who is told is decided by its callers.
"""

import asyncio
import contextlib
import hashlib
import json
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from types import TracebackType
from typing import Any, Final, Self

from headrace_bus import replies
from headrace_bus.acl import acl_rules, user_name
from headrace_bus.connection import Connection
from headrace_bus.envelope import ENVELOPE_VERSION, Envelope, bounded_json, encode
from headrace_bus.errors import BusError, BusMisconfigured, BusUnavailable, EnvelopeInvalid, EnvelopeTooNew
from headrace_bus.keys import REGISTRY_KEY, ModelKey, key_part, key_prefix
from headrace_bus.order import CALLS_PER_TASK, score
from headrace_bus.records import (
    Delivery,
    EnqueueOutcome,
    Entry,
    Failure,
    LeaseToken,
    Returned,
    ServerState,
    Stats,
    UidPage,
)
from headrace_bus.scripts import ScriptName
from headrace_bus.settings import BusSettings
from headrace_bus.wakeups import wakeups

RESULT_MAX_BYTES: Final = 32 * 1024
RESULTS_KEPT: Final = 256
"""Per model: at most 8 MiB."""
REPORT_MAX_BYTES: Final = 64 * 1024
CLAIM_LIMIT: Final = 64
_MESSAGE_MAX_CHARS: Final = 2_000
_REASON_MAX_CHARS: Final = 128
_SWEEP_LIMIT: Final = 100
_RETURNED_PAGES: Final = 20
_ENDED_MS: Final = 600_000
_REPLAY_S: Final = 25.0
"""Below the time for which Redis keeps a reply (`lua/shared/requests.lua`)."""
_PURGE_CHUNK: Final = 200
_NAMESPACE_LIMIT: Final = 1_000
_REPORT_LIMIT: Final = 1_000
_WAIT_LIMIT_S: Final = 60.0


class Bus:
    """Everything Headrace's processes share through Redis.

    Every method raises `BusError` or one of its kinds, and ValueError on names and numbers that cannot be. A mutation
    carries a request id: when its reply is lost it is sent once more and has one effect.
    """

    def __init__(self, settings: BusSettings) -> None:
        self._connection = Connection(settings)
        self._unanswered: dict[ModelKey, tuple[str, float]] = {}

    @classmethod
    def connect(
        cls,
        url: str,
        *,
        username: str | None = None,
        password: str | None = None,
        connect_timeout_s: float = 3.0,
        socket_timeout_s: float = 5.0,
        call_timeout_s: float | None = None,
        max_connections: int = 16,
    ) -> Self:
        """A bus on this URL; connections are made when they are needed. Use as `async with Bus.connect(url) as bus`."""
        settings = BusSettings(
            url=url,
            username=username,
            password=password,
            connect_timeout_s=connect_timeout_s,
            socket_timeout_s=socket_timeout_s,
            call_timeout_s=call_timeout_s,
            max_connections=max_connections,
        )
        return cls(settings)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes every connection."""
        await self._connection.aclose()

    # Work

    async def enqueue(self, model: ModelKey, envelope: Envelope, *, not_before_ms: int | None = None) -> EnqueueOutcome:
        """Queues the envelope, or sets it aside until `not_before_ms` (server time). Idempotent by uid and attempt.

        Raises PayloadTooLarge, and BusOutOfMemory without having done anything.
        """
        reply = await self._request(
            "enqueue",
            model,
            envelope.uid,
            envelope.attempt,
            envelope.kind.value,
            envelope.namespace,
            envelope.name,
            score(envelope.created_ms, envelope.priority),
            envelope.cost_tokens,
            not_before_ms or 0,
            ENVELOPE_VERSION,
            encode(envelope),
        )
        return EnqueueOutcome(reply.decode())

    async def claim(self, model: ModelKey, *, worker: str, count: int, lease_ms: int) -> list[Delivery]:
        """Takes up to `count` envelopes in the queue's order, each with a lease and a token of its own.

        Raises EnvelopeTooNew when the next envelope is of a later version: it stays queued, for a later runner. What a
        claim took whose reply was lost, or that was cancelled, comes back with the next one on this bus, within 25 s.
        """
        if count < 1:
            return []
        key_part(worker)
        limit = min(count, CLAIM_LIMIT)
        nonce, begun = self._unanswered.pop(model, ("", 0.0))
        if not nonce or time.monotonic() - begun > _REPLAY_S:
            nonce, begun = _request_id(), time.monotonic()
        try:
            too_new, rows = await self._connection.run(
                "claim",
                key_prefix(model),
                nonce,
                worker,
                limit,
                _positive(lease_ms),
                ENVELOPE_VERSION,
                CALLS_PER_TASK,
                _SWEEP_LIMIT,
            )
        except (BusUnavailable, asyncio.CancelledError):
            self._unanswered[model] = nonce, begun
            raise
        if too_new:
            raise EnvelopeTooNew(int(too_new), ENVELOPE_VERSION)
        return await self._delivered(model, rows, nonce, limit)

    async def _delivered(self, model: ModelKey, rows: Sequence[Any], nonce: str, limit: int) -> list[Delivery]:
        deliveries: list[Delivery] = []
        for row in rows:
            try:
                deliveries.append(replies.delivery(row, nonce))
            except EnvelopeInvalid as error:
                token = replies.token(row, nonce)
                if token is not None:
                    # Without it the lease runs out; the others must not be lost for that.
                    with contextlib.suppress(BusError):
                        await self.fail(model, token, Failure(error.reason, str(error), retryable=False))
        # An earlier claim may have asked for more than the caller has room for.
        for surplus in deliveries[limit:]:
            with contextlib.suppress(BusError):
                await self.release(model, surplus.token, "ClaimAnsweredLate")
        return deliveries[:limit]

    async def renew(self, model: ModelKey, tokens: Sequence[LeaseToken], *, lease_ms: int) -> list[bool]:
        """Extends leases to now + `lease_ms`; False says the lease is lost and the generation is to be aborted."""
        if not tokens:
            return []
        flat = [part for token in tokens for part in (token.uid, token.attempt, token.nonce)]
        kept = await self._connection.run("renew", key_prefix(model), _positive(lease_ms), *flat)
        return [bool(each) for each in kept]

    async def complete(
        self, model: ModelKey, token: LeaseToken, *, result: dict[str, Any] | None = None, result_ttl_ms: int = 60_000
    ) -> bool:
        """Ends the entry; its attempt is remembered for 10 minutes. False: the lease was lost, nothing was done.

        A result is kept for `result_ttl_ms` where that does no harm: not above 32 KiB, not beyond 256 of the model, not
        when Redis is at `maxmemory`. Who needs it for certain reads the object.
        """
        ttl_ms = _positive(result_ttl_ms)
        if await self._request("complete", model, *_parts(token), _ENDED_MS) != b"1":
            return False
        if result is not None:
            with contextlib.suppress(BusError):
                data = bounded_json("result", result, RESULT_MAX_BYTES)
                await self._connection.run("keep", key_prefix(model), token.uid, data, ttl_ms, RESULTS_KEPT)
        return True

    async def fail(self, model: ModelKey, token: LeaseToken, failure: Failure) -> bool:
        """Hands the attempt back as failed; the operator decides what follows. False: lost."""
        return bool(await self._request("fail", model, *_parts(token), _failure_json(failure)) == b"1")

    async def release(self, model: ModelKey, token: LeaseToken, reason: str) -> bool:
        """Hands the attempt back unfinished, charging nobody; `reason` is a PascalCase word. False: lost."""
        return bool(await self._request("release", model, *_parts(token), _failure_json(Failure(reason, ""))) == b"1")

    async def reap(self, model: ModelKey, *, limit: int = 100) -> int:
        """Returns expired leases and queues what was delayed until now; how many entries moved, at most `limit`."""
        return int(await self._request("reap", model, _positive(limit)))

    async def remove(self, model: ModelKey, uid: str) -> bool:
        """Forgets the entry in whatever state, its lease and its result; False: there was nothing."""
        return bool(await self._request("remove", model, key_part(uid)) == b"1")

    # Questions

    async def returned(self, model: ModelKey, *, limit: int = 100, after: Returned | None = None) -> list[Returned]:
        """Deliveries that came back and wait for the operator, the longest waiting first; less than `limit` end it.

        `after` is the last one of the page before; if it is gone, some of that page may come again.
        """
        uid, at_ms = (key_part(after.uid), after.returned_ms) if after is not None else ("", 0)
        found: list[Returned] = []
        passed = 0
        # What cannot be read must not hide what can.
        for _ in range(_RETURNED_PAGES):
            seen, *rows = await self._connection.run(
                "returned", key_prefix(model), _positive(limit), uid, at_ms, passed
            )
            found += replies.returned(rows)
            passed += seen
            if len(found) >= limit or seen < limit:
                break
        return found[:limit]

    async def inspect(self, model: ModelKey, uid: str) -> Entry | None:
        """What is held under the uid; None also when that is no entry: the next enqueue replaces it.

        A lease that ran out is LEASED until `reap` or the next claim sees it.
        """
        row = await self._connection.run("inspect", key_prefix(model), key_part(uid))
        return None if row is None else replies.entry(row)

    async def result(self, model: ModelKey, uid: str) -> dict[str, Any] | None:
        """The result of a completed entry if it was kept, while its TTL lasts. Raises BusCorrupt."""
        data = await self._connection.command("GET", f"{key_prefix(model)}result:{key_part(uid)}")
        return None if data is None else replies.document(data)

    async def position(self, model: ModelKey, uid: str) -> int | None:
        """An estimate of how many deliveries come first; None when the entry is not queued."""
        reply = await self._connection.run(
            "position", key_prefix(model), key_part(uid), CALLS_PER_TASK, _NAMESPACE_LIMIT
        )
        return None if reply is None else int(reply)

    async def stats(self, model: ModelKey) -> Stats:
        """Counts of the model's entries."""
        return replies.stats(model, await self._connection.run("stats", key_prefix(model), _NAMESPACE_LIMIT))

    async def uids(self, model: ModelKey, cursor: int = 0, *, limit: int = 500) -> UidPage:
        """About `limit` of all entries, for a set difference; go on with the page's cursor until it is 0."""
        reply = await self._connection.run("uids", key_prefix(model), cursor, _positive(limit))
        return replies.uid_page(model, reply)

    # Models

    async def register(self, model: ModelKey) -> None:
        """Notes that the model owns keys; the operator's alone, before the first enqueue."""
        key_prefix(model)
        await self._connection.command("SADD", REGISTRY_KEY, str(model))

    async def models(self) -> set[ModelKey]:
        """The registered models."""
        found: set[ModelKey] = set()
        cursor = 0
        while True:
            reply = await self._connection.command("SSCAN", REGISTRY_KEY, cursor, "COUNT", 500)
            cursor = int(reply[0])
            for member in reply[1]:
                with contextlib.suppress(ValueError):
                    model = ModelKey.parse(member.decode())
                    key_prefix(model)
                    found.add(model)
            if cursor == 0:
                return found

    async def purge(self, model: ModelKey) -> None:
        """Deletes every key of a deleted model in chunks, then its registration; its leases are lost at once.

        Revoke its users first: what they write meanwhile, and keys that no transition made, would stay.
        """
        left = await self._connection.run("purge", key_prefix(model), _PURGE_CHUNK)
        for _ in range(left // _PURGE_CHUNK + 1):
            if left:
                left = await self._connection.run("purge", key_prefix(model), _PURGE_CHUNK)
        if left:
            await self._connection.run("purge", key_prefix(model), 0)
        await self._connection.command("SREM", REGISTRY_KEY, str(model))

    async def report(self, model: ModelKey, worker: str, report: dict[str, Any], *, ttl_ms: int) -> None:
        """A runner's state, at most 64 KiB of JSON, gone after `ttl_ms`; a different one wakes the operator."""
        data = bounded_json("report", report, REPORT_MAX_BYTES)
        await self._connection.run("report", key_prefix(model), key_part(worker), data, _positive(ttl_ms))

    async def reports(self, model: ModelKey) -> dict[str, dict[str, Any]]:
        """The living reports by worker."""
        return replies.reports(
            await self._connection.run("reports", key_prefix(model), _REPORT_LIMIT, REPORT_MAX_BYTES)
        )

    # Waiting

    async def wait_for_work(self, model: ModelKey, *, timeout_s: float) -> None:
        """Returns when a claim is worth a try: at once when work is queued, else when some arrives, when a delay or
        lease known at the start is due, or after `timeout_s` (60 s are the most). May return for nothing. Claim after
        it: the wake-up went to this caller alone, and its claim wakes the next.
        """
        prefix = key_prefix(model)
        queued, due_ms = await self._connection.run("peek", prefix)
        wait_s = min(timeout_s, _WAIT_LIMIT_S, due_ms / 1000 if due_ms >= 0 else _WAIT_LIMIT_S)
        # BLPOP takes 0 for ever.
        if not queued and wait_s >= 0.001:
            await self._connection.pop(f"{prefix}wake", wait_s)

    def operator_wakeups(self) -> AsyncGenerator[ModelKey, None]:
        """Models worth a look: those told of, and every registered one after each (re)connection. Ends with the bus."""
        return wakeups(self._connection, self.models)

    # Server

    async def server_time_ms(self) -> int:
        """The only clock leases and delays go by."""
        seconds, microseconds = await self._connection.command("TIME")
        return int(seconds) * 1000 + int(microseconds) // 1000

    async def check(self) -> ServerState:
        """The server's identity and memory policy. Raises BusMisconfigured if it evicts."""
        await self._connection.command("PING")
        state = replies.server_state(
            await self._connection.command("INFO", "server"), await self._connection.command("INFO", "memory")
        )
        if state.maxmemory_policy != "noeviction":
            raise BusMisconfigured(f"maxmemory-policy is {state.maxmemory_policy!r}; queued work needs 'noeviction'")
        return state

    async def grant(self, model: ModelKey, user: str, password: str) -> None:
        """Makes or resets the Redis user of a model's runners; another password ends the connections made with the old.

        A restart of Redis forgets the user (`ServerState.run_id`), and the scripts that runners may call but not load.
        """
        await self._connection.load_scripts()
        digest = hashlib.sha256(password.encode()).hexdigest()
        if await self._passwords(user_name(user)) not in ([], [digest.encode()]):
            # SETUSER alone leaves connections that have authenticated.
            await self.revoke(user)
        rules = ("reset", "on", f"#{digest}", *acl_rules(model))
        await self._connection.command("ACL", "SETUSER", user_name(user), *rules)

    async def revoke(self, user: str) -> None:
        """Deletes a runners' user, which ends its connections, blocked ones included."""
        await self._connection.command("ACL", "DELUSER", user_name(user))

    async def _passwords(self, user: str) -> list[bytes]:
        flat = await self._connection.command("ACL", "GETUSER", user)
        found: list[bytes] = dict(zip(flat[::2], flat[1::2], strict=True))[b"passwords"] if flat else []
        return found

    async def _request(self, name: ScriptName, model: ModelKey, *args: bytes | str | int) -> Any:
        return await self._connection.run(name, key_prefix(model), _request_id(), *args)


def _request_id() -> str:
    return secrets.token_hex(16)


def _positive(value: int) -> int:
    if value < 1:
        raise ValueError(f"{value} is not positive")
    return value


def _parts(token: LeaseToken) -> tuple[str, int, str]:
    return key_part(token.uid), token.attempt, token.nonce


def _failure_json(failure: Failure) -> bytes:
    document = {
        "reason": failure.reason[:_REASON_MAX_CHARS],
        "message": failure.message[:_MESSAGE_MAX_CHARS],
        "retryable": failure.retryable,
    }
    return json.dumps(document).encode()
