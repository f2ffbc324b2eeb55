"""``Work``: a task resolved against its model, as the operator hands it to a runner.

It is the payload of the bus envelope and what ``headrace run`` executes, so both
run the same thing. It holds prompts: it is never logged.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

from pydantic import ConfigDict, Field

from headrace_crds.base import ApiModel
from headrace_crds.cache import CachePolicy, CacheUse, cache_use
from headrace_crds.inputs import LARGE_INPUT_LIMIT_BYTES, Output
from headrace_crds.model import Defaults, LLMModel
from headrace_crds.outcome import notified_outcomes
from headrace_crds.remote import Price
from headrace_crds.task import LLMTask, Message, Outcome, Parameters, Role, Tool


class WorkMessage(Message):
    """One turn of a conversation; one that inputFrom refers to is longer than the object would hold."""

    # A spec's messages are taken as they are.
    model_config = ConfigDict(from_attributes=True)

    content: Annotated[str, Field(max_length=LARGE_INPUT_LIMIT_BYTES)] | None = None
    """What is said, as text."""


class Count(StrEnum):
    """What is counted instead of answered."""

    CONVERSATION = "Conversation"
    """Messages and tools, as the model's chat template makes a prompt of them."""
    TEXT = "Text"
    """The one message's text as it stands, without a template."""


class CallOptions(ApiModel):
    """What only a call, work without an object, can ask for. Of remote models the runner refuses all but stream."""

    stream: bool = False
    """Its text is told as it grows; else all of it at the end."""
    n: Annotated[int, Field(ge=1, le=16)] = 1
    """Completions of one prompt."""
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """Probabilities of the chosen tokens, and of so many others."""
    logit_bias: Annotated[list[tuple[int, float]], Field(max_length=300)] = Field(default_factory=list)
    """Token and what is added to its logit."""
    count: Count | None = None
    """Nothing is generated: the tokens are told. maxTokens is 1 all the same, for a runner that does not know it."""


class Work(ApiModel):
    """Everything a runner needs to execute one attempt and to commit its outcome."""

    model: str
    """The LLMModel as namespace/name."""
    generation: int
    """metadata.generation of the task, for observedGeneration."""
    messages: list[WorkMessage]
    """The conversation; a prompt is one user message."""
    embed: list[str] = Field(default_factory=list)
    """Texts to turn into vectors; where there are any there are no messages."""
    parameters: Parameters
    """Sampling parameters with the model's defaults filled in; maxTokens is always set."""
    output: Output | None = None
    """The shape of the result, its texts byte for byte."""
    tools: list[Tool] = Field(default_factory=list)
    """Functions that the model may ask to be called."""
    tool_choice: str = "auto"
    """auto, none, required or a tool's name."""
    started: bool = False
    """status.startTime was set by an earlier attempt."""
    attempts: list[dict[str, object]] = Field(default_factory=list)
    """Records of earlier attempts that the commit keeps, at most nine."""
    stream_to: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$")] | None = None
    """Replica of the facade that shows the text as it grows."""
    call: CallOptions | None = None
    """Of a call: there is no object, and streamTo is told everything. Absent: of an LLMTask."""
    attempt_timeout_ms: int = 300_000
    """From the claim to the generated result; then the attempt is aborted and fails as AttemptTimeout."""
    deadline_ms: int | None = None
    """Redis' time at which the whole task is over; an attempt still generating commits Failed/DeadlineExceeded."""
    notify: list[Outcome] = Field(default_factory=list)
    """Outcomes that a webhook waits for: a commit of one of them carries the condition Notified=False."""
    hand_over: list[str] = Field(default_factory=list)
    """Reasons for which the attempt does not commit Failed, but goes back to the operator, uncharged: there is another
    model to try. If there is none any more by then, the operator ends the task with that reason."""
    cache: CacheUse | None = None
    """Where results are looked for and kept; absent: nowhere."""
    price: Price | None = None
    """What the attempt's tokens cost; absent: nothing."""


def resolve(
    task: LLMTask,
    model: LLMModel,
    *,
    input_text: str | None = None,
    deadline_ms: int | None = None,
    hand_over: Sequence[str] = (),
) -> Work:
    """Fill the model's defaults into the task's parameters. `input_text` is what inputFrom refers to, `hand_over` the
    reasons for which another model is tried.
    """
    defaults = model.spec.defaults or Defaults()
    given = (task.spec.parameters or Parameters()).model_dump(exclude_none=True)
    filled = {"temperature": defaults.temperature, "max_tokens": defaults.max_tokens, "stop": defaults.stop, **given}
    turns = [WorkMessage.model_validate(each) for each in task.spec.messages or []]
    if not turns and task.spec.embed is None:
        turns = [WorkMessage(role=Role.USER, content=input_text or task.spec.prompt or "")]
    status = task.status
    return Work(
        model=f"{model.metadata.namespace}/{model.metadata.name}",
        generation=task.metadata.generation,
        messages=turns,
        embed=task.spec.embed.input if task.spec.embed else [],
        parameters=Parameters.model_validate(filled),
        output=task.spec.output,
        tools=task.spec.tools or [],
        tool_choice=task.spec.tool_choice or "auto",
        started=bool(status and status.start_time),
        attempts=[record.dump() for record in (status.attempts if status and status.attempts else [])[-9:]],
        attempt_timeout_ms=task.spec.attempt_timeout_seconds * 1000,
        deadline_ms=deadline_ms,
        notify=notified_outcomes(task),
        hand_over=list(hand_over),
        cache=(
            None
            if task.spec.cache is CachePolicy.NONE
            else cache_use(model.spec.cache, model.metadata.uid, model.metadata.generation)
        ),
        price=model.spec.price,
    )
