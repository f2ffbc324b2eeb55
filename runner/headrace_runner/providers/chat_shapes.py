"""What is asked for where the result is to have a shape: a ``response_format``, words to the model, or both.

The runner judges every result by the shape and asks again where it has not, so words alone are enough for a shape that
it can judge. A grammar it cannot: no API of this family enforces one that every server knows, so it is refused.
"""

import json
from dataclasses import dataclass
from typing import Any, Final

from headrace_crds.reasons import Reason
from headrace_runner.engine.protocol import Enforcement, Generate
from headrace_runner.providers.protocol import Fault, ProviderError
from headrace_runner.providers.schemas import Dialect, down_convert

_NAME: Final = "result"
_GRAMMAR: Final = (
    "output.grammar cannot be enforced by this provider, and its result could not be judged: use output.jsonSchema, "
    "output.regex or output.choice, or a local model"
)


@dataclass(frozen=True, slots=True)
class Shape:
    """``enforcement`` is what may be claimed where the API takes the request; None where no shape was asked for."""

    response_format: dict[str, Any] | None = None
    instruction: str | None = None
    enforcement: Enforcement | None = None


def strict_shape(request: Generate) -> Shape:
    """For OpenAI, which enforces a subset of JSON Schema. Raises ProviderError for what it cannot be asked."""
    if request.json_schema is None:
        return _in_words(request)
    try:
        converted = down_convert(request.json_schema, Dialect.OPENAI_STRICT)
    except ValueError:
        raise _invalid_schema() from None
    if converted.schema is None:
        # JSON mode gives objects and nothing else.
        loose = {"type": "json_object"} if _is_object(request.json_schema) else None
        return Shape(loose, _schema_words(request.json_schema), "ValidatedOnly")
    strict = _schema_format(converted.schema)
    if converted.whole:
        return Shape(strict, None, "Provider")
    return Shape(strict, _schema_words(request.json_schema), "ValidatedOnly")


def open_shape(request: Generate) -> Shape:
    """For servers of which nobody knows what they enforce: they get the schema twice, and nothing is claimed."""
    if request.json_schema is None:
        return _in_words(request)
    schema = _parsed(request.json_schema)
    response_format = _schema_format(schema) if isinstance(schema, dict) else None
    return Shape(response_format, _schema_words(request.json_schema), "ValidatedOnly")


def _in_words(request: Generate) -> Shape:
    if request.grammar is not None:
        raise ProviderError(Fault.TERMINAL, Reason.UNSUPPORTED_SCHEMA, _GRAMMAR)
    if request.regex is not None:
        words = (
            "Answer with nothing but a text that this regular expression (Rust's regex syntax) matches as a whole, "
            f"without quotation marks, code fences or explanations:\n{request.regex}"
        )
        return Shape(None, words, "ValidatedOnly")
    if request.choice:
        listed = "\n".join(request.choice)
        words = (
            "Answer with exactly one of the following texts, character by character, without quotation marks, code "
            f"fences or explanations. One is on each line:\n{listed}"
        )
        if any("\n" in choice for choice in request.choice):
            words = (
                "Answer with exactly one of the texts in this JSON array, written without JSON's quotation marks and "
                f"escapes, and without code fences or explanations:\n{json.dumps(request.choice, ensure_ascii=False)}"
            )
        return Shape(None, words, "ValidatedOnly")
    return Shape()


def _schema_words(schema: str) -> str:
    return f"Answer with one JSON document of this JSON Schema, without code fences or explanations:\n{schema}"


def _schema_format(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": _NAME, "schema": schema, "strict": True}}


def _is_object(schema_text: str) -> bool:
    schema = _parsed(schema_text)
    return isinstance(schema, dict) and schema.get("type") == "object"


def _parsed(schema_text: str) -> object:
    try:
        return json.loads(schema_text)
    except (ValueError, RecursionError):
        raise _invalid_schema() from None


def _invalid_schema() -> ProviderError:
    return ProviderError(Fault.TERMINAL, Reason.INVALID_SCHEMA, "output.jsonSchema is not JSON")
