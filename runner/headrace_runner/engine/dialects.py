"""How a model marks its reasoning and its tool calls, told from its chat template. Pure data and one choice.

| family                          | reasoning           | calls                                                      |
|---------------------------------|---------------------|------------------------------------------------------------|
| Hermes, Qwen 2.5 / 3, SmolLM    | ``<think>``         | ``<tool_call>{json}</tool_call>``, Qwen 3 Coder with tags  |
| Llama 3.x                       | –                   | bare ``{"name", "parameters"}``, ``<|python_tag|>{json}``  |
| Functionary 3.1                 | –                   | ``<function=name>{json}</function>``                       |
| Mistral                         | ``[THINK]``         | ``[TOOL_CALLS][…]``, ``[TOOL_CALLS]name[ARGS]{json}``      |
| DeepSeek R1, V3                 | ``<think>``         | ``<｜tool▁calls▁begin｜>…``                                |
| Phi 4 mini, Granite             | ``<think>``         | ``<|tool_call|>[…]<|/tool_call|>``                         |
| Command R                       | ``<|START_THINKING|>`` | ``<|START_ACTION|>[…]<|END_ACTION|>``                   |
| gpt-oss (Harmony)               | channel analysis    | channel commentary ``to=functions.name``                   |
| all others, and without a template | ``<think>`` if named | as Hermes, told so in a system message                |
"""

from dataclasses import dataclass
from typing import Final

from headrace_runner.engine.call_bodies import Reader, deepseek, function_tag, json_calls, mistral, tool_call_tag


@dataclass(frozen=True, slots=True)
class CallMarks:
    """A section of calls: from ``opens`` to ``closes``, or to the end where ``closes`` is empty."""

    opens: str
    closes: str
    read: Reader


@dataclass(frozen=True, slots=True)
class Dialect:
    """The marks of a family. ``bare_json``: an answer that begins with ``{"name"`` is a call.
    ``arguments_key`` is how JSON calls name their arguments."""

    name: str
    calls: tuple[CallMarks, ...]
    reasoning: tuple[str, str] | None = None
    bare_json: bool = False
    harmony: bool = False
    arguments_key: str = "arguments"

    @property
    def prelude(self) -> str:
        """What the prompt ends with where the answer has to be a call as JSON."""
        return "<tool_call>\n" if self.calls == HERMES else ""

    @property
    def marks(self) -> tuple[str, ...]:
        """Everything that may be a control token in some vocabulary and must not be swallowed when detokenising."""
        if self.harmony:
            return HARMONY_MARKS
        found = list(self.reasoning or ())
        for section in self.calls:
            found += [section.opens, section.closes] if section.closes else [section.opens]
        if self.calls == MISTRAL:
            found += ["[ARGS]", "[CALL_ID]"]
        if self.calls == DEEPSEEK:
            found += ["<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"]
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Reading:
    """How one answer is to be read. ``names`` are the tools that can be called; ``thinking``: the prompt ends inside
    of the reasoning; ``forced``: a grammar admits calls as JSON and nothing else."""

    dialect: Dialect
    names: tuple[str, ...] = ()
    thinking: bool = False
    forced: bool = False


HARMONY_MARKS: Final = ("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>")
HERMES: Final = (CallMarks("<tool_call>", "</tool_call>", tool_call_tag),)
LLAMA: Final = (
    CallMarks("<|python_tag|>", "", json_calls),
    CallMarks("<function=", "</function>", function_tag),
)
MISTRAL: Final = (CallMarks("[TOOL_CALLS]", "", mistral),)
DEEPSEEK: Final = (CallMarks("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", deepseek),)
PHI: Final = (CallMarks("<|tool_call|>", "<|/tool_call|>", json_calls),)
GRANITE: Final = (CallMarks("<|tool_call|>", "", json_calls),)
COMMAND: Final = (CallMarks("<|START_ACTION|>", "<|END_ACTION|>", json_calls),)
FUNCTION: Final = (CallMarks("<function=", "</function>", function_tag),)
_REASONING: Final = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<seed:think>", "</seed:think>"),
)


def recognise(template: str | None) -> Dialect:
    """The dialect that a template's own words show; Hermes where it shows none."""
    source = template or ""
    if "<|channel|>" in source and "<|message|>" in source:
        return Dialect("Harmony", (), harmony=True)
    reasoning = next((marks for marks in _REASONING if marks[0] in source or marks[1] in source), None)
    if "<tool_call>" in source:
        return Dialect("Hermes", HERMES, reasoning)
    if "[TOOL_CALLS]" in source:
        return Dialect("Mistral", MISTRAL, reasoning)
    if "<｜tool▁calls▁begin｜>" in source:
        return Dialect("DeepSeek", DEEPSEEK, reasoning)
    if "<|START_ACTION|>" in source:
        return Dialect("Command", COMMAND, reasoning)
    if "<|/tool_call|>" in source:
        return Dialect("Phi", PHI, reasoning)
    if "<|tool_call|>" in source:
        return Dialect("Granite", GRANITE, reasoning)
    if "<|python_tag|>" in source or "Environment: ipython" in source:
        return Dialect("Llama", LLAMA, reasoning, bare_json=True, arguments_key="parameters")
    if "<function=" in source:
        return Dialect("Functionary", FUNCTION, reasoning)
    return Dialect("Generic", HERMES, reasoning)
