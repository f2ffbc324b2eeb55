"""What tokens cost, in one place for runner, operator and facade. Integers alone: no rounding but the last.

A price is per million tokens, so a token at a price of 1 costs one micro (a millionth of the currency).
"""

from dataclasses import dataclass, replace
from typing import Final

from headrace_crds.remote import Price
from headrace_crds.result import Usage
from headrace_crds.work import Work

COUNT_LIMIT: Final = (1 << 53) - 1
"""Of tokens and micros: what Redis' scripts and every reader of JSON keep exactly."""
RESERVED_BYTES_PER_TOKEN: Final = 3
"""Of an input that nobody has counted yet; prose has four and more, digits and rare scripts fewer."""
QUOTED_TOKENS: Final = 2_000
"""Of a refused text, as far as a repair quotes it: 2,000 characters."""
COMPLAINT_TOKENS: Final = 250
"""What is said to be wrong with it."""

MESSAGE_OVERHEAD_TOKENS: Final = 8
"""Marks that a chat template or an API puts around a message, a tool or a text to embed."""

_SCALE: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Spend:
    """What an attempt took, or may take. `currency` is empty where the model has no price."""

    tokens: int = 0
    """Of input and result together; those of reasoning are part of the result, cached ones of the input."""
    cost_micros: int = 0
    currency: str = ""


def cost_micros(price: Price, *, prompt_tokens: int, cached_tokens: int, completion_tokens: int) -> int:
    """Rounded half up to a whole micro. `cached_tokens` are of the prompt: more than that counts as all of it."""
    cached = min(cached_tokens, prompt_tokens)
    cached_price = price.cached_input_per_million_tokens
    total = (prompt_tokens - cached) * _scaled(price.input_per_million_tokens)
    total += cached * _scaled(price.input_per_million_tokens if cached_price is None else cached_price)
    total += completion_tokens * _scaled(price.output_per_million_tokens)
    return min((total + _SCALE // 2) // _SCALE, COUNT_LIMIT)


def billed(usage: Usage, price: Price | None) -> Usage:
    """The usage with what it cost; as it is where there is no price."""
    if price is None:
        return usage
    cost = cost_micros(
        price,
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        completion_tokens=usage.completion_tokens,
    )
    return usage.model_copy(update={"cost_micros": cost, "currency": price.currency})


def spend_of(usage: Usage) -> Spend:
    """Of a usage as it stands in an object, whoever wrote it."""
    tokens = min(usage.prompt_tokens + usage.completion_tokens, COUNT_LIMIT)
    return Spend(tokens, min(usage.cost_micros or 0, COUNT_LIMIT), usage.currency or "")


def may_take(work: Work) -> Spend:
    """What one attempt is reserved: the input and maxTokens, once and for every repair that the task allows.

    The input is estimated from its bytes. A repair has it too, and all refused texts before it with what is wrong.
    """
    texts = [message.text for message in work.messages] + work.embed
    texts += [text for tool in work.tools for text in (tool.description or "", tool.parameters or "")]
    repairs = 0
    if work.output is not None:
        texts += work.output.texts()
        repairs = work.output.max_repairs
    calls = [call.arguments for message in work.messages for call in message.tool_calls or []]
    size_bytes = sum(len(text.encode(errors="replace")) for text in [*texts, *calls])
    once = _tokens(size_bytes) + (len(work.messages) + len(work.tools) + len(work.embed)) * MESSAGE_OVERHEAD_TOKENS
    most = 0 if work.embed else work.parameters.max_tokens or 0
    complaint = min(QUOTED_TOKENS, most) + COMPLAINT_TOKENS + 2 * MESSAGE_OVERHEAD_TOKENS
    prompt = once * (1 + repairs) + complaint * repairs * (repairs + 1) // 2
    completion = most * (1 + repairs)
    reserved = Spend(min(prompt + completion, COUNT_LIMIT))
    if work.price is None:
        return reserved
    cost = cost_micros(work.price, prompt_tokens=prompt, cached_tokens=0, completion_tokens=completion)
    return replace(reserved, cost_micros=cost, currency=work.price.currency)


def _tokens(size_bytes: int) -> int:
    return -(-size_bytes // RESERVED_BYTES_PER_TOKEN)


def _scaled(decimal: str) -> int:
    """Millionths of a decimal of at most six fraction digits (`base.DECIMAL`)."""
    whole, _, fraction = decimal.partition(".")
    return int(whole) * _SCALE + int(fraction.ljust(6, "0") or "0")
