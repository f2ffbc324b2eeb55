"""Requests from a template: what has no place is refused, and the key goes where it may."""

import json
from typing import Any

import httpx2
import pytest

from headrace_crds.reasons import Reason
from headrace_crds.remote import Remote
from headrace_runner.engine.protocol import Generate, Message, Parameters
from headrace_runner.engine.tools import Tool
from headrace_runner.providers.http_request import RequestTemplate
from headrace_runner.providers.protocol import Fault, ProviderError, Setting

PROMPT_ONLY = '{"p": "{{prompt}}", "max": "{{parameters.maxTokens}}"}'
SCHEMA = '{"type": "object", "properties": {"z": {}, "a": {}}}'
CREDENTIALS = {"secretKeyRef": {"name": "s", "key": "k"}}
AUTHORIZATION = {"name": "Authorization", "value": "Bearer {{credential}}"}


def template(body: str | None = PROMPT_ONLY, *, key: str = "k-1", remote: Any = None, **http: Any) -> RequestTemplate:
    spec = Remote.model_validate(
        {
            "provider": "HTTP",
            "model": "org/m",
            "baseURL": "https://llm.example.com/v1/",
            "http": {"body": body, "response": {"text": "/text"}, **http},
            **(remote or {}),
        }
    )
    assert spec.http is not None
    extra = None if spec.extra_body is None else json.loads(spec.extra_body)
    # The client is never asked: these tests send nothing.
    return RequestTemplate(Setting(spec, httpx2.AsyncClient(), lambda: key, extra_body=extra), spec.http)


def body_of(made: RequestTemplate, request: Generate) -> Any:
    content = made.call(request).content
    assert content is not None
    return json.loads(content)


def refusal(made: RequestTemplate, request: Generate) -> ProviderError:
    with pytest.raises(ProviderError) as refused:
        made.call(request)
    return refused.value


def asked(**given: Any) -> Generate:
    return Generate("g", **({"prompt": "hi"} | given))


def test_method_url_headers_and_body() -> None:
    made = template(
        path="/models/{{model}}/run?v=1", method="PUT", headers=[AUTHORIZATION], remote={"credentials": CREDENTIALS}
    )
    call = made.call(asked(parameters=Parameters(max_tokens=5)))
    assert (call.method, str(call.url)) == ("PUT", "https://llm.example.com/v1/models/org%2Fm/run?v=1")
    assert call.headers == {"Authorization": "Bearer k-1", "Content-Type": "application/json"}
    assert json.loads(call.content or b"") == {"p": "hi", "max": 5}


def test_a_get_has_its_input_in_the_query() -> None:
    call = template(None, method="GET", path="?q={{prompt}}").call(asked(prompt="a&b=c #é"))
    assert str(call.url) == "https://llm.example.com/v1?q=a%26b%3Dc%20%23%C3%A9"
    assert (call.content, call.headers) == (None, {})


def test_system_stands_beside_the_turns_where_the_template_has_a_place_for_both() -> None:
    request = asked(prompt=None, messages=(Message("system", "s"), Message("user", "u"), Message("assistant", "a")))
    turns = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
    assert body_of(template('{"m": "{{messages}}"}'), request) == {"m": [{"role": "system", "content": "s"}, *turns]}
    assert body_of(template('{"m": "{{messages}}", "s": "{{system}}"}'), request) == {"m": turns, "s": "s"}


@pytest.mark.parametrize(
    ("messages", "place"),
    [
        ((Message("system", "s"), Message("user", "u")), "{{system}}"),
        ((Message("user", "u"), Message("assistant", "a"), Message("user", "v")), "{{messages}}"),
        ((Message("assistant", "a"),), "{{messages}}"),
    ],
)
def test_a_conversation_without_a_place_is_refused(messages: tuple[Message, ...], place: str) -> None:
    error = refusal(template(), asked(prompt=None, messages=messages))
    assert (error.fault, error.reason) == (Fault.TERMINAL, Reason.MODEL_NOT_CAPABLE)
    assert place in error.message


GIVEN = {
    "temperature": (0.5, "temperature"),
    "topP": (0.5, "top_p"),
    "topK": (3, "top_k"),
    "minP": (0.1, "min_p"),
    "seed": (0, "seed"),
    "stop": (("a",), "stop"),
    "presencePenalty": (1.0, "presence_penalty"),
    "frequencyPenalty": (1.0, "frequency_penalty"),
    "repeatPenalty": (1.1, "repeat_penalty"),
}


@pytest.mark.parametrize("wire", GIVEN)
def test_a_parameter_is_sent_or_refused_by_name(wire: str) -> None:
    value, name = GIVEN[wire]
    request = asked(parameters=Parameters(**{name: value}))
    error = refusal(template(), request)
    assert (error.fault, error.reason) == (Fault.TERMINAL, Reason.INVALID_PARAMETERS)
    assert f"parameters.{wire}" in error.message
    sent = body_of(template(f'{{"p": "{{{{prompt}}}}", "x": "{{{{parameters.{wire}}}}}"}}'), request)["x"]
    assert sent == (list(value) if isinstance(value, tuple) else value)


def test_max_tokens_alone_may_have_no_place() -> None:
    assert body_of(template('{"p": "{{prompt}}"}'), asked(parameters=Parameters(max_tokens=5))) == {"p": "hi"}


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (asked(tools=(Tool("f"),)), Reason.MODEL_NOT_CAPABLE),
        (asked(grammar='root ::= "a"'), Reason.MODEL_NOT_CAPABLE),
        (asked(prompt=None, messages=(Message("tool", "1", tool_call_id="c"),)), Reason.MODEL_NOT_CAPABLE),
        (asked(parameters=Parameters(n=2)), Reason.INVALID_PARAMETERS),
        (asked(parameters=Parameters(logprobs=0)), Reason.INVALID_PARAMETERS),
        (asked(parameters=Parameters(logit_bias=((1, 1.0),))), Reason.INVALID_PARAMETERS),
    ],
)
def test_what_no_plain_api_is_given_is_refused(request_: Generate, reason: Reason) -> None:
    error = refusal(template('{"m": "{{messages}}"}'), request_)
    assert (error.fault, error.reason) == (Fault.TERMINAL, reason)


def test_a_schema_with_a_place_is_a_value_and_its_order_is_kept() -> None:
    made = template('{"p": "{{prompt}}", "format": "{{output.jsonSchema}}"}')
    # With a shape, stop has no effect: it needs no place.
    request = asked(json_schema=SCHEMA, parameters=Parameters(stop=("}",)))
    assert made.has_schema
    assert body_of(made, request) == {"p": "hi", "format": json.loads(SCHEMA)}
    assert (made.call(request).content or b"").find(b'"z"') < (made.call(request).content or b"").find(b'"a"')


@pytest.mark.parametrize(
    ("shape", "words"),
    [({"json_schema": SCHEMA}, SCHEMA), ({"regex": "[ab]+"}, "[ab]+"), ({"choice": ("yes", "no")}, '["yes", "no"]')],
)
def test_a_shape_without_a_place_is_said_to_the_model(shape: dict[str, Any], words: str) -> None:
    prompt = body_of(template(), asked(**shape))["p"]
    assert prompt.startswith("hi\n\nAnswer with")
    assert prompt.endswith(words)
    conversation = (Message("user", "u"), Message("assistant", "a"))
    messages = body_of(template('{"m": "{{messages}}"}'), asked(prompt=None, messages=conversation, **shape))["m"]
    assert messages[0]["content"].startswith("u\n\nAnswer with")
    assert messages[1] == {"role": "assistant", "content": "a"}


@pytest.mark.parametrize("key", ["", "a\nb", "a\r\nX-Evil: 1", "a\x00", "schlüssel", " k-1", "k-1\n"])
def test_a_key_that_is_no_header_is_not_sent(key: str) -> None:
    made = template(key=key, headers=[AUTHORIZATION], remote={"credentials": CREDENTIALS})
    error = refusal(made, asked())
    assert (error.fault, error.reason) == (Fault.UNAVAILABLE, Reason.CREDENTIALS_REFUSED)
    assert not key or key not in error.message


def test_words_of_the_provider_lose_every_key_that_was_sent() -> None:
    made = template(key="k-1", headers=[AUTHORIZATION], remote={"credentials": CREDENTIALS})
    assert made.redacted("bad k-1") == "bad k-1"
    made.call(asked())
    assert made.redacted("bad k-1, twice k-1") == "bad …, twice …"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"body": '{"p": 1}'}, "needs {{prompt}} or {{messages}}"),
        ({"body": None}, "needs {{prompt}} or {{messages}}"),
        ({"path": "/x?key={{credential}}"}, "http.path: {{credential}} is for headers only"),
        ({"headers": [{"name": "X", "value": "{{prompt}}"}]}, "http.headers[X]: unknown placeholder {{prompt}}"),
        ({"headers": [{"name": "Host", "value": "x"}]}, "http.headers[Host]: the client sets it"),
        ({"headers": [{"name": "X", "value": "1"}, {"name": "x", "value": "2"}]}, "stands there twice"),
        ({"headers": [AUTHORIZATION]}, "spec.remote.credentials is needed"),
        ({"remote": {"credentials": CREDENTIALS}}, "spec.remote.credentials are sent nowhere"),
        ({"remote": {"extraBody": '{"a": 1}'}}, "spec.remote.extraBody"),
        ({"remote": {"baseURL": None}}, "spec.remote.baseURL"),
    ],
)
def test_a_spec_that_cannot_be_served_is_refused_by_name(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError) as refused:
        template(**given)
    assert says in str(refused.value)
