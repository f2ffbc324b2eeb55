"""What of a stream's result was told already: the end tells the rest."""

from dataclasses import dataclass, field

from headrace_crds.dialogue import ToolCall
from headrace_facade.calls.contract import Choice, Delta


@dataclass
class Told:
    """Of one completion."""

    text: str = ""
    reasoning: str = ""
    calls: list[ToolCall] = field(default_factory=list)

    def add(self, delta: Delta) -> None:
        self.text += delta.text
        self.reasoning += delta.reasoning
        if delta.tool_call is not None:
            self.calls.append(delta.tool_call)

    def rest(self, choice: Choice, index: int = 0) -> list[Delta]:
        """What the result has beyond it: completions, and calls, that come whole with the end."""
        found = []
        if choice.reasoning.startswith(self.reasoning) and (more := choice.reasoning[len(self.reasoning) :]):
            found.append(Delta(reasoning=more, index=index))
        if choice.text.startswith(self.text) and (more := choice.text[len(self.text) :]):
            found.append(Delta(text=more, index=index))
        known = {call.id for call in self.calls}
        found += [Delta(tool_call=call, index=index) for call in choice.tool_calls if call.id not in known]
        return found
