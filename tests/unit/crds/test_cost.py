"""What tokens cost, to the micro, and what an attempt is reserved."""

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_crds.cost import COUNT_LIMIT, Spend, billed, cost_micros, may_take, spend_of
from headrace_crds.inputs import Output
from headrace_crds.model import LLMModel
from headrace_crds.remote import Price
from headrace_crds.result import Usage
from headrace_crds.task import LLMTask
from headrace_crds.work import Work, resolve


def price(input_: str, output: str, cached: str | None = None, currency: str = "USD") -> Price:
    return Price(
        currency=currency,
        input_per_million_tokens=input_,
        cached_input_per_million_tokens=cached,
        output_per_million_tokens=output,
    )


@pytest.mark.parametrize(
    ("asked", "tokens", "micros"),
    [
        (price("1", "2"), (0, 0, 0), 0),
        (price("1", "2"), (1_000_000, 0, 0), 1_000_000),
        (price("3", "15"), (1_000, 0, 500), 3_000 + 7_500),
        # 400 of the thousand were cached: 600 · 3 + 400 · 0.3
        (price("3", "15", "0.3"), (1_000, 400, 500), 1_800 + 120 + 7_500),
        (price("3", "15"), (1_000, 400, 0), 3_000),
        (price("3", "15", "0"), (1_000, 1_000, 0), 0),
        # More cached than there was: all of it.
        (price("3", "15", "1"), (10, 99, 0), 10),
        (price("0.15", "0.6"), (7, 0, 0), 1),  # 1.05
        (price("0.5", "0.6"), (1, 0, 0), 1),  # 0.5 is rounded up
        (price("0.499999", "0.6"), (1, 0, 0), 0),
        (price("0.5", "0.25"), (1, 0, 3), 1),  # 1.25: the sum is rounded, not its parts
        (price("0.075", "0.3"), (20, 0, 10), 5),  # 4.5
        # 0.1 + 0.2 in floating point would be more than 0.3
        (price("0.1", "0.2"), (5, 0, 5), 2),  # 1.5
        (price("0.000001", "0"), (499_999, 0, 0), 0),
        (price("0.000001", "0"), (500_000, 0, 0), 1),
        (price("999999.999999", "0"), (1, 0, 0), 1_000_000),
        (price("999999", "0"), (1 << 53, 0, 0), COUNT_LIMIT),
    ],
)
def test_costs_are_exact_and_rounded_half_up_once(asked: Price, tokens: tuple[int, int, int], micros: int) -> None:
    prompt, cached, completion = tokens
    assert cost_micros(asked, prompt_tokens=prompt, cached_tokens=cached, completion_tokens=completion) == micros


DECIMALS = st.from_regex(r"[0-9]{1,4}(\.[0-9]{1,6})?", fullmatch=True)


@given(DECIMALS, DECIMALS, DECIMALS, *[st.integers(0, 10_000_000)] * 3)
def test_a_cost_is_within_half_a_micro_of_the_exact_one(
    input_: str, output: str, cached: str, prompt: int, hit: int, completion: int
) -> None:
    hit = min(hit, prompt)
    asked = price(input_, output, cached)
    told = cost_micros(asked, prompt_tokens=prompt, cached_tokens=hit, completion_tokens=completion)
    exact = (prompt - hit) * Fraction(input_) + hit * Fraction(cached) + completion * Fraction(output)
    assert -Fraction(1, 2) < told - exact <= Fraction(1, 2) or told == COUNT_LIMIT


def test_a_usage_is_billed_where_there_is_a_price() -> None:
    usage = Usage(prompt_tokens=1_000, cached_tokens=400, completion_tokens=500, reasoning_tokens=100)
    assert billed(usage, None) is usage
    bill = billed(usage, price("3", "15", "0.3", "EUR"))
    assert bill.dump() == {
        "promptTokens": 1_000,
        "cachedTokens": 400,
        "completionTokens": 500,
        "reasoningTokens": 100,
        "costMicros": 9_420,
        "currency": "EUR",
    }
    assert spend_of(bill) == Spend(1_500, 9_420, "EUR")
    assert spend_of(usage) == Spend(1_500, 0, "")


def model(**spec: Any) -> LLMModel:
    local = {"source": {"persistentVolumeClaim": {"claimName": "c", "path": "m.gguf"}}}
    return LLMModel.model_validate({"metadata": {"name": "m"}, "spec": {"local": local, **spec}})


def work(asked: LLMModel, **spec: Any) -> Work:
    spec = {"modelRef": {"name": "m"}, "prompt": "x" * 300, "parameters": {"maxTokens": 50}, **spec}
    return resolve(LLMTask.model_validate({"metadata": {"name": "t"}, "spec": spec}), asked)


PRICE = {"inputPerMillionTokens": "1", "outputPerMillionTokens": "10"}


def test_an_attempt_is_reserved_its_input_and_the_longest_result() -> None:
    # 300 bytes at three a token, eight for the message.
    assert may_take(work(model())) == Spend(108 + 50)
    assert may_take(work(model(price=PRICE))) == Spend(108 + 50, 108 + 500, "USD")
    assert may_take(work(model(defaults={"maxTokens": 7}), parameters={})) == Spend(108 + 7)


def test_every_repair_is_reserved_with_what_it_quotes() -> None:
    shape = {"jsonSchema": "{}", "maxRepairs": 2}
    # Twice the schema's two bytes; a complaint is 50 quoted tokens, 250 of words and two messages.
    once, complaint = 101 + 8, 50 + 250 + 16
    assert may_take(work(model(), output=shape)) == Spend(3 * once + complaint + 2 * complaint + 3 * 50)
    assert may_take(work(model(), output={**shape, "maxRepairs": 0})) == Spend(once + 50)
    default = work(model(), output={"jsonSchema": "{}"})
    assert default.output is not None
    assert default.output.max_repairs == Output().max_repairs
    assert may_take(default).tokens > may_take(work(model())).tokens


def test_texts_to_embed_have_no_result() -> None:
    embedding = model(capabilities=["Embedding"], price=PRICE)
    asked = work(embedding, prompt=None, embed={"input": ["x" * 30, "y" * 31]}, parameters=None)
    assert may_take(asked) == Spend(21 + 16, 21 + 16, "USD")


def test_messages_and_tools_count() -> None:
    messages = [{"role": "user", "content": "é" * 30}, {"role": "user", "content": "b" * 30}]
    tools = [{"name": "f", "description": "d" * 30, "parameters": "{}"}]
    with_tools = may_take(work(model(), prompt=None, messages=messages, tools=tools))
    without = may_take(work(model(), prompt=None, messages=messages))
    assert without == Spend(30 + 16 + 50), "bytes, not characters"
    assert with_tools.tokens == -(-(60 + 30 + 32) // 3) + 24 + 50


@given(st.integers(0, 200), st.integers(1, 500), st.integers(0, 5))
def test_what_is_reserved_covers_every_try_of_prose(size: int, most: int, repairs: int) -> None:
    """As long as a token has three bytes and quotes are no longer than what is quoted."""
    asked = work(
        model(price=PRICE),
        prompt="x" * (size + 1),
        parameters={"maxTokens": most},
        output={"jsonSchema": "{}", "maxRepairs": repairs},
    )
    prompt = completion = 0
    for number in range(repairs + 1):
        prompt += (size + 1) // 3 + number * (most + 200)
        completion += most
    usage = Usage(prompt_tokens=prompt, completion_tokens=completion)
    spent = spend_of(billed(usage, asked.price))
    reserved = may_take(asked)
    assert spent.tokens <= reserved.tokens
    assert spent.cost_micros <= reserved.cost_micros
