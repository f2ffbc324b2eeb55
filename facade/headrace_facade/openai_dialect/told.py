"""How much of a stream's result was told already: the end tells the rest."""

from dataclasses import dataclass, field

from headrace_facade.calls.contract import Choice, Delta


@dataclass
class Told:
    """Of one completion; lengths alone, as a text that grows by copies costs its square."""

    text_chars: int = 0
    reasoning_chars: int = 0
    calls: set[str] = field(default_factory=set)

    def add(self, delta: Delta) -> None:
        self.text_chars += len(delta.text)
        self.reasoning_chars += len(delta.reasoning)
        if delta.tool_call is not None:
            self.calls.add(delta.tool_call.id)

    def rest(self, choice: Choice, index: int = 0) -> list[Delta]:
        """What the result has beyond it: completions, and calls, that come whole with the end."""
        found = [
            Delta(reasoning=choice.reasoning[self.reasoning_chars :], index=index),
            Delta(text=choice.text[self.text_chars :], index=index),
        ]
        found = [delta for delta in found if delta.reasoning or delta.text]
        return found + [Delta(tool_call=c, index=index) for c in choice.tool_calls if c.id not in self.calls]
