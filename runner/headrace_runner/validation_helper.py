"""The process in which documents are judged: ``python -m headrace_runner.validation_helper``.

Frames on stdin and stdout: four bytes of length, then JSON; ``cpuSeconds`` is what a question may use and what its
reply has used. Ends with its stdin. How it dies of a question says why,
also inside native code: by SIGPROF when its CPU time is used up, by SIGABRT (native code) or MEMORY_EXIT (Python) when
its memory is, and by SIGALRM when nobody is left to kill it.
"""

import json
import os
import resource
import signal
import sys
import time
from typing import Any, BinaryIO, Final, NoReturn

HEADER_BYTES: Final = 4
WALL_VARIABLE: Final = "HEADRACE_VALIDATION_SECONDS"
MEMORY_LIMIT_BYTES: Final = 128 * 1024 * 1024
"""Address space beyond what the helper has when it is ready; two of them and the runner fit a container of 512 MiB."""
MEMORY_EXIT: Final = 4


def judge(question: dict[str, Any]) -> dict[str, str]:
    """Give ``finding`` (a validate.Finding) and ``message``."""
    import jsonschema_rs

    if "regex" in question:
        return _judge_regex(question["regex"], question.get("text"))
    try:
        schema = json.loads(question["schema"], parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        return _say("InvalidSchema", f"output.jsonSchema is not JSON: {error}")
    if not isinstance(schema, dict | bool):
        return _say("InvalidSchema", "output.jsonSchema must be a JSON object")
    try:
        # Offline: a $ref to another host or file is refused, never fetched.
        validator = jsonschema_rs.validator_for(schema, offline=True)
    except jsonschema_rs.ReferencingError as error:
        return _say("UnsupportedSchema", f"output.jsonSchema refers to something outside of itself: {error}")
    except (jsonschema_rs.ValidationError, ValueError, RecursionError) as error:
        text = getattr(error, "message", str(error))
        if "Retrieval is disabled" in text or "not present in a registry" in text:
            return _say("UnsupportedSchema", f"output.jsonSchema refers to something outside of itself: {text}")
        return _say("InvalidSchema", f"output.jsonSchema is not a JSON Schema: {text}")
    if "text" not in question:
        return _say("Valid", "")
    try:
        document = json.loads(question["text"], parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        return _say("InvalidOutput", f"the model did not write JSON: {error}")
    first = next(iter(validator.iter_errors(document)), None)
    if first is None:
        return _say("Valid", "")
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first.instance_path)
    return _say("InvalidOutput", f"the document does not fit output.jsonSchema at ${path}: {first.message}")


def _judge_regex(regex: str, text: str | None) -> dict[str, str]:
    import jsonschema_rs

    try:
        # Rust's regex crate, whose time is linear in the text; the whole text has to match.
        options = jsonschema_rs.RegexOptions()
        validator = jsonschema_rs.Draft202012Validator({"pattern": f"^(?:{regex})$"}, pattern_options=options)
    except (jsonschema_rs.ValidationError, ValueError, RecursionError) as error:
        return _say("InvalidSchema", f"output.regex is no regular expression that can be checked: {error}")
    if text is None or validator.is_valid(text):
        return _say("Valid", "")
    return _say("InvalidOutput", "the text does not match output.regex as a whole")


def main() -> None:
    # A core file would hold results.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Part of what every helper has; not at the top, because the runner imports this module for its names.
    import jsonschema_rs  # noqa: F401

    limit_bytes = _address_space_bytes() + MEMORY_LIMIT_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))
    wall_seconds = int(os.environ[WALL_VARIABLE])
    try:
        _answer(sys.stdin.buffer, sys.stdout.buffer, wall_seconds)
    except MemoryError:
        os._exit(MEMORY_EXIT)


def _answer(source: BinaryIO, sink: BinaryIO, wall_seconds: int) -> None:
    while header := source.read(HEADER_BYTES):
        question = json.loads(source.read(int.from_bytes(header, "big")))
        # CPU time judges the question, not how busy the node is. Neither signal has a handler: both kill.
        signal.setitimer(signal.ITIMER_PROF, question["cpuSeconds"])
        signal.alarm(wall_seconds)
        begun_seconds = time.process_time()
        reply = judge(question) | {"cpuSeconds": time.process_time() - begun_seconds}
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        _write(sink, json.dumps(reply).encode())


def _address_space_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _write(sink: BinaryIO, data: bytes) -> None:
    sink.write(len(data).to_bytes(HEADER_BYTES, "big") + data)
    sink.flush()


def _say(finding: str, message: str) -> dict[str, str]:
    return {"finding": finding, "message": message[:2000]}


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


if __name__ == "__main__":
    main()
