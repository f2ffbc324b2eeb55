"""A request to a plain HTTP API, made from the model's template and what a task asks for. Pure but for the key.

What a task asks for and the template has no place for is refused, not dropped: a result that ignored a seed or half of
a conversation would look like any other.
"""

import json
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import httpx2

from headrace_crds.reasons import Reason
from headrace_crds.remote import HttpApi
from headrace_runner.engine.protocol import PARAMETER_NAMES, Generate, Message
from headrace_runner.providers.chat_wire import request_texts
from headrace_runner.providers.http_template import Body, NoPlace, Path, Text, read_text
from headrace_runner.providers.protocol import Fault, ProviderError, Setting
from headrace_runner.providers.provider_words import sentence

_PARAMETERS: Final = {
    f"parameters.{wire}": name for wire, name in PARAMETER_NAMES.items() if wire not in ("logprobs", "n")
}
_SCHEMA: Final = "output.jsonSchema"
_INPUT: Final = frozenset({"prompt", "system", "messages", "model", _SCHEMA, *_PARAMETERS})
_IN_HEADERS: Final = frozenset({"credential", "model"})
_CREDENTIAL: Final = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")
_NOT_OURS: Final = re.compile(
    "host|content-length|content-encoding|transfer-encoding|connection|keep-alive|te|trailer|upgrade|expect"
    "|accept-encoding|proxy-.*",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Call:
    """A request as it is sent. ``headers`` may hold the key: they are never logged."""

    method: str
    url: httpx2.URL
    headers: dict[str, str]
    content: bytes | None
    repeatable: Callable[[str], str]
    """Of the provider's words what may be repeated: one sentence without the key, nothing of what quotes the input."""


class RequestTemplate:
    """``spec.remote.http`` as far as it says what to send."""

    def __init__(self, setting: Setting, api: HttpApi) -> None:
        """Read it. Raises ValueError that names the field and the remedy."""
        remote = setting.remote
        if remote.base_url is None:
            raise ValueError("spec.remote.baseURL is needed with provider HTTP")
        if setting.extra_body is not None:
            raise ValueError(
                "spec.remote.extraBody has no meaning with provider HTTP: write its members into http.body"
            )
        self.base_url = remote.base_url.rstrip("/")
        self._method, self._model, self._credential = api.method.value, remote.model, setting.credential
        # A call that began with the key before the present one may still fail and repeat it.
        self._sent: deque[str] = deque(maxlen=4)
        self._path = Path(api.path, _INPUT, "spec.remote.http.path")
        self._body = None if api.body is None else Body(api.body, _INPUT, "spec.remote.http.body")
        self._headers = {
            header.name: read_text(header.value, _IN_HEADERS, f"spec.remote.http.headers[{header.name}]")
            for header in api.headers or []
        }
        self._places = self._path.names | (self._body.names if self._body else frozenset())
        self._check(named_secret=remote.credentials is not None, headers=len(api.headers or []))

    def _check(self, *, named_secret: bool, headers: int) -> None:
        if not self._places & {"prompt", "messages"}:
            raise ValueError("spec.remote.http.body needs {{prompt}} or {{messages}}: there is no place for the input")
        if len({name.lower() for name in self._headers}) < headers:
            raise ValueError("spec.remote.http.headers: a header stands there twice")
        for name in self._headers:
            if _NOT_OURS.fullmatch(name):
                raise ValueError(f"spec.remote.http.headers[{name}]: the client sets it: remove it")
        sends_key = any("credential" in text.names for text in self._headers.values())
        if sends_key and not named_secret:
            raise ValueError("spec.remote.http.headers have {{credential}}: spec.remote.credentials is needed")
        if named_secret and not sends_key:
            raise ValueError(
                "spec.remote.credentials are sent nowhere: add a header such as Authorization: Bearer {{credential}}"
            )

    @property
    def has_schema(self) -> bool:
        """The API is given the schema of a result."""
        return _SCHEMA in self._places

    def call(self, request: Generate) -> Call:
        """The request for one completion. Raises ProviderError where the template has no place for what is asked."""
        _refuse_unsupported(request)
        values = self._parameters(request)
        if request.json_schema is not None and self.has_schema:
            values[_SCHEMA] = _json(request.json_schema)
        else:
            request = _with_instruction(request)
        values |= {"model": self._model, **self._conversation(request)}
        try:
            url = httpx2.URL(self.base_url + self._path.render(values))
            content = None if self._body is None else self._body.render(values)
        except (NoPlace, httpx2.InvalidURL) as error:
            message = str(error) if isinstance(error, NoPlace) else "the input makes no URL of spec.remote.http.path"
            raise ProviderError(Fault.TERMINAL, Reason.INVALID_PARAMETERS, message) from None
        headers = self.headers()
        if content is not None and not any(name.lower() == "content-type" for name in headers):
            headers["Content-Type"] = "application/json"
        said = [*request_texts(request)]
        return Call(self._method, url, headers, content, lambda words: sentence(self.redacted(words), said))

    def headers(self) -> dict[str, str]:
        """The headers of every request, with the key as it is at this moment. Raises ProviderError."""
        return {name: self._header(name, text) for name, text in self._headers.items()}

    def redacted(self, words: str) -> str:
        """A provider's words without the key, which some of them repeat."""
        for key in self._sent:
            words = words.replace(key, "…")
        return words

    def _header(self, name: str, text: Text) -> str:
        values: dict[str, Any] = {"model": self._model}
        if "credential" in text.names:
            key = self._credential()
            # A line's end in it would begin another header.
            if not _CREDENTIAL.fullmatch(key):
                raise ProviderError(
                    Fault.UNAVAILABLE,
                    Reason.CREDENTIALS_REFUSED,
                    "the key in the Secret is empty or not one line of ASCII: write it again, without a line's end",
                )
            if key not in self._sent:
                self._sent.append(key)
            values["credential"] = key
        value = text.render(values) or ""
        if not value.isascii() or not value.isprintable():
            raise ProviderError(
                Fault.UNAVAILABLE, Reason.INVALID_SETTINGS, f"spec.remote.http.headers[{name}] is not one line of ASCII"
            )
        return value

    def _parameters(self, request: Generate) -> dict[str, Any]:
        given = request.parameters
        values: dict[str, Any] = {}
        for place, name in _PARAMETERS.items():
            value = getattr(given, name)
            # Where the result has a shape, stop has no effect (protocol.Generate).
            if value is None or value == () or (name == "stop" and _has_shape(request)):
                continue
            if place in self._places:
                values[place] = list(value) if isinstance(value, tuple) else value
            elif name != "max_tokens":  # every task has it, filled in by the operator
                raise ProviderError(
                    Fault.TERMINAL,
                    Reason.INVALID_PARAMETERS,
                    f"this model's API is not given {place}: leave it out, or add {{{{{place}}}}} to http.body",
                )
        return values

    def _conversation(self, request: Generate) -> dict[str, Any]:
        """Values of prompt, system and messages."""
        messages = request.messages or (Message("user", request.prompt or ""),)
        system = [message.content for message in messages if message.role == "system"]
        turns = [message for message in messages if message.role != "system"]
        if system and not self._places & {"system", "messages"}:
            raise _incapable("a system message: add {{system}} or {{messages}} to http.body")
        if "messages" not in self._places and (len(turns) != 1 or turns[0].role != "user"):
            raise _incapable("a conversation: add {{messages}} to http.body, or ask with one user message")
        asked = [message.content for message in turns if message.role == "user"]
        return {
            "prompt": asked[-1] if asked else None,
            "system": "\n\n".join(system) if system else None,
            "messages": [
                {"role": message.role, "content": message.content}
                for message in (turns if "system" in self._places else messages)
            ],
        }


def _refuse_unsupported(request: Generate) -> None:
    if request.tools or any(message.tool_calls or message.tool_call_id for message in request.messages):
        raise ProviderError(
            Fault.TERMINAL, Reason.MODEL_NOT_CAPABLE, "provider HTTP has no tools: use a model with another provider"
        )
    if request.grammar is not None:
        raise ProviderError(
            Fault.TERMINAL,
            Reason.MODEL_NOT_CAPABLE,
            "a grammar needs a local model, as nobody else enforces or judges it: use output.jsonSchema",
        )
    given = request.parameters
    for name, value in (("logitBias", given.logit_bias), ("logprobs", given.logprobs), ("n", given.n)):
        if value not in (None, ()) and (name, value) != ("n", 1):
            raise ProviderError(Fault.TERMINAL, Reason.INVALID_PARAMETERS, f"provider HTTP has no {name}: leave it out")


def _has_shape(request: Generate) -> bool:
    return request.json_schema is not None or request.regex is not None or bool(request.choice)


def _with_instruction(request: Generate) -> Generate:
    """The request with the shape of its result said to the model, where nothing else tells it."""
    words = "\n\n".join(_instructions(request))
    if not words:
        return request
    if not request.messages:
        return replace(request, prompt=f"{request.prompt or ''}\n\n{words}")
    last = max((i for i, message in enumerate(request.messages) if message.role == "user"), default=None)
    if last is None:
        return replace(request, messages=(*request.messages, Message("user", words)))
    asked = replace(request.messages[last], content=f"{request.messages[last].content}\n\n{words}")
    return replace(request, messages=(*request.messages[:last], asked, *request.messages[last + 1 :]))


def _instructions(request: Generate) -> Iterator[str]:
    if request.json_schema is not None:
        yield (
            "Answer with one JSON document that meets this JSON Schema, and with nothing before or after it:\n"
            + request.json_schema
        )
    if request.regex is not None:
        yield f"Answer with a text that this regular expression matches as a whole, and nothing else: {request.regex}"
    if request.choice:
        choice = json.dumps(request.choice, ensure_ascii=False)
        yield f"Answer with exactly one of these texts, and nothing else: {choice}"


def _json(schema: str) -> Any:
    try:
        return json.loads(schema)
    except (ValueError, RecursionError):
        raise ProviderError(Fault.TERMINAL, Reason.INVALID_SCHEMA, "output.jsonSchema is not JSON") from None


def _incapable(what: str) -> ProviderError:
    return ProviderError(Fault.TERMINAL, Reason.MODEL_NOT_CAPABLE, f"this model's API has no place for {what}")
