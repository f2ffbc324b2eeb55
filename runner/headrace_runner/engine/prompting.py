"""From a request to the text of its prompt, and to how the answer to it is to be read."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

from headrace_runner.engine.calling import call_schema, loose_call_schema
from headrace_runner.engine.conversation import shape
from headrace_runner.engine.dialects import HERMES, Reading, recognise
from headrace_runner.engine.protocol import Generate, Message
from headrace_runner.engine.rendering import TemplateRenderer, guard, segments
from headrace_runner.engine.template_traits import Traits, probe


@dataclass(frozen=True, slots=True)
class Prompt:
    """``segments`` are tokenized each on its own. ``reading`` is None where the answer is plain text; ``call_schemas``
    are JSON Schemas that a call has to meet where one is required, the strictest first."""

    segments: list[str]
    reading: Reading | None = None
    call_schemas: tuple[str, ...] = ()


class PromptMaker:
    """Makes prompts for one model. Thread-safe and blocking. Raises Refusal with ChatTemplateFailed."""

    def __init__(self, renderer: TemplateRenderer, controls: Sequence[str]) -> None:
        self._renderer = renderer
        self.controls = tuple(controls)
        self._dialect = recognise(renderer.source)
        self._lock = threading.Lock()
        self._probed: Traits | None = None

    @property
    def marks(self) -> frozenset[str]:
        """Control tokens' texts that this model's answers are read by: they must not be swallowed."""
        return frozenset(self._dialect.marks)

    def make(self, request: Generate) -> Prompt:
        """Render the request."""
        tools = request.tools if request.tool_choice != "none" else ()
        if request.prompt is not None and self._renderer.is_fallback and not tools:
            return Prompt(segments(self._guard(request.prompt)))
        messages = request.messages if request.prompt is None else (Message("user", request.prompt),)
        dialect = self._dialect
        if tools or any(message.tool_calls or message.tool_call_id is not None for message in messages):
            traits = self._traits()
            shaped, definitions = shape(messages, tools, traits, self._guard)
            rendered = self._renderer.render(shaped, definitions)
            if tools and not traits.tools and not dialect.harmony:
                dialect = replace(dialect, calls=HERMES, bare_json=False, arguments_key="arguments")
        else:
            shaped = [{"role": self._guard(each.role), "content": self._guard(each.content)} for each in messages]
            rendered = self._renderer.render(shaped)
        forced = bool(tools) and request.tool_choice != "auto"
        thinking = dialect.reasoning is not None and rendered.rstrip().endswith(dialect.reasoning[0])
        if thinking and dialect.reasoning is not None and (forced or _has_shape(request)):
            # A grammar holds from the first token on.
            rendered, thinking = f"{rendered.rstrip()}\n\n{dialect.reasoning[1]}\n\n", False
        names = tuple(tool.name for tool in tools)
        if forced:
            wanted = [tool for tool in tools if request.tool_choice in ("required", tool.name)]
            schemas = tuple(make(wanted, dialect.arguments_key) for make in (call_schema, loose_call_schema))
            return Prompt(segments(rendered + dialect.prelude), Reading(dialect, names, forced=True), schemas)
        reads = bool(tools or dialect.reasoning or dialect.harmony) and not _has_shape(request)
        return Prompt(segments(rendered), Reading(dialect, names, thinking) if reads else None)

    def _traits(self) -> Traits:
        with self._lock:
            if self._probed is None:
                self._probed = probe(self._renderer.render)
            return self._probed

    def _guard(self, text: str) -> str:
        return guard(text, self.controls)


def _has_shape(request: Generate) -> bool:
    shapes = (request.json_schema, request.grammar, request.regex, request.choice or None)
    return any(shape is not None for shape in shapes)
