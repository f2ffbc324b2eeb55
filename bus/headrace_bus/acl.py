"""Redis ACL rules per component: what each may touch, and nothing else.

Rules are meant for `ACL SETUSER name reset on >… <rules>`. Redis checks keys and channels inside
scripts too. A runner brings no script of its own: it calls by digest what the operator has loaded, because
a script that does not end stops the server for everybody. What ACLs do not prevent: a hostile
runner can fill memory through its own keys.
"""

import re
from typing import Final

from headrace_bus.keys import CHANNEL_PREFIX, REGISTRY_KEY, ModelKey, key_prefix, wake_channel

# AUTH and HELLO need no rule. SELECT is for URLs that name a database; key patterns hold in each.
_CONNECT: Final = ("+ping", "+select")
_CALLS: Final = "+evalsha"
_LOADS: Final = "+eval +script|load +script|exists"

# What the transitions call, by data type; `tests/unit/bus/test_bus_scripts.py` compares this with the Lua files.
_TRANSITIONS: Final = (
    "+time +publish +exists +del +unlink +pexpire +pttl",
    "+get +set +incr",
    "+hget +hset +hmget +hdel +hlen",
    "+zadd +zrem +zcard +zscore +zrank +zrange +zrangebyscore +zremrangebyscore",
    "+rpush",
    "+xadd +xlen +xrange +xtrim",
)
_OPERATOR_ONLY: Final = (
    "+lrem +ltrim +hrandfield +hscan +scan +zpopmin +sadd +srem +sscan +psubscribe +punsubscribe +info"
)
_OPERATOR_GRANTS: Final = "+acl|setuser +acl|getuser +acl|deluser"

_USER: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._:/-]{0,252})", re.ASCII)


def _commands(*groups: str) -> list[str]:
    return ["-@all", *(rule for group in groups for rule in group.split())]


def acl_rules(model: ModelKey) -> list[str]:
    """A runner of this model: its keys, its channel, its transitions' commands. Raises ValueError."""
    return [
        "resetkeys",
        f"~{key_prefix(model)}*",
        "resetchannels",
        f"&{wake_channel(model)}",
        *_commands(*_CONNECT, _CALLS, *_TRANSITIONS, "+blpop +lpop"),
    ]


def report_rules(model: ModelKey) -> list[str]:
    """A downloader of this model's weights: it says how far it is by `report`, and sees no queue. Raises ValueError."""
    prefix = key_prefix(model)
    return [
        "resetkeys",
        *(f"~{prefix}{key}" for key in ("", "report:*", "workers")),
        "resetchannels",
        f"&{wake_channel(model)}",
        *_commands(*_CONNECT, _CALLS, "+time +get +set +zadd +zremrangebyscore +pttl +pexpire +publish"),
    ]


OPERATOR_ACL: Final[tuple[str, ...]] = (
    "resetkeys",
    # Neither sessions nor tickets nor rates: those are the facades' alone.
    "~headrace:{*",
    "~headrace:budget:*",
    f"~{REGISTRY_KEY}",
    "resetchannels",
    f"&{CHANNEL_PREFIX}*",
    *_commands(*_CONNECT, _CALLS, _LOADS, *_TRANSITIONS, _OPERATOR_ONLY, _OPERATOR_GRANTS, "+blpop"),
)
"""Everything of models and budgets, and the runners' users."""

# What its questions read, and so no envelope and no parked payload: no prompt, no result but a kept one, and no text on
# its way but what somebody asked to be shown.
_FACADE_READS: Final = "report:* gpus:* result:* weights delayed returned workers service tokens:* replay:*"
# What its calls move beside. Of a task it could so spoil what the operator makes anew from the object, and no outcome.
_FACADE_MOVES: Final = "entry:* queue:* ring:* finish:* clock queued leases waiter:* seq index pulse wake"
# Told and never read.
_FACADE_TELLS: Final = "envelope:* inbox:*"

FACADE_ACL: Final[tuple[str, ...]] = (
    "resetkeys",
    # A model's prefix is what a script is called with.
    *(f"~headrace:{{*}}:{key}" for key in ("", *_FACADE_MOVES.split())),
    *(f"%R~headrace:{{*}}:{key}" for key in _FACADE_READS.split()),
    *(f"%W~headrace:{{*}}:{key}" for key in _FACADE_TELLS.split()),
    "resetchannels",
    *_commands(
        *_CONNECT,
        _CALLS,
        "+time +get +hget +hmget +zcard +zscore +zrank +zrange +zrangebyscore +xread +xrange",
        "+set +incr +exists +del +unlink +pexpire +hset +hdel +zadd +zrem +rpush +lrem +ltrim",
    ),
    # Redis' selector: these commands on these keys, and on no others.
    "(~headrace:rate:* +evalsha +time +hmget +hset +pexpire)",
    "(~headrace:session:* +evalsha +time +hget +hmget +hset +hdel +hstrlen +zadd +zrem +zscore +zrangebyscore +pexpire "
    "+pttl +unlink)",
    "(~headrace:ticket:* +set +getdel)",
)
"""Asks about every model by `stats`, `position`, `inspect`, `reports`, `gpus`, `result` and `replay`, reads what
runners stream, moves its own calls by `call/enqueue`, `call/waiting` and `call/hang_up`, counts the rates of
identities, and keeps their sessions and tickets."""


def user_name(name: str) -> str:
    """`name` when it may name a runner's user; never Redis' own `default`. Raises ValueError."""
    if name == "default" or not _USER.fullmatch(name):
        raise ValueError(f"{name!r} cannot name a runner's user")
    return name
