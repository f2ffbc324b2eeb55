"""What a refusal of OpenAI's API, or of one like it, means: one table each, the first rule that fits counts.

Sources: https://platform.openai.com/docs/guides/error-codes and the SDK's ``types/shared/error_object.py`` (the object
``error`` with ``message``, ``type``, ``param``, ``code``); llama.cpp ``tools/server/README.md`` (``code`` is a status,
``type`` ``exceed_context_size_error``, ``unavailable_error``); vLLM ``entrypoints/openai`` (``code`` is a status; older
ones without ``error`` around it); https://openrouter.ai/docs/api-reference/errors (402, and 403 for flagged input).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from headrace_crds.reasons import Reason
from headrace_runner.providers.protocol import Fault, ProviderError
from headrace_runner.providers.provider_words import sentence
from headrace_runner.providers.rate_headers import retry_after_seconds

_FIELD: Final = re.compile(r"[A-Za-z0-9_.\[\]-]{1,64}")
_OUR_FIELDS: Final[Mapping[str, str]] = {
    "temperature": "parameters.temperature",
    "max_completion_tokens": "parameters.maxTokens",
    "max_tokens": "parameters.maxTokens",
    "top_p": "parameters.topP",
    "top_k": "parameters.topK",
    "min_p": "parameters.minP",
    "seed": "parameters.seed",
    "stop": "parameters.stop",
    "presence_penalty": "parameters.presencePenalty",
    "frequency_penalty": "parameters.frequencyPenalty",
    "repetition_penalty": "parameters.repeatPenalty",
    "repeat_penalty": "parameters.repeatPenalty",
    "logit_bias": "parameters.logitBias",
    "logprobs": "parameters.logprobs",
    "top_logprobs": "parameters.logprobs",
    "n": "parameters.n",
    "response_format": "output",
    "tools": "tools",
    "tool_choice": "toolChoice",
    "messages": "messages",
    "input": "embed",
    "model": "spec.remote.model",
}


@dataclass(frozen=True, slots=True)
class Complaint:
    """An error object as the provider sent it; ``status`` is one that stands in its ``code``."""

    message: str = ""
    type: str = ""
    code: str = ""
    param: str = ""
    status: int | None = None

    @property
    def words(self) -> frozenset[str]:
        return frozenset({self.type.lower(), self.code.lower()}) - {""}

    def names(self, member: str) -> bool:
        """Whether it is about this member of the request's body."""
        return self.param.split(".")[0] == member or (not self.param and member in self.message)


@dataclass(frozen=True, slots=True)
class Rule:
    """Fits a refusal whose status is one of ``statuses`` and whose type or code one of ``words``; none given: any.

    ``phrase`` has to be in its message, in small letters; ``member`` is what it has to be about. ``quoted``: the
    provider's own sentence helps, and says nothing of keys and accounts.
    """

    fault: Fault
    reason: Reason
    remedy: str
    statuses: frozenset[int] = frozenset()
    words: frozenset[str] = frozenset()
    phrase: str = ""
    member: str = ""
    quoted: bool = False

    def fits(self, status: int | None, complaint: Complaint) -> bool:
        return (
            (not self.statuses or status in self.statuses)
            and (not self.words or not self.words.isdisjoint(complaint.words))
            and self.phrase in complaint.message.lower()
            and (not self.member or complaint.names(self.member))
        )


def _rule(fault: Fault, reason: Reason, remedy: str, *statuses: int, words: str = "", **more: Any) -> Rule:
    return Rule(fault, reason, remedy, frozenset(statuses), frozenset(words.split()), **more)


_TOO_LONG: Final = "the input, with what the result may have, is longer than the model's context: shorten it"
_REFUSED: Final = "the provider refuses this content by its policy: change the input"
_NO_MODEL: Final = "the provider knows no such model for this account: check spec.remote.model and spec.remote.baseURL"
_NO_CREDIT: Final = "the account's credit or budget is spent: add to it, or raise its limit, at the provider"
_CREDENTIALS: Final = (
    "the provider refuses the key: check the Secret that spec.remote.credentials names, and its rights"
)
_WAIT: Final = "the provider's rate limit is reached: it passes by itself; spec.remote.limits keeps below it"
_TOO_LARGE: Final = "the request is larger than the provider takes at all from this account: shorten the input"
_SCHEMA: Final = "the provider cannot enforce this output: simplify output.jsonSchema"
_PARAMETERS: Final = "the provider refuses the request"
_FAILED: Final = "the provider failed; another try may go better"
_BUSY: Final = "the provider has no room at the moment"

OPENAI_RULES: Final = (
    _rule(
        Fault.UNAVAILABLE,
        Reason.PROVIDER_QUOTA_EXHAUSTED,
        _NO_CREDIT,
        words="insufficient_quota billing_hard_limit_reached billing_not_active insufficient_balance",
    ),
    _rule(Fault.UNAVAILABLE, Reason.PROVIDER_QUOTA_EXHAUSTED, _NO_CREDIT, 402),
    _rule(Fault.TERMINAL, Reason.CONTEXT_LENGTH_EXCEEDED, _TOO_LONG, words="context_length_exceeded", quoted=True),
    _rule(
        Fault.TERMINAL,
        Reason.CONTENT_REFUSED,
        _REFUSED,
        words="content_filter content_policy_violation invalid_prompt moderation_blocked",
    ),
    _rule(Fault.UNAVAILABLE, Reason.REMOTE_MODEL_NOT_FOUND, _NO_MODEL, words="model_not_found"),
    # A limit per minute that this one request is above: waiting never helps.
    _rule(Fault.TERMINAL, Reason.INPUT_TOO_LARGE, _TOO_LARGE, 413, 429, phrase="request too large", quoted=True),
    _rule(Fault.RATE_LIMITED, Reason.RATE_LIMITED, _WAIT, 429),
    _rule(Fault.RATE_LIMITED, Reason.RATE_LIMITED, _WAIT, words="rate_limit_exceeded rate_limit_error"),
    _rule(Fault.OVERLOADED, Reason.PROVIDER_OVERLOADED, _BUSY, 503, 529),
    _rule(
        Fault.OVERLOADED,
        Reason.PROVIDER_OVERLOADED,
        _BUSY,
        words="overloaded overloaded_error server_overloaded engine_overloaded slow_down unavailable_error",
    ),
    _rule(Fault.UNAVAILABLE, Reason.CREDENTIALS_REFUSED, _CREDENTIALS, 401, 403),
    _rule(Fault.UNAVAILABLE, Reason.CREDENTIALS_REFUSED, _CREDENTIALS, words="invalid_api_key authentication_error"),
    _rule(Fault.UNAVAILABLE, Reason.REMOTE_MODEL_NOT_FOUND, _NO_MODEL, 404),
    _rule(Fault.TERMINAL, Reason.INPUT_TOO_LARGE, _TOO_LARGE, 413),
    _rule(Fault.TRANSIENT, Reason.PROVIDER_FAILED, _FAILED, 408, 409, 425),
    _rule(Fault.TERMINAL, Reason.UNSUPPORTED_SCHEMA, _SCHEMA, 400, 422, member="response_format", quoted=True),
    _rule(Fault.TERMINAL, Reason.INVALID_PARAMETERS, _PARAMETERS, *range(400, 500), quoted=True),
    _rule(Fault.TERMINAL, Reason.INVALID_PARAMETERS, _PARAMETERS, words="invalid_request_error", quoted=True),
    _rule(
        Fault.UNAVAILABLE,
        Reason.PROVIDER_FAILED,
        "the API answers with a redirect, which is not followed: set spec.remote.baseURL to where it is",
        *range(300, 400),
    ),
    _rule(Fault.TRANSIENT, Reason.PROVIDER_FAILED, _FAILED),
)
"""Of api.openai.com. The last rule fits everything."""

_LONG_STATUSES: Final = (400, 413, 422)
COMPATIBLE_RULES: Final = (
    _rule(Fault.TERMINAL, Reason.CONTEXT_LENGTH_EXCEEDED, _TOO_LONG, words="exceed_context_size_error", quoted=True),
    # vLLM and most others say it in words alone.
    *(
        _rule(
            Fault.TERMINAL,
            Reason.CONTEXT_LENGTH_EXCEEDED,
            _TOO_LONG,
            *_LONG_STATUSES,
            phrase=phrase,
            quoted=True,
        )
        for phrase in ("maximum context length", "context size", "context window", "maximum model length")
    ),
    _rule(Fault.TERMINAL, Reason.CONTENT_REFUSED, _REFUSED, 403, phrase="flagged"),
    _rule(Fault.TERMINAL, Reason.INVALID_PARAMETERS, _PARAMETERS, 501, quoted=True),
    *(
        _rule(Fault.TERMINAL, Reason.UNSUPPORTED_SCHEMA, _SCHEMA, 400, 422, phrase=phrase, quoted=True)
        for phrase in ("grammar", "json_schema", "json schema")
    ),
    *OPENAI_RULES,
)
"""Of servers that speak OpenAI's language."""


def read_complaint(body: object) -> Complaint:
    """Read an error's body, whatever it is: ``{"error": {…}}``, ``{"error": "…"}``, the object itself, or no JSON."""
    if not isinstance(body, Mapping):
        return Complaint()
    inner = body.get("error", body)
    body = inner if isinstance(inner, Mapping) else {"message": inner}
    if "detail" in body and "message" not in body:
        return _fastapi_complaint(body.get("detail"))
    code = body.get("code")
    status = _status(code)
    return Complaint(
        message=_text(body.get("message")),
        type=_text(body.get("type")),
        code="" if status is not None else _text(code),
        param=_text(body.get("param")),
        status=status,
    )


def _fastapi_complaint(detail: object) -> Complaint:
    """FastAPI's own: ``{"detail": "…"}``, or ``{"detail": [{"loc": ["body", "stop"], "msg": "…", "input": …}]}``."""
    first = detail[0] if isinstance(detail, list) and detail else detail
    if not isinstance(first, Mapping):
        return Complaint(message=_text(first))
    place = first.get("loc")
    words = [str(each) for each in place[:8] if each != "body"] if isinstance(place, list) else []
    return Complaint(message=_text(first.get("msg")), param=".".join(words))


def error_of(
    rules: Iterable[Rule],
    status: int | None,
    complaint: Complaint,
    *,
    headers: Mapping[str, str] | None = None,
    said: Iterable[str] = (),
) -> ProviderError:
    """The error that a refusal is; ``said`` is what the request and its headers held, which no message repeats."""
    status = status if status is not None else complaint.status
    rule = next(each for each in rules if each.fits(status, complaint))
    message = rule.remedy
    field = _field(complaint.param)
    if field and rule.quoted:
        message = f"{message} ({field})"
    if rule.quoted and (quoted := sentence(complaint.message, said)):
        message = f"{message}; it says: {quoted}"
    wait: float | None = None
    if headers is not None and rule.fault in (Fault.RATE_LIMITED, Fault.OVERLOADED):
        wait = retry_after_seconds(headers, resets=rule.fault is Fault.RATE_LIMITED)
    return ProviderError(rule.fault, rule.reason, message, retry_after_seconds=wait, status=status)


def _field(param: str) -> str:
    if not _FIELD.fullmatch(param):
        return ""
    return _OUR_FIELDS.get(param, _OUR_FIELDS.get(param.split(".")[0].split("[")[0], param))


def _status(code: object) -> int | None:
    if isinstance(code, str) and code.isascii() and code.isdigit():
        code = int(code[:9])
    return code if isinstance(code, int) and not isinstance(code, bool) and 300 <= code < 600 else None


def _text(value: object) -> str:
    return value[:2000] if isinstance(value, str) else ""
