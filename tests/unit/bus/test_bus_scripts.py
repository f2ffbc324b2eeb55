"""The Lua files as text: what they call, what flags they carry, that none is forgotten."""

import re
from importlib.resources import files
from pathlib import Path
from typing import get_args

import pytest
from redis import exceptions as vendor

from headrace_bus import (
    FACADE_ACL,
    OPERATOR_ACL,
    BusCorrupt,
    BusDenied,
    BusError,
    BusOutOfMemory,
    BusUnavailable,
    ModelKey,
    acl_rules,
)
from headrace_bus.connection import convert
from headrace_bus.scripts import ScriptName, script

NAMES: tuple[ScriptName, ...] = get_args(ScriptName)
OPERATOR_SCRIPTS = {name for name in NAMES if name.startswith("budget/")} | {
    "enqueue",
    "erase",
    "interrupt",
    "move",
    "purge",
    "remove",
    "uids",
    "weigh",
    "withdraw",
}
FACADE_SCRIPTS = {"call/enqueue", "call/hang_up", "call/waiting"}
SESSION_SCRIPTS = {name for name in NAMES if name.startswith("session/")}
FOLDER = Path(str(files("headrace_bus") / "lua"))


def commands(name: ScriptName) -> set[str]:
    return {command.lower() for command in re.findall(r"(?:redis\.p?call|take)\('(\w+)'", script(name).source)}


def allowed(rules: list[str] | tuple[str, ...]) -> set[str]:
    return {rule[1:] for rule in rules if rule.startswith("+")}


def test_every_lua_file_is_a_script_and_every_shared_one_is_included() -> None:
    found = {str(path.relative_to(FOLDER).with_suffix("")) for path in FOLDER.rglob("*.lua")}
    assert {name for name in found if not name.startswith("shared/")} == set(NAMES)
    included = {part for name in NAMES for part in (FOLDER / f"{name}.lua").read_text().splitlines()[1].split()[2:]}
    assert {path.stem for path in (FOLDER / "shared").glob("*.lua")} == included


@pytest.mark.parametrize("name", sorted(set(NAMES) - OPERATOR_SCRIPTS - FACADE_SCRIPTS - SESSION_SCRIPTS))
def test_a_runner_may_call_what_the_transitions_call(name: ScriptName) -> None:
    assert commands(name) <= allowed(acl_rules(ModelKey("ns", "m")))


def test_no_rule_is_broader_than_its_use() -> None:
    every = set().union(*(commands(name) for name in NAMES))
    connecting = {"ping", "select", "evalsha"}
    outside = {"blpop", "lpop"}
    own = set().union(*(commands(name) for name in set(NAMES) - OPERATOR_SCRIPTS - FACADE_SCRIPTS - SESSION_SCRIPTS))
    assert allowed(acl_rules(ModelKey("ns", "m"))) <= own | connecting | outside
    assert every - {"hstrlen"} <= allowed(OPERATOR_ACL)


def test_the_facade_calls_what_its_questions_and_its_calls_call() -> None:
    questions: tuple[ScriptName, ...] = ("gpus", "inspect", "position", "replay", "reports", "result", "stats")
    called = set().union(*(commands(name) for name in {*questions, *FACADE_SCRIPTS}))
    # What is shared code and never reached by its scripts is not granted.
    unreached = {"xadd", "xlen", "publish"}
    assert allowed(FACADE_ACL) == (called - unreached) | {"ping", "select", "evalsha", "get", "time", "xread", "xrange"}
    assert {script(name).source.splitlines()[0] for name in questions} == {"#!lua flags=no-writes"}


def test_sessions_are_a_selector_of_their_own_and_nobody_elses() -> None:
    (selector,) = [rule for rule in FACADE_ACL if rule.startswith("(~headrace:session:*")]
    called = set().union(*(commands(name) for name in SESSION_SCRIPTS))
    assert allowed(selector.strip("()").split()) == called | {"evalsha"}
    others = [*OPERATOR_ACL, *acl_rules(ModelKey("ns", "m"))]
    assert not [rule for rule in others if "session" in rule or "ticket" in rule or rule in ("~*", "~headrace:*")]


def test_the_facade_reads_no_prompt_and_no_large_result() -> None:
    keys = [rule for rule in FACADE_ACL if rule.startswith(("~", "%"))]
    assert [rule for rule in keys if "envelope" in rule or "inbox" in rule] == [
        "%W~headrace:{*}:envelope:*",
        "%W~headrace:{*}:inbox:*",
    ]
    assert not [rule for rule in keys if "parked:" in rule or "budget" in rule or rule.endswith(("~*", "}:*"))]


@pytest.mark.parametrize("rules", [acl_rules(ModelKey("ns", "m")), OPERATOR_ACL, FACADE_ACL])
def test_rules_begin_from_nothing_and_admit_no_category(rules: list[str]) -> None:
    assert "-@all" in rules
    assert "resetkeys" in rules
    assert "resetchannels" in rules
    assert not [rule for rule in rules if rule.startswith("+@")]
    # Names of other models' keys are the operator's alone.
    assert ("scan" in allowed(rules)) == (rules is OPERATOR_ACL)
    assert not allowed(rules) & {"keys", "flushall", "flushdb", "config", "config|set", "debug", "monitor"}


def test_only_what_makes_an_entry_or_keeps_a_result_is_refused_at_maxmemory() -> None:
    refused = {name for name in NAMES if script(name).source.splitlines()[0] == "#!lua"}
    assert refused == {
        "cache/put",
        "call/end",
        "call/enqueue",
        "enqueue",
        "keep",
        "park",
        "session/append",
        "session/create",
        "stream",
    }


def test_scripts_take_their_time_from_the_server_alone() -> None:
    for name in NAMES:
        assert "os.time" not in script(name).source
        assert "os.clock" not in script(name).source


def test_no_unbounded_command() -> None:
    forbidden = {"keys", "smembers", "hgetall", "hkeys", "hvals", "lrange"}
    for name in NAMES:
        assert not commands(name) & forbidden
        # Per chunk.
        assert ("scan" in commands(name)) == (name == "erase")
        # A range has an end of its own or a LIMIT.
        assert not re.search(r"'ZRANGE'[^)]*, 0, -1", script(name).source)
        for call in re.findall(r"'ZRANGEBYSCORE'[^)]*\)", script(name).source):
            assert "'LIMIT'" in call or name == "reports"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (vendor.ConnectionError("refused"), BusUnavailable),
        (vendor.TimeoutError("late"), BusUnavailable),
        (vendor.BusyLoadingError("loading"), BusUnavailable),
        (vendor.ReadOnlyError("replica"), BusUnavailable),
        (vendor.ResponseError("MISCONF cannot save"), BusUnavailable),
        (vendor.ResponseError("BUSY Redis is busy running a script"), BusUnavailable),
        (vendor.AuthenticationError("WRONGPASS"), BusDenied),
        (vendor.AuthorizationError("NOAUTH"), BusDenied),
        (vendor.NoPermissionError("no"), BusDenied),
        (vendor.ResponseError("NOAUTH Authentication required."), BusDenied),
        (vendor.ResponseError("The user executing the script can't access at least one of the keys"), BusDenied),
        (vendor.OutOfMemoryError("full"), BusOutOfMemory),
        (vendor.ResponseError("WRONGTYPE"), BusCorrupt),
        (ConnectionResetError("reset"), BusUnavailable),
    ],
)
def test_vendor_errors_become_ours(error: Exception, kind: type[BusError]) -> None:
    assert type(convert(error)) is kind
