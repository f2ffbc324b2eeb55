"""What all endpoints that generate have in common: sampling parameters, and what asks for nothing and may pass."""

from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, Field

from headrace_crds.inputs import Parameters
from headrace_facade.openai_dialect.wire import Number, Refusals, Wire, listed, wrong
from headrace_facade.submission import decimal_text

MAX_TOKENS: Final = 131072
MaxTokens = Annotated[int, Field(ge=1, le=MAX_TOKENS)]
Stop = Annotated[str, Field(min_length=1, max_length=64)]
BIASES_LIMIT: Final = 300


def _biases(value: object) -> object:
    """{"50256": -100} → [(50256, -100.0)]"""
    if not isinstance(value, dict):
        return value
    if len(value) > BIASES_LIMIT:
        raise wrong(f"holds more than {BIASES_LIMIT} tokens")
    pairs = []
    for token, bias in value.items():
        if not (token.isascii() and token.isdigit() and len(token) <= 9):
            raise wrong('its names need to be token ids of the model, such as "50256"')
        if isinstance(bias, bool) or not isinstance(bias, int | float) or not -100 <= bias <= 100:
            raise wrong("its values need to be numbers from -100 to 100")
        pairs.append((int(token), float(bias)))
    return pairs


LogitBias = Annotated[list[tuple[int, float]], BeforeValidator(_biases)]


class Sampling(Wire):
    """The names of OpenAI's API, and three of llama.cpp's that its clients can send as `extra_body`."""

    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=1000)] | None = None
    min_p: Annotated[Number, Field(ge=0, le=1)] | None = None


class Penalties(Sampling):
    presence_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None
    repeat_penalty: Annotated[Number, Field(gt=0, le=4)] | None = None
    seed: Annotated[int, Field(ge=0, le=4294967294)] | None = None
    stop: Annotated[list[Stop], Field(max_length=8, fail_fast=True), listed()] | None = None
    logit_bias: LogitBias | None = None
    n: Annotated[int, Field(ge=1, le=16)] = 1


class StreamOptions(Wire):
    include_usage: bool = False
    include_obfuscation: Literal[False] = False
    """Padding against observers of the connection's lengths."""


_DECIMALS: Final = ("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repeat_penalty")
_WHOLE: Final = ("top_k", "seed", "stop")

PASSED_OVER: Final[Refusals] = {
    "service_tier": ("there is one tier: leave it out", ("auto", "default")),
    "store": ("nothing is kept of a call: leave it out or send false", (False,)),
}
"""Refused but for the values that ask for nothing."""


class Labels(Wire):
    """Taken and not looked at: they change nothing in the answer."""

    user: Annotated[str, Field(max_length=512)] | None = None
    safety_identifier: Annotated[str, Field(max_length=512)] | None = None
    prompt_cache_key: Annotated[str, Field(max_length=512)] | None = None
    prompt_cache_retention: Annotated[str, Field(max_length=64)] | None = None
    metadata: dict[str, str] | None = None


def parameters(sampling: Sampling, max_tokens: int | None) -> Parameters:
    """In the words of the objects; decimals are texts there."""
    given: dict[str, object] = {"max_tokens": max_tokens}
    given |= {name: decimal_text(value) for name in _DECIMALS if (value := getattr(sampling, name, None)) is not None}
    given |= {name: value for name in _WHOLE if (value := getattr(sampling, name, None)) is not None}
    # An empty list of stops would take away the model's own.
    return Parameters.model_validate({name: value for name, value in given.items() if value not in (None, [])})
