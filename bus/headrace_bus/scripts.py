"""Loads the Lua transitions: one file each under `lua/`, with what they share put in front.

A script's first line is its shebang with its flags, the second names the files of `lua/shared/`
it includes, in order. Flags decide what Redis does at `maxmemory`: a script without `allow-oom`
or `no-writes` is refused before its first command.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final, Literal

ScriptName = Literal[
    "budget/forget",
    "budget/held",
    "budget/reserve",
    "budget/settle",
    "budget/totals",
    "cache/get",
    "cache/put",
    "call/end",
    "call/enqueue",
    "call/hang_up",
    "call/waiting",
    "claim",
    "complete",
    "enqueue",
    "erase",
    "fail",
    "gpus",
    "inspect",
    "interrupt",
    "keep",
    "move",
    "park",
    "parked",
    "peek",
    "position",
    "purge",
    "rate/charge",
    "rate/take",
    "reap",
    "release",
    "remote/gate",
    "remote/renew",
    "remote/turn",
    "remove",
    "renew",
    "replay",
    "report",
    "reports",
    "result",
    "returned",
    "session/append",
    "session/create",
    "session/delete",
    "session/get",
    "session/list",
    "stats",
    "stream",
    "telemetry",
    "uids",
    "weigh",
    "withdraw",
]

_INCLUDE: Final = "-- include: "


@dataclass(frozen=True)
class Script:
    """A complete script and the SHA-1 under which Redis caches it."""

    name: ScriptName
    source: str
    sha: str


@cache
def script(name: ScriptName) -> Script:
    """The script with its includes."""
    folder = files("headrace_bus") / "lua"
    shebang, include, *body = (folder / f"{name}.lua").read_text().splitlines()
    if not shebang.startswith("#!lua") or not include.startswith(_INCLUDE):
        raise ValueError(f"{name}.lua begins with its shebang and its includes")
    shared = [(folder / "shared" / f"{part}.lua").read_text() for part in include.removeprefix(_INCLUDE).split()]
    source = "\n".join([shebang, *shared, *body])
    # What EVALSHA asks for; nothing depends on its strength.
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())
