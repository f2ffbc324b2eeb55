"""Renders chat templates for the engine: the code of a stranger, run in a bounded process of its own.

A GGUF's chat template is a Jinja program (CVE-2024-34359 and CVE-2026-5760 were templates run unsandboxed). It runs in
jinja2's immutable sandbox, with a bound on output, and in a helper process with bounds on memory, CPU time and files:
an endless loop or ``'a' * 10**10`` inside C code can only be ended from outside. Run as ``python -m`` this module is
that helper; the other side of its pipes is ``rendering.TemplateRenderer``. Its argument is the seconds of CPU time that
a rendering may take.
"""

import datetime
import json
import resource
import signal
import struct
import sys
from typing import IO, Any, BinaryIO, Final, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

MAX_OUTPUT_CHARS: Final = 4 * 1024 * 1024
MAX_MEMORY_BYTES: Final = 512 * 1024 * 1024
ALARM_SECONDS: Final = 60
_MAX_FILES: Final = 16
HEAD: Final = struct.Struct(">I")

# The fallback of llama.cpp and others for models whose GGUF has no template.
CHATML: Final = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


class TemplateError(Exception):
    """The template refused the messages (``raise_exception``), is broken, or broke a bound."""


class ChatTemplate:
    """One compiled template. Compiling raises TemplateError where the source is not Jinja."""

    def __init__(self, source: str, *, bos_token: str = "", eos_token: str = "") -> None:
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            # As Hugging Face's apply_chat_template has it, which is what template authors test with.
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[jinja2.ext.loopcontrols, _Generation],
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        try:
            self._template = environment.from_string(source)
        except (jinja2.TemplateError, RecursionError, MemoryError) as error:
            raise TemplateError(f"the chat template cannot be compiled: {_say(error)}") from error

    def render(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> str:
        """Render ``messages`` with the opening of the assistant's turn. Raises TemplateError.

        Both in OpenAI's form: ``tools`` as ``{"type": "function", "function": {…}}``, with values and no JSON text.
        """
        parts: list[str] = []
        length = 0
        given = {"messages": messages, "tools": tools, "documents": None, "add_generation_prompt": True}
        try:
            for part in self._template.generate(**given, **self._tokens):
                length += len(part)
                if length > MAX_OUTPUT_CHARS:
                    raise TemplateError(f"the chat template wrote more than {MAX_OUTPUT_CHARS} characters")
                parts.append(part)
        except TemplateError:
            raise
        except Exception as error:
            # A template can raise anything that Python can; all of it is the template's failure.
            raise TemplateError(f"the chat template failed: {_say(error)}") from error
        return "".join(parts)


def _say(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:500]


def _raise_exception(message: object) -> NoReturn:
    raise TemplateError(f"the chat template refused the messages: {str(message)[:500]}")


def _strftime_now(form: str) -> str:
    return datetime.datetime.now(datetime.UTC).strftime(form)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja2's own tojson escapes for HTML, which models were not trained on.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class _Generation(jinja2.ext.Extension):
    """``{% generation %}`` marks for training what the assistant said; here it only contains it."""

    tags = {"generation"}  # noqa: RUF012  as the base class has it

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        """Give what stands between the tags."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def write_message(stream: IO[bytes], body: dict[str, Any]) -> None:
    """Write a length and a JSON object to a pipe."""
    raw = json.dumps(body).encode()
    stream.write(HEAD.pack(len(raw)) + raw)
    stream.flush()


def _read_message(stream: BinaryIO) -> dict[str, Any] | None:
    head = stream.read(HEAD.size)
    if len(head) < HEAD.size:
        return None
    body = json.loads(stream.read(HEAD.unpack(head)[0]))
    assert isinstance(body, dict)  # noqa: S101  our own process wrote it
    return body


def _serve(requests: BinaryIO, answers: BinaryIO, cpu_seconds: float) -> None:
    for what, limit in (
        (resource.RLIMIT_AS, MAX_MEMORY_BYTES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, _MAX_FILES),
    ):
        resource.setrlimit(what, (limit, limit))
    template: ChatTemplate | None = None
    while (request := _read_message(requests)) is not None:
        # Neither signal has a handler, so both kill, also inside C code: CPU time judges the template and not how busy
        # the node is; the alarm is for when nobody is left on the other side to do it.
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        signal.alarm(ALARM_SECONDS)
        try:
            if template is None:
                template = ChatTemplate(**request["template"])
            answer = {"text": template.render(request["messages"], request["tools"])}
        except TemplateError as error:
            answer = {"error": str(error)}
        except MemoryError:
            answer = {"error": "the chat template used too much memory"}
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        write_message(answers, answer)


if __name__ == "__main__":
    _serve(sys.stdin.buffer, sys.stdout.buffer, float(sys.argv[1]))
