"""One attempt from work to ending: the same code in a pod and in ``headrace run``.

It generates, judges and says how the attempt ended. Who is told is the sink's affair: bus and API server in a pod, the
terminal in ``headrace run``.
"""

from dataclasses import replace
from typing import Final, Protocol

from headrace_bus.tracing import child
from headrace_crds.inputs import Output
from headrace_crds.reasons import Reason
from headrace_crds.result import Usage as BilledUsage
from headrace_crds.task import Timings
from headrace_crds.work import CallOptions, Count, Work, WorkMessage
from headrace_runner.attempt import Attempt
from headrace_runner.calls import TOOLS_CPU_SECONDS, check_tools, judge_calls
from headrace_runner.curb import Curb
from headrace_runner.cut import Cut, Halt
from headrace_runner.engine.client import EngineError
from headrace_runner.engine.embedding_request import Embed
from headrace_runner.engine.frames import ProtocolError
from headrace_runner.engine.protocol import Generate, GenerationResult, Message, Parameters, Usage
from headrace_runner.engine.tools import NO_PARAMETERS, Tool, ToolCall
from headrace_runner.generating import Engine, generate
from headrace_runner.repair import asked_again, check, judge, with_usage_of
from headrace_runner.validate import Finding, Judgement, Share, ValidationUnavailable, Validator
from headrace_runner.verdict import (
    GivenBack,
    Setback,
    Verdict,
    also_spent,
    failed,
    is_whole,
    of_cut,
    of_error,
    of_generation,
    priced,
)

SHORT_TOKENS: Final = 256
"""Half a minute of a slow provider, which may be silent for a minute."""


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

    async def release(self, reason: str, usage: BilledUsage | None = None) -> None:
        """The attempt is handed back unfinished; nobody is charged a retry."""


async def execute(attempt: Attempt, engine: Engine, validator: Validator, sink: Sink, curb: Curb) -> None:
    """Run one attempt to its end. Cancelling it aborts the generation and tells the sink nothing.

    ``curb`` ends it early as long as the text is not generated; what is judged or committed already is not stopped.
    """
    ending = priced(await _ending(attempt, engine, validator, sink, curb), attempt.work.price)
    sink.generated()
    match ending:
        case Verdict():
            await sink.conclude(ending)
        case Setback():
            await sink.give_back(ending)
        case GivenBack():
            await sink.release(ending.reason, ending.usage)


async def _ending(
    attempt: Attempt, engine: Engine, validator: Validator, sink: Sink, curb: Curb
) -> Verdict | Setback | GivenBack:
    work, share = attempt.work, Share(TOOLS_CPU_SECONDS)
    if work.output is not None or work.tools:
        # Before the engine is asked: a shape that cannot be judged by would cost a whole generation.
        try:
            with child("check"):
                shape = await curb.unless_halted(attempt, _check(validator, work, share))
        except ValidationUnavailable as error:
            return Setback(Reason.RUNNER_ERROR, str(error))
        if isinstance(shape, Halt):
            return of_cut(Cut(shape), work, None)
        if shape.finding is not Finding.VALID:
            return failed(shape.finding.reason, shape.message)
    return await _generated(attempt, engine, validator, share, sink, curb)


async def _generated(
    attempt: Attempt, engine: Engine, validator: Validator, share: Share, sink: Sink, curb: Curb
) -> Verdict | Setback | GivenBack:
    """Generate and judge, again where the result does not have the shape, as often as the task allows."""
    work, output = attempt.work, attempt.work.output
    request, repairs, refused = _request(attempt), 0, None
    spent: Usage | None = None
    asked_ms = attempt.elapsed_ms
    while True:
        before = 0 if spent is None else spent.completion_tokens

        def progress(tokens: int, before: int = before) -> None:
            sink.progress(before + tokens)

        try:
            generation = await generate(attempt, engine, request, curb, progress)
        except EngineError as error:
            ending = of_error(error)
            if refused is None or not isinstance(ending, Verdict):
                return also_spent(ending, spent)
            # Another try was asked for in vain: what is wrong with the result is the reason, not what the try met.
            return also_spent(refused, ending.usage)
        except ProtocolError as error:
            return refused or failed(Reason.INPUT_TOO_LARGE, f"the request cannot be sent to the engine: {error}")
        if isinstance(generation, Cut):
            return _cut(generation, attempt, asked_ms, spent)
        total = with_usage_of(generation, spent)
        timings = _timings(attempt, asked_ms, generation)
        try:
            judgement = await _judged(validator, work, generation, share)
        except ValidationUnavailable as error:
            return also_spent(Setback(Reason.RUNNER_ERROR, str(error)), total.usage)
        verdict = of_generation(total, work, judgement, timings, repairs=repairs)
        wrong = judgement is not None and judgement.finding is Finding.INVALID
        if isinstance(request, Embed) or output is None or judgement is None:
            return verdict
        if not wrong or repairs >= _most_repairs(work, output):
            return verdict
        request, refused, spent = asked_again(request, generation, judgement), verdict, total.usage
        repairs += 1


def _most_repairs(work: Work, output: Output) -> int:
    # What a client has seen cannot be taken back.
    return 0 if work.call is not None and work.call.stream else output.max_repairs


async def _check(validator: Validator, work: Work, share: Share) -> Judgement:
    if work.output is not None:
        judgement = await check(validator, work.output)
        if judgement.finding is not Finding.VALID:
            return judgement
    return await check_tools(validator, work.tools, share)


async def _judged(validator: Validator, work: Work, generation: GenerationResult, share: Share) -> Judgement | None:
    if work.output is None and not work.tools and not generation.tool_calls:
        return None
    with child("validate") as span:
        judgement = await _judge(validator, work, generation, share)
        if judgement is not None:
            span.set({"headrace.finding": judgement.finding.value})
        return judgement


async def _judge(validator: Validator, work: Work, generation: GenerationResult, share: Share) -> Judgement | None:
    """None where nothing was asked of the result, or it was cut off."""
    if work.call is not None and work.call.count is not None:
        return None
    if work.tools or generation.tool_calls:
        judgement = await judge_calls(validator, work, generation, share)
        if judgement.finding is not Finding.VALID:
            return judgement
    if work.output is None or not is_whole(generation) or generation.finish_reason == "ToolCalls":
        return None
    for text in (generation.text, *(each.text for each in generation.alternatives)):
        judgement = await judge(validator, work.output, text)
        if judgement.finding is not Finding.VALID:
            break
    return judgement


def _cut(cut: Cut, attempt: Attempt, asked_ms: int, spent: Usage | None) -> Verdict | Setback | GivenBack:
    partial = cut.partial
    timings = None if partial is None else _timings(attempt, asked_ms, partial)
    if partial is None:
        return also_spent(of_cut(cut, attempt.work, timings), spent)
    return of_cut(replace(cut, partial=with_usage_of(partial, spent)), attempt.work, timings)


def _timings(attempt: Attempt, asked_ms: int, generation: GenerationResult) -> Timings:
    """The engine counts from a free sequence on, the status from the claim on."""
    begun_ms = asked_ms + generation.timings.queued_ms
    return Timings(
        queued_millis=attempt.queued_ms,
        first_token_millis=begun_ms + generation.timings.first_token_ms,
        generation_millis=begun_ms + generation.timings.generation_ms,
    )


def _request(attempt: Attempt) -> Generate | Embed:
    if attempt.work.embed:
        return Embed(f"{attempt.uid}/{attempt.number}", tuple(attempt.work.embed))
    counted = attempt.work.call.count if attempt.work.call is not None else None
    if counted is Count.TEXT:
        text = "\n".join(message.text for message in attempt.work.messages)
        return Generate(f"{attempt.uid}/{attempt.number}", prompt=text, count="Text")
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
        # Of all namespaces that share a model, each learns of its own prompts only.
        cache_scope=attempt.namespace,
        whole=_is_short(attempt.work),
        count=None if counted is None else "Conversation",
    )


def _is_short(work: Work) -> bool:
    """Of a call that nobody follows, so few tokens that no provider is silent over them for long."""
    return (
        work.call is not None
        and not work.call.stream
        and (work.parameters.max_tokens or SHORT_TOKENS + 1) <= SHORT_TOKENS
    )


def _message(message: WorkMessage) -> Message:
    calls = tuple(ToolCall(call.id, call.name, call.arguments) for call in message.tool_calls or [])
    return Message(message.role.value, message.text, calls, message.tool_call_id)


def engine_parameters(work: Work) -> Parameters:
    """The API's decimals are strings; the engine takes numbers."""
    given, options = work.parameters, work.call or CallOptions()
    return Parameters(
        n=options.n if options.n > 1 else None,
        logprobs=options.logprobs,
        logit_bias=tuple(options.logit_bias),
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
