"""Documents are judged in helper processes, whatever schema and document try."""

import asyncio
import json
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from headrace_runner.validate import WALL_SECONDS, Finding, ValidationUnavailable, Validator

MIB = 1024 * 1024

PERSON = '{"type":"object","properties":{"age":{"type":"integer"}},"required":["age"],"additionalProperties":false}'


@pytest.fixture
async def validator() -> AsyncIterator[Validator]:
    async with Validator() as validator:
        yield validator


@pytest.mark.parametrize(
    ("schema", "text", "finding", "says"),
    [
        (PERSON, '{"age": 3}', Finding.VALID, ""),
        (PERSON, '{"age": "3"}', Finding.INVALID, "$.age"),
        (PERSON, "{}", Finding.INVALID, "age"),
        (PERSON, '{"age": 3', Finding.INVALID, "did not write JSON"),
        (PERSON, '{"age": NaN}', Finding.INVALID, "NaN"),
        (PERSON, "[" * 100_000, Finding.INVALID, "did not write JSON"),
        ('{"type": "nonsense"}', "1", Finding.BAD_SCHEMA, "nonsense"),
        ('{"type":', "1", Finding.BAD_SCHEMA, "not JSON"),
        ("[]", "1", Finding.BAD_SCHEMA, "must be a JSON object"),
        ('{"pattern": "["}', '"x"', Finding.BAD_SCHEMA, "regex"),
        ('{"$ref": "http://127.0.0.1:1/x.json"}', "1", Finding.UNSUPPORTED, "outside of itself"),
        ('{"$ref": "#/$defs/a", "$defs": {"a": {"type": "integer"}}}', "1", Finding.VALID, ""),
    ],
)
async def test_what_is_found(validator: Validator, schema: str, text: str, finding: Finding, says: str) -> None:
    judgement = await validator.validate(schema, text)
    assert judgement.finding is finding
    assert says in judgement.message


async def test_a_reference_to_a_file_is_refused_and_not_read(validator: Validator, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text('{"type": "integer"}')
    judgement = await validator.validate(json.dumps({"$ref": other.as_uri()}), "1")
    assert judgement.finding is Finding.UNSUPPORTED
    assert "outside of itself" in judgement.message


async def test_a_schema_can_be_judged_alone(validator: Validator) -> None:
    assert (await validator.check_schema(PERSON)).finding is Finding.VALID
    assert (await validator.check_schema('{"type": 1}')).finding is Finding.BAD_SCHEMA


async def test_what_takes_for_ever_is_given_up_and_the_next_is_judged() -> None:
    # Every definition asks for the one before it twice: 2^60 checks.
    definitions: dict[str, object] = {"d0": {"type": "integer"}}
    for n in range(60):
        definitions[f"d{n + 1}"] = {"allOf": [{"$ref": f"#/$defs/d{n}"}, {"$ref": f"#/$defs/d{n}"}]}
    slow = json.dumps({"$ref": "#/$defs/d60", "$defs": definitions})
    async with Validator(cpu_seconds=1) as validator:
        judgement = await validator.validate(slow, "1")
        assert judgement.finding is Finding.UNSUPPORTED
        assert "within 1 s of CPU time" in judgement.message
        assert (await validator.validate(PERSON, '{"age": 3}')).finding is Finding.VALID


MEMORY_BOMBS = {
    # Each pattern is below the regex library's own bound; all of them are not.
    "schema": (json.dumps({"patternProperties": {f"^[a-z{i}]{{900}}{i}$": {} for i in range(3000)}}), "{}"),
    "document": ("{}", "[" + ",".join(["[" + ",".join(["{}"] * 1000) + "]"] * 10_000) + "]"),
}


@pytest.mark.parametrize("name", MEMORY_BOMBS)
async def test_what_eats_memory_dies_alone_and_within_its_bound(validator: Validator, name: str) -> None:
    schema, text = MEMORY_BOMBS[name]
    asked = asyncio.create_task(validator.validate(schema, text))
    peak_bytes = 0
    while not asked.done():
        peak_bytes = max([peak_bytes, *map(_peak_bytes, _children())])
        await asyncio.sleep(0.005)
    judgement = await asked
    assert judgement.finding is Finding.UNSUPPORTED
    assert "within 128 MiB of memory" in judgement.message
    # A helper that is ready has about 20 MiB; two of them and the runner fit 512 MiB.
    assert 50 * MIB < peak_bytes < 170 * MIB
    assert (await validator.validate(PERSON, '{"age": 3}')).finding is Finding.VALID


async def test_a_helper_that_was_killed_while_idle_costs_nobody_anything(validator: Validator) -> None:
    assert (await validator.validate(PERSON, '{"age": 3}')).finding is Finding.VALID
    for pid in _children():
        os.kill(int(pid), signal.SIGKILL)
    assert (await validator.validate(PERSON, '{"age": 3}')).finding is Finding.VALID


async def test_what_an_earlier_question_left_behind_does_not_count(validator: Validator) -> None:
    assert (await validator.validate(PERSON, '{"age": 3}')).finding is Finding.VALID
    (pid,) = _children()
    # As if earlier questions had left it no memory.
    resource.prlimit(int(pid), resource.RLIMIT_AS, (MIB, MIB))
    text = json.dumps({"age": 3, "x": "y" * 4_000_000})
    judgement = await validator.validate('{"properties": {"age": {"type": "integer"}}}', text)
    assert judgement.finding is Finding.VALID
    assert _children() != [pid]


async def test_helpers_that_keep_breaking_are_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Validator() as validator:
        monkeypatch.setattr(sys, "path", ["/nowhere"])
        with pytest.raises(ValidationUnavailable, match="exit code 1"):
            await validator.validate(PERSON, "{}")


async def test_a_helper_that_gets_no_time_is_no_verdict() -> None:
    async with Validator() as validator:
        await validator.validate(PERSON, '{"age": 3}')
        (pid,) = _children()
        os.kill(int(pid), signal.SIGSTOP)
        validator.wall_seconds = 0.2
        with pytest.raises(ValidationUnavailable):
            await validator.validate(PERSON, '{"age": 3}')
        validator.wall_seconds = WALL_SECONDS
        assert (await validator.validate(PERSON, '{"age": 3}')).finding is Finding.VALID


async def test_a_cancelled_question_leaves_no_process_behind(validator: Validator) -> None:
    asked = asyncio.create_task(validator.validate('{"items": {"pattern": "(x+x+)+y"}}', json.dumps(["x" * 40] * 5000)))
    await asyncio.sleep(0)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert (await validator.validate(PERSON, '{"age": 3}')).finding is Finding.VALID


async def test_a_helper_knows_no_secrets(validator: Validator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_SECRET", "s3cret")
    await validator.validate(PERSON, "{}")
    environments = _environments_of_children()
    assert environments
    assert all(b"s3cret" not in each for each in environments)


def _environments_of_children() -> list[bytes]:
    return [Path(f"/proc/{pid}/environ").read_bytes() for pid in _children()]


def _children() -> list[str]:
    """The helpers; a process that runs several suites has other children as well."""
    return [pid for pid in os.listdir("/proc") if pid.isdigit() and _parent(pid) == os.getpid() and _is_helper(pid)]


def _is_helper(pid: str) -> bool:
    try:
        return b"validation_helper" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _peak_bytes(pid: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def _parent(pid: str) -> int:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except OSError:
        return 0
