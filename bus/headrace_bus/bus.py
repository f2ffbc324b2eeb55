"""The bus's door: one method per transition, `reader`'s questions and `gate`'s besides; the transitions are Lua.

It must not know objects, engines or HTTP: what an envelope's payload means, whether an attempt may
follow and who is told is decided by its callers.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Final

from headrace_bus import replies, tokens, users
from headrace_bus.arguments import failure_json, lease_parts, positive, request_id
from headrace_bus.budget import BudgetLedger
from headrace_bus.cached import CacheBus
from headrace_bus.envelope import ENVELOPE_VERSION, Envelope, bounded_json, encode
from headrace_bus.errors import (
    BusError,
    BusMisconfigured,
    BusUnavailable,
    EnvelopeInvalid,
    EnvelopeTooNew,
    TooManyParked,
)
from headrace_bus.gate import GateBus
from headrace_bus.keys import REGISTRY_KEY, ModelKey, key_part, key_prefix
from headrace_bus.order import CALLS_PER_TASK, WEIGHT_MAX, WEIGHT_MIN, score
from headrace_bus.reader import PARKED_MAX_BYTES, REPORT_MAX_BYTES, RESULT_MAX_BYTES
from headrace_bus.records import (
    Delivery,
    EnqueueOutcome,
    EntryState,
    Failure,
    Interrupt,
    Interruption,
    LeaseToken,
    ServerState,
)
from headrace_bus.scripts import ScriptName
from headrace_bus.settings import BusSettings
from headrace_bus.tokens import StreamEvent
from headrace_bus.wakeups import wakeups
from headrace_crds.cost import Spend

RESULTS_KEPT: Final = 256
"""Per model: at most 8 MiB."""
PARKED_KEPT: Final = 64
"""Per model: at most 64 MiB."""
INBOX_WORDS: Final = 256
"""Per worker; the oldest go first."""
CLAIM_LIMIT: Final = 64
_SWEEP_LIMIT: Final = 100
_REPLAY_S: Final = 25.0
"""Below the time for which Redis keeps a reply (`lua/shared/requests.lua`)."""
_PURGE_CHUNK: Final = 200
_ERASE_CHUNK: Final = 1_000
_ERASE_STEPS: Final = 100_000
"""As many chunks of the whole server's keys are looked through, so that a purge ends."""
_WAIT_LIMIT_S: Final = 60.0


class Bus(CacheBus, GateBus):
    """Everything Headrace's processes share through Redis.

    Every method raises `BusError` or one of its kinds, and ValueError on names and numbers that cannot be. A mutation
    carries a request id: when its reply is lost it is sent once more and has one effect.
    """

    def __init__(self, settings: BusSettings) -> None:
        super().__init__(settings)
        self.budgets = BudgetLedger(self._connection)
        self._unanswered: dict[ModelKey, tuple[str, float]] = {}

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
            INBOX_WORDS,
        )
        return EnqueueOutcome(reply.decode())

    async def move(self, model: ModelKey, envelope: Envelope) -> bool:
        """Gives the waiting copy of this attempt the place of the envelope's age and priority; what is handed out is
        still the copy's own envelope. False: no such copy waits.
        """
        reply = await self._connection.run(
            "move",
            key_prefix(model),
            key_part(envelope.uid),
            envelope.attempt,
            envelope.kind.value,
            envelope.namespace,
            score(envelope.created_ms, envelope.priority),
        )
        return bool(reply == 1)

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
            nonce, begun = request_id(), time.monotonic()
        try:
            too_new, rows = await self._connection.run(
                "claim",
                key_prefix(model),
                nonce,
                worker,
                limit,
                positive(lease_ms),
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
        kept = await self._connection.run("renew", key_prefix(model), positive(lease_ms), *flat)
        return [bool(each) for each in kept]

    async def complete(
        self, model: ModelKey, token: LeaseToken, *, result: dict[str, Any] | None = None, result_ttl_ms: int = 60_000
    ) -> bool:
        """Ends the entry; its attempt is remembered for 10 minutes. False: the lease was lost, nothing was done.

        A result is kept for `result_ttl_ms` where that does no harm: not above 32 KiB, not beyond 256 of the model, not
        when Redis is at `maxmemory`. Who needs it for certain reads the object.
        """
        ttl_ms = positive(result_ttl_ms)
        if await self._request("complete", model, *lease_parts(token)) != b"1":
            return False
        if result is not None:
            with contextlib.suppress(BusError):
                data = bounded_json("result", result, RESULT_MAX_BYTES)
                await self._connection.run("keep", key_prefix(model), token.uid, data, ttl_ms, RESULTS_KEPT)
        return True

    async def fail(self, model: ModelKey, token: LeaseToken, failure: Failure) -> bool:
        """Hands the attempt back as failed; the operator decides what follows. False: lost."""
        return bool(await self._request("fail", model, *lease_parts(token), failure_json(failure)) == b"1")

    async def release(self, model: ModelKey, token: LeaseToken, reason: str, *, spent: Spend | None = None) -> bool:
        """Hands the attempt back unfinished, charging nobody; `reason` is a PascalCase word. False: lost."""
        word = failure_json(Failure(reason, "", spent=spent))
        return bool(await self._request("release", model, *lease_parts(token), word) == b"1")

    async def park(self, model: ModelKey, token: LeaseToken, payload: dict[str, Any]) -> bool:
        """Ends the attempt with a result that the operator commits: it comes back as PARKED and is read by `parked`.

        It lasts as long as the entry. False: the lease was lost. Raises PayloadTooLarge, and without having done
        anything TooManyParked and BusOutOfMemory, both retryable: the lease goes on.
        """
        data = bounded_json("parked payload", payload, PARKED_MAX_BYTES)
        reply = await self._request("park", model, *lease_parts(token), data, PARKED_KEPT)
        if reply == b"full":
            raise TooManyParked(f"{model} has {PARKED_KEPT} results that the operator has not committed yet")
        return bool(reply == b"1")

    async def stream(self, model: ModelKey, events: Sequence[StreamEvent]) -> list[bool]:
        """Appends a step's events to their readers' inboxes and their calls' replays, in one go; at most 256.

        False: that event's lease was lost, and nothing of it was appended. Raises PayloadTooLarge above 64 KiB, and
        without having done anything BusOutOfMemory.
        """
        return await tokens.append(self._connection, model, events)

    async def end_call(self, model: ModelKey, token: LeaseToken, events: Sequence[dict[str, Any]]) -> bool:
        """Tells the call's reader these events, at most 256 of 64 KiB and 1 MiB together, and completes the call with
        them; False: the lease was lost. Raises PayloadTooLarge, and BusOutOfMemory without having done anything.
        """
        data = [bounded_json("event", event, tokens.EVENT_MAX_BYTES) for event in events]
        reply = await self._connection.run(
            "call/end", key_prefix(model), *lease_parts(token), tokens.REPLAY_BYTES, *data
        )
        return bool(reply == 1)

    async def reap(self, model: ModelKey, *, limit: int = 100) -> int:
        """Returns expired leases and queues what was delayed until now; how many entries moved, at most `limit`."""
        return int(await self._request("reap", model, positive(limit)))

    async def remove(self, model: ModelKey, uid: str) -> bool:
        """Forgets the entry in whatever state, its lease and its result; False: there was nothing. A holder is told to
        drop it.
        """
        return bool(await self._request("remove", model, key_part(uid), INBOX_WORDS) == b"1")

    async def withdraw(self, model: ModelKey, uid: str, attempt: int, *, seen: EntryState | None = None) -> bool:
        """Forgets the entry unless somebody works on it or has left a result: False when this attempt or a later one is
        LEASED or came back as PARKED, and nothing was done. True: no entry is left, or there was none.

        `seen` LEASED takes this attempt from its holder, who is told to drop it, and nothing but that: False for what
        became of it meanwhile, and for a later attempt. `seen` RETURNED takes this attempt also when it is PARKED.

        An earlier attempt goes in every state, its holder is told to drop it: its commit would be refused anyway. A
        later one goes while nobody holds it: whoever withdraws has seen less than the object says, and the object is
        what a queue is rebuilt from. A kept result and the memory of a completed attempt stay.
        """
        reply = await self._connection.run(
            "withdraw", key_prefix(model), key_part(uid), positive(attempt), INBOX_WORDS, seen.value if seen else ""
        )
        return bool(reply == 1)

    # Interruptions

    async def interrupt(self, model: ModelKey, uid: str, word: Interruption) -> str | None:
        """Tells the worker that holds the entry, and says who that is; None when nobody does.

        A word may get lost with its worker, so tell it again as long as it matters: in the inbox it stands once.
        """
        reply = await self._connection.run("interrupt", key_prefix(model), key_part(uid), word.value, INBOX_WORDS)
        return None if reply is None else replies.worker(reply)

    async def interruptions(self, model: ModelKey, worker: str, *, timeout_s: float) -> list[Interrupt]:
        """Waits for words to this worker, at most `timeout_s` (60 s are the most), and takes all that are there. May
        return none before its time. One reader per worker: a word goes to one.
        """
        key = f"{key_prefix(model)}inbox:{key_part(worker)}"
        words: list[bytes] = []
        wait_s = min(timeout_s, _WAIT_LIMIT_S)
        # BLPOP takes 0 for ever.
        if wait_s >= 0.001:
            first = await self._connection.pop(key, wait_s)
            if first is None:
                return []
            words.append(first)
        try:
            words += await self._connection.command("LPOP", key, INBOX_WORDS) or []
        except BusError:
            # The one that was taken must not be lost for the others.
            if not words:
                raise
        return replies.interrupts(words)

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

    async def set_weights(self, model: ModelKey, weights: Mapping[str, float]) -> None:
        """Replaces the namespaces' shares in the model's queue: 0.001 to 1000, 1 where none is given. They count from
        the next delivery on. Raises ValueError.
        """
        flat: list[str] = []
        for namespace, weight in weights.items():
            if not WEIGHT_MIN <= weight <= WEIGHT_MAX:
                raise ValueError(f"weight lies in {WEIGHT_MIN}…{WEIGHT_MAX}")
            flat += [key_part(namespace), repr(weight)]
        await self._connection.run("weigh", key_prefix(model), *flat)

    async def purge(self, model: ModelKey) -> None:
        """Deletes every key of a deleted model in chunks, then its registration; its leases are lost at once.

        Revoke its users first: what they write meanwhile would stay.
        """
        left = await self._connection.run("purge", key_prefix(model), _PURGE_CHUNK)
        for _ in range(left // _PURGE_CHUNK + 1):
            if left:
                left = await self._connection.run("purge", key_prefix(model), _PURGE_CHUNK)
        if left:
            await self._connection.run("purge", key_prefix(model), 0)
        cursor = b"0"
        for _ in range(_ERASE_STEPS):
            cursor = await self._connection.run("erase", key_prefix(model), cursor, _ERASE_CHUNK)
            if cursor == b"0":
                break
        await self._connection.command("SREM", REGISTRY_KEY, str(model))

    async def report(self, model: ModelKey, worker: str, report: dict[str, Any], *, ttl_ms: int) -> None:
        """A runner's state, at most 64 KiB of JSON, gone after `ttl_ms`; a different one wakes the operator."""
        data = bounded_json("report", report, REPORT_MAX_BYTES)
        await self._connection.run("report", key_prefix(model), key_part(worker), data, positive(ttl_ms))

    async def telemetry(self, model: ModelKey, worker: str, gpus: list[dict[str, Any]], *, ttl_ms: int) -> None:
        """A runner's GPUs, at most 64 KiB of JSON, gone after `ttl_ms` (a minute at most)."""
        data = bounded_json("telemetry", {"gpus": gpus}, REPORT_MAX_BYTES)
        await self._connection.run("telemetry", key_prefix(model), key_part(worker), data, positive(ttl_ms))

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

    async def check(self) -> ServerState:
        """The server's identity and memory policy. Raises BusMisconfigured if it evicts."""
        await self._connection.command("PING")
        state = replies.server_state(await self._connection.info("server"), await self._connection.info("memory"))
        if state.maxmemory_policy != "noeviction":
            raise BusMisconfigured(f"maxmemory-policy is {state.maxmemory_policy!r}; queued work needs 'noeviction'")
        return state

    async def grant(self, model: ModelKey, user: str, password: str, *, reports_alone: bool = False) -> None:
        """Makes or resets the Redis user of a model's runners, or of what only reports for it; another password ends
        the connections made with the old.

        A restart of Redis forgets the user (`ServerState.run_id`), and the scripts that runners may call but not load.
        """
        await users.grant(self._connection, model, user, password, reports_alone=reports_alone)

    async def revoke(self, user: str) -> None:
        """Deletes a runners' user, which ends its connections, blocked ones included."""
        await users.revoke(self._connection, user)

    async def _request(self, name: ScriptName, model: ModelKey, *args: bytes | str | int) -> Any:
        return await self._connection.run(name, key_prefix(model), request_id(), *args)
