"""From a request to the text of its prompt, and to how the answer to it is to be read."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

from headrace_runner.engine.conversation import shape
from headrace_runner.engine.dialects import HERMES, Dialect, recognise
from headrace_runner.engine.protocol import Generate, Message
from headrace_runner.engine.rendering import TemplateRenderer, guard, segments
from headrace_runner.engine.template_traits import Traits, probe
from headrace_runner.engine.tools import Tool


@dataclass(frozen=True, slots=True)
class Prompt:
    """``segments`` are tokenized each on its own. ``dialect`` is None where the answer is plain text; ``thinking``:
    the prompt ends inside of the reasoning. ``tools`` are those that may be called."""

    segments: list[str]
    dialect: Dialect | None = None
    thinking: bool = False
    tools: tuple[Tool, ...] = ()


class PromptMaker:
    """Makes prompts for one model. Thread-safe and blocking. Raises Refusal with ChatTemplateFailed."""

    def __init__(self, renderer: TemplateRenderer, controls: Sequence[str]) -> None:
        self._renderer = renderer
        self._controls = tuple(controls)
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
        reads = bool(tools or dialect.reasoning or dialect.harmony)
        thinking = dialect.reasoning is not None and rendered.rstrip().endswith(dialect.reasoning[0])
        return Prompt(segments(rendered), dialect if reads else None, thinking, tools)

    def _traits(self) -> Traits:
        with self._lock:
            if self._probed is None:
                self._probed = probe(self._renderer.render)
            return self._probed

    def _guard(self, text: str) -> str:
        return guard(text, self._controls)
