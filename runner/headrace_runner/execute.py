"""One attempt from work to ending: the same code in a pod and in ``headrace run``.

It generates, judges and says how the attempt ended. Who is told is the sink's affair: bus and API server in a pod, the
terminal in ``headrace run``.
"""

from typing import Protocol

from headrace_crds.inputs import Output
from headrace_crds.reasons import Reason
from headrace_crds.task import Timings
from headrace_crds.work import Work, WorkMessage
from headrace_runner.attempt import Attempt
from headrace_runner.curb import Curb
from headrace_runner.cut import Cut, Halt
from headrace_runner.engine.client import EngineError
from headrace_runner.engine.frames import ProtocolError
from headrace_runner.engine.protocol import Generate, GenerationResult, Message, Parameters
from headrace_runner.engine.tools import NO_PARAMETERS, Tool, ToolCall
from headrace_runner.generating import Engine, generate
from headrace_runner.validate import Finding, ValidationUnavailable, Validator
from headrace_runner.verdict import GivenBack, Setback, Verdict, failed, of_cut, of_error, of_generation


class Sink(Protocol):
    """Who is told about an attempt."""

    def progress(self, completion_tokens: int) -> None:
        """So many tokens are generated."""

    def generated(self) -> None:
        """The engine's sequence is free; what follows needs none."""

    async def conclude(self, verdict: Verdict) -> None:
        """The attempt has an outcome."""

    async def give_back(self, setback: Setback) -> None:
        """The attempt ended without an outcome."""

    async def release(self, reason: str) -> None:
        """The attempt is handed back unfinished; nobody is charged."""


async def execute(attempt: Attempt, engine: Engine, validator: Validator, sink: Sink, curb: Curb) -> None:
    """Run one attempt to its end. Cancelling it aborts the generation and tells the sink nothing.

    ``curb`` ends it early as long as the text is not generated; what is judged or committed already is not stopped.
    """
    ending = await _ending(attempt, engine, validator, sink, curb)
    sink.generated()
    match ending:
        case Verdict():
            await sink.conclude(ending)
        case Setback():
            await sink.give_back(ending)
        case GivenBack():
            await sink.release(ending.reason)


async def _ending(
    attempt: Attempt, engine: Engine, validator: Validator, sink: Sink, curb: Curb
) -> Verdict | Setback | GivenBack:
    work = attempt.work
    schema_text = None if work.output is None else work.output.json_schema
    if schema_text is not None:
        # Before the engine is asked: a schema that cannot be judged by would cost a whole generation.
        try:
            schema = await curb.unless_halted(attempt, validator.check_schema(schema_text))
        except ValidationUnavailable as error:
            return Setback(Reason.RUNNER_ERROR, str(error))
        if isinstance(schema, Halt):
            return of_cut(Cut(schema), work, None)
        if schema.finding is not Finding.VALID:
            return failed(schema.finding.reason, schema.message)
    asked_ms = attempt.elapsed_ms
    try:
        generation = await generate(attempt, engine, _request(attempt), curb, sink.progress)
    except EngineError as error:
        return of_error(error)
    except ProtocolError as error:
        return failed(Reason.INPUT_TOO_LARGE, f"the request cannot be sent to the engine: {error}")
    if isinstance(generation, Cut):
        partial = generation.partial
        return of_cut(generation, work, None if partial is None else _timings(attempt, asked_ms, partial))
    timings = _timings(attempt, asked_ms, generation)
    judgement = None
    if schema_text is not None and generation.finish_reason == "Stop":
        try:
            judgement = await validator.validate(schema_text, generation.text)
        except ValidationUnavailable as error:
            return Setback(Reason.RUNNER_ERROR, str(error))
    return of_generation(generation, work, judgement, timings)


def _timings(attempt: Attempt, asked_ms: int, generation: GenerationResult) -> Timings:
    """The engine counts from a free sequence on, the status from the claim on."""
    begun_ms = asked_ms + generation.timings.queued_ms
    return Timings(
        queued_millis=attempt.queued_ms,
        first_token_millis=begun_ms + generation.timings.first_token_ms,
        generation_millis=begun_ms + generation.timings.generation_ms,
    )


def _request(attempt: Attempt) -> Generate:
    output = attempt.work.output or Output()
    return Generate(
        id=f"{attempt.uid}/{attempt.number}",
        messages=tuple(_message(message) for message in attempt.work.messages),
        parameters=engine_parameters(attempt.work),
        json_schema=output.json_schema,
        grammar=output.grammar,
        regex=output.regex,
        choice=tuple(output.choice or ()),
        tools=tuple(
            Tool(tool.name, tool.description or "", tool.parameters or NO_PARAMETERS) for tool in attempt.work.tools
        ),
        tool_choice=attempt.work.tool_choice,
    )


def _message(message: WorkMessage) -> Message:
    calls = tuple(ToolCall(call.id, call.name, call.arguments) for call in message.tool_calls or [])
    return Message(message.role.value, message.text, calls, message.tool_call_id)


def engine_parameters(work: Work) -> Parameters:
    """The API's decimals are strings; the engine takes numbers."""
    given = work.parameters
    return Parameters(
        temperature=_number(given.temperature),
        max_tokens=given.max_tokens,
        top_p=_number(given.top_p),
        top_k=given.top_k,
        min_p=_number(given.min_p),
        seed=given.seed,
        stop=tuple(given.stop or ()),
        presence_penalty=_number(given.presence_penalty),
        frequency_penalty=_number(given.frequency_penalty),
        repeat_penalty=_number(given.repeat_penalty),
    )


def _number(decimal: str | None) -> float | None:
    return None if decimal is None else float(decimal)
