"""What a session holds, and how much of it a model is sent. Pure.

An exchange is what a request said and what was answered. How many tokens a text has is known for what the last answer's
model has counted, its whole prompt; elsewhere three bytes are taken for one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from headrace_crds.task import Role
from headrace_crds.work import WorkMessage

TOKENS_PER_BYTE: Final = 1 / 3
_DENSEST: Final = 1.0
_LEAST_DENSE: Final = 1 / 8
_MESSAGE_TOKENS: Final = 8
"""Of a chat template around each message."""
_MARGIN: Final = 0.95
"""Of the context: an estimate is one."""
_ROLES: Final = {each.value: each for each in (Role.SYSTEM, Role.USER, Role.ASSISTANT)}


@dataclass(frozen=True)
class Exchange:
    said: tuple[WorkMessage, ...]
    answer: str
    model: str
    """LLMModel that answered, ``namespace/name``."""
    prompt_tokens: int
    prompt_bytes: int
    """Of all that was sent for it, with what went before."""

    @property
    def messages(self) -> list[WorkMessage]:
        return [*self.said, WorkMessage(role=Role.ASSISTANT, content=self.answer)]

    def dump(self) -> dict[str, Any]:
        return {
            "said": [[each.role.value, each.text] for each in self.said],
            "answer": self.answer,
            "model": self.model,
            "promptTokens": self.prompt_tokens,
            "promptBytes": self.prompt_bytes,
        }

    @classmethod
    def load(cls, document: dict[str, Any]) -> Self:
        """Raises ValueError for what is no exchange."""
        try:
            said = [WorkMessage(role=_ROLES[role], content=str(text)) for role, text in document["said"]]
            return cls(
                tuple(said),
                str(document["answer"]),
                str(document["model"]),
                int(document["promptTokens"]),
                int(document["promptBytes"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError("no exchange") from error


def text_bytes(messages: Sequence[WorkMessage]) -> int:
    return sum(len(each.text.encode(errors="replace")) for each in messages)


def tokens_per_byte(exchanges: Sequence[Exchange], model: str) -> float:
    """Of what was said so far, as this model counts."""
    for each in reversed(exchanges):
        if each.model == model and each.prompt_tokens > 0 and each.prompt_bytes > 0:
            return min(max(each.prompt_tokens / each.prompt_bytes, _LEAST_DENSE), _DENSEST)
    return TOKENS_PER_BYTE


def fitting(
    exchanges: Sequence[Exchange],
    fixed: Sequence[WorkMessage],
    *,
    model: str,
    context_tokens: int | None,
    answer_tokens: int,
) -> list[Exchange]:
    """The newest that fit beside `fixed` (the system message and what is said now) and the answer. A context that is
    not known holds them all.
    """
    if context_tokens is None:
        return list(exchanges)
    ratio = tokens_per_byte(exchanges, model)
    # What is said now may be of another kind than what was counted.
    room = context_tokens * _MARGIN - answer_tokens - _tokens(fixed, max(ratio, TOKENS_PER_BYTE))
    first = len(exchanges)
    while first > 0:
        room -= _tokens(exchanges[first - 1].messages, ratio)
        if room < 0:
            break
        first -= 1
    return list(exchanges[first:])


def _tokens(messages: Sequence[WorkMessage], ratio: float) -> float:
    return text_bytes(messages) * ratio + _MESSAGE_TOKENS * len(messages)
