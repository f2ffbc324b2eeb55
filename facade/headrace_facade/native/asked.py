"""From a request's words to a call. Raises Invalid, with the request's own fields."""

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.alias_generators import to_camel

from headrace_crds.inputs import Output, Parameters
from headrace_crds.task import Role
from headrace_crds.work import CallOptions, WorkMessage
from headrace_facade.calls.contract import CallRequest
from headrace_facade.errors import FieldProblem, Invalid
from headrace_facade.native.schema import PAIRWISE_MOST, Compare, Generate
from headrace_facade.schema import SamplingParameters
from headrace_facade.submission import decimal_text, schema_text

Kind = TypeVar("Kind", bound=BaseModel)


def generation(body: Generate, *, stream: bool) -> CallRequest:
    if (body.prompt is None) == (body.messages is None):
        raise Invalid.of([FieldProblem("", "exactly one of prompt and messages is needed")])
    if body.history and body.prompt is None:
        raise Invalid.of([FieldProblem("history", "goes with prompt: put all of it into messages, or give a prompt")])
    turns = [(Role(turn.role), turn.content) for turn in body.messages or body.history or []]
    turns += [(Role.USER, body.prompt)] if body.prompt is not None else []
    return CallRequest(
        model=body.model,
        messages=[WorkMessage(role=role, content=content) for role, content in turns],
        parameters=_parameters(body.parameters),
        output=_output(body),
        options=CallOptions(stream=stream),
        priority=body.priority,
        timeout_seconds=body.timeout_seconds,
    )


def comparison(body: Compare) -> CallRequest:
    if body.query is None and len(body.input) > PAIRWISE_MOST:
        told = f"all pairs of at most {PAIRWISE_MOST} texts are compared: send fewer, or a query"
        raise Invalid.of([FieldProblem("input", told)])
    return CallRequest(model=body.model, embed=[*body.input, *([body.query] if body.query is not None else [])])


def _output(body: Generate) -> Output | None:
    shapes: dict[str, Any] = {
        "json_schema": None if body.json_schema is None else schema_text(body.json_schema),
        "grammar": body.grammar,
        "regex": body.regex,
    }
    given = {name: text for name, text in shapes.items() if text is not None}
    if len(given) > 1:
        raise Invalid.of([FieldProblem(name, "at most one shape: leave the others out") for name in given])
    return _checked(Output, given, "") if given else None


def _parameters(given: SamplingParameters | None) -> Parameters:
    members: dict[str, Any] = {}
    for name, value in given.model_dump(exclude_none=True).items() if given is not None else ():
        if name == "stop":
            members[name] = [value] if isinstance(value, str) else value
        else:
            members[name] = decimal_text(value) if isinstance(value, float) else value
    return _checked(Parameters, members, "parameters.")


def _checked(kind: type[Kind], members: dict[str, Any], within: str) -> Kind:
    try:
        return kind.model_validate({to_camel(name): value for name, value in members.items()})
    except ValidationError as error:
        problems = []
        for each in error.errors(include_input=False):
            place = str(each["loc"][0]) if each["loc"] else ""
            name = next((name for name in members if place in (name, to_camel(name))), place)
            problems.append(FieldProblem(f"{within}{name}", str(each["msg"]).removeprefix("Value error, ")))
        raise Invalid.of(problems) from None
