"""The mutants: each takes one thing away that the promise rests on."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Edit:
    """`old` stands exactly once in the file."""

    path: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutant:
    """`expected`: kinds of violations of which one has to be found. `generates`: the CRDs are made anew."""

    name: str
    what: str
    edits: tuple[Edit, ...]
    faults: str
    expected: frozenset[str]
    generates: bool = False


_LUA: Final = "bus/headrace_bus/lua"
_POLICY: Final = "charts/headrace/templates/admission/task-status.yaml"
_CONNECTION: Final = "bus/headrace_bus/connection.py"
_CALL: Final = "1, prefix, *args)"
_CLIENT_CALL: Final = '2, prefix, f"{prefix}clock:{int(time.time() * 1000)}", *args)'

_LOOK_AND_TAKE: Final = """
if ARGV[8] == 'look' then
  local turn, seen = turn_of('Task', tonumber(ARGV[3])), {}
  for i = 1, tonumber(ARGV[3]) do
    if turn and turn.members[i] then table.insert(seen, string.sub(turn.members[i], 18)) end
  end
  return {0, seen}
end
if ARGV[8] == 'take' then
  local uids = {}
  for i = 9, #ARGV do
    local uid = ARGV[i]
    local entry = fields(uid, 'attempt', 'since', 'class', 'namespace', 'member')
    if entry[1] then
      unqueue(uid, entry[3], entry[4], entry[5])
      redis.call('HSET', entry_key(uid), 'state', 'Leased', 'since', now, 'claimed', now, 'enqueued', entry[2] or now,
        'worker', worker, 'nonce', request)
      redis.call('ZADD', P .. 'leases', until_ms, uid)
      table.insert(uids, uid)
      table.insert(deliveries, delivery(uid, entry[1], now, entry[2] or now))
    end
  end
  if not pulsed then pulse(now, lease_ms) end
  if #uids > 0 then remember(request, now, table.concat(uids, ' ')) end
  wake_workers()
  return {0, deliveries}
end
"""

_NO_TEST_OF_ATTEMPT: Final = Edit(
    "runner/headrace_runner/patches.py",
    'return [*read(attempt.uid), {"op": "test", "path": "/status/attempt", "value": attempt.number}]',
    "return read(attempt.uid)",
)

MUTANTS: Final = (
    Mutant(
        "nonce-not-checked",
        "a lease is whose attempt it is, whoever claimed it (leases.lua)",
        (Edit(f"{_LUA}/shared/leases.lua", " == attempt and entry[3] == nonce, entry[4]", " == attempt, entry[4]"),),
        "redis-rollback",
        frozenset({"overlap", "double"}),
    ),
    Mutant(
        "clients-clock",
        "the clock of whoever calls decides when a lease ends",
        (
            Edit(
                f"{_LUA}/shared/keys.lua",
                "  local time = redis.call('TIME')\n  return time[1] * 1000 + math.floor(time[2] / 1000)\n",
                "  return tonumber(string.match(KEYS[2], '(%d+)$'))\n",
            ),
            Edit(_CONNECTION, f'"EVALSHA", wanted.sha, {_CALL}', f'"EVALSHA", wanted.sha, {_CLIENT_CALL}'),
            Edit(_CONNECTION, f'"EVAL", wanted.source, {_CALL}', f'"EVAL", wanted.source, {_CLIENT_CALL}'),
            Edit(_CONNECTION, "import contextlib\n", "import contextlib\nimport time\n"),
        ),
        "clock-ahead",
        frozenset({"lost", "unjust"}),
    ),
    Mutant(
        "claim-in-two-calls",
        "a runner looks at the queue in one call and takes in another",
        (
            Edit(f"{_LUA}/claim.lua", "local too_new, uids, leases", _LOOK_AND_TAKE + "local too_new, uids, leases"),
            Edit(
                "bus/headrace_bus/bus.py",
                """            too_new, rows = await self._connection.run(
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
""",
                """            known = (nonce, worker, limit, lease_ms, ENVELOPE_VERSION, CALLS_PER_TASK, _SWEEP_LIMIT)
            _, seen = await self._connection.run("claim", key_prefix(model), *known, "look")
            if not seen:
                return []
            too_new, rows = await self._connection.run("claim", key_prefix(model), *known, "take", *seen)
""",
            ),
        ),
        "contention",
        frozenset({"twice"}),
    ),
    Mutant(
        "attempt-not-tested",
        "a runner commits without testing status.attempt",
        (_NO_TEST_OF_ATTEMPT,),
        "zombie,partition",
        frozenset({"stale"}),
    ),
    Mutant(
        "no-finality-rule",
        "neither the schema nor the admission policy keeps an outcome from being written over",
        (
            Edit("crds/headrace_crds/task.py", "        _finality(),\n", ""),
            Edit(_POLICY, "variables.reads || !oldObject.?status.?outcome.hasValue()", "true"),
        ),
        "redis-rollback",
        frozenset({"double"}),
        generates=True,
    ),
    Mutant(
        "retries-in-redis",
        "how often a task failed is counted in Redis alone",
        (
            Edit(
                f"{_LUA}/shared/leases.lua",
                "  redis.call('UNLINK', envelope_key(uid))\n  redis.call('HDEL', entry_key(uid), 'nonce')\n",
                "  redis.call('UNLINK', envelope_key(uid))\n  redis.call('HDEL', entry_key(uid), 'nonce')\n"
                "  if failure ~= '' then\n"
                "    local told = cjson.decode(failure)\n"
                "    local tries = number(redis.call('HGET', P .. 'retries', uid), 0) + 1\n"
                "    redis.call('HSET', P .. 'retries', uid, tries)\n"
                "    told.message = string.format('%d#', tries) .. told.message\n"
                "    failure = cjson.encode(told)\n"
                "  end\n",
            ),
            Edit(
                "operator/headrace_operator/decide/delivery.py",
                "    retries, losses = task_status.counters_of(task)\n",
                '    retries, losses = int(s.held.returned.message.partition("#")[0] or 1) - 1, 0\n',
            ),
        ),
        "redis-flush-retries",
        frozenset({"overcharged"}),
    ),
    Mutant(
        "cancel-not-told",
        "a runner is not told that its task is cancelled",
        (Edit("operator/headrace_operator/decide/cancel.py", 'interrupt="Cancel", ', ""),),
        "cancel-storm",
        frozenset({"uncancelled"}),
    ),
    Mutant(
        "suspension-charged",
        "a task that is suspended while it runs is charged a retry",
        (
            Edit(
                "operator/headrace_operator/decide/retry.py",
                "charged=False, delay_ms=backoff_ms(in_a_row, jitter)",
                "charged=True, delay_ms=backoff_ms(in_a_row, jitter)",
            ),
        ),
        "suspend-storm",
        frozenset({"overcharged"}),
    ),
    Mutant(
        "move-keeps-attempt",
        "a task that goes to another model keeps the attempt that the first one may have",
        (
            Edit(
                "operator/headrace_operator/decide/fallback.py",
                "s.held.attempt if s.held is not None else 0) + 1",
                "s.held.attempt if s.held is not None else 0)",
            ),
        ),
        "fallback",
        frozenset({"astray"}),
    ),
    Mutant(
        "left-model-commits",
        "neither the runner's test of status.attempt nor the admission policy keeps the model that a task left from "
        "committing",
        (
            _NO_TEST_OF_ATTEMPT,
            Edit(
                _POLICY,
                """variables.assigned != '' &&
        request.userInfo.username == 'system:serviceaccount:' + variables.assigned.replace('/', ':')
""",
                "request.userInfo.username.startsWith('system:serviceaccount:')\n",
            ),
        ),
        "fallback",
        frozenset({"stale", "astray"}),
    ),
)
