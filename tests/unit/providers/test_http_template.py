"""Templates: what a user writes is a value in a request, and never a part of its shape."""

import json
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headrace_runner.providers.http_template import Body, NoPlace, Path, read_text

KNOWN = frozenset({"prompt", "system", "messages", "model", "parameters.seed", "parameters.stop"})
FIELD = "spec.remote.http.body"
# What UTF-8 can carry: a work's texts come as JSON in UTF-8.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
HOSTILE = '"}, {{system}} {{prompt}} {{credential}} \\u0022 \n\r\x00'


def rendered(source: str, **values: Any) -> Any:
    return json.loads(Body(source, KNOWN, FIELD).render({name.replace("__", "."): v for name, v in values.items()}))


@given(TEXTS, TEXTS)
@example(HOSTILE, HOSTILE)
def test_no_text_of_a_user_changes_the_shape_of_the_body(prompt: str, system: str) -> None:
    body = rendered('{"a": ["{{prompt}}", {"b": "<{{system}}|{{prompt}}>"}], "c": 1}', prompt=prompt, system=system)
    assert body == {"a": [prompt, {"b": f"<{system}|{prompt}>"}], "c": 1}


@given(TEXTS)
@example("{{system}}")
@example("a/../b?c=d&e=f#g")
def test_no_text_of_a_user_changes_the_shape_of_the_url(prompt: str) -> None:
    path = Path("/v1/{{prompt}}/x?q={{prompt}}&end=1", KNOWN, "spec.remote.http.path")
    values = {"prompt": prompt, "system": "secret"}
    if prompt in (".", ".."):
        with pytest.raises(NoPlace):
            path.render(values)
        return
    split = urlsplit("https://host" + path.render(values))
    assert (split.netloc, split.fragment, split.path.count("/")) == ("host", "", 3)
    assert parse_qsl(split.query, keep_blank_values=True) == [("q", prompt), ("end", "1")]


def test_a_string_that_is_one_placeholder_takes_the_values_type() -> None:
    messages = [{"role": "user", "content": "hi"}]
    source = '{"seed": "{{parameters.seed}}", "messages": "{{messages}}", "stop": "{{parameters.stop}}"}'
    body = rendered(source, parameters__seed=7, messages=messages, parameters__stop=["a"])
    assert body == {"seed": 7, "messages": messages, "stop": ["a"]}


def test_within_a_longer_string_a_value_is_its_text() -> None:
    source = '{"text": "{{prompt}} with {{parameters.seed}} and {{parameters.stop}}"}'
    body = rendered(source, prompt="p", parameters__seed=7, parameters__stop=["a", "ü"])
    assert body == {"text": 'p with 7 and ["a","ü"]'}


def test_what_has_no_value_is_left_out_at_every_depth() -> None:
    source = (
        '{"a": "{{system}}", "b": {"c": "{{system}}", "d": ["{{system}}", "{{prompt}}", "x {{system}}"]}, "e": null}'
    )
    assert rendered(source, prompt="p") == {"b": {"d": ["p"]}, "e": None}


def test_values_that_are_false_are_values() -> None:
    assert rendered('{"a": "{{prompt}}", "b": "{{parameters.seed}}"}', prompt="", parameters__seed=0) == {
        "a": "",
        "b": 0,
    }


def test_members_of_the_query_without_a_value_are_left_out() -> None:
    path = Path("/g?p={{prompt}}&seed={{parameters.seed}}&s={{system}}", KNOWN, "path")
    assert path.render({"prompt": "a b&c=d"}) == "/g?p=a%20b%26c%3Dd"


def test_a_path_without_a_value_is_refused() -> None:
    with pytest.raises(NoPlace, match="needs a value for system"):
        Path("/{{system}}?p={{prompt}}", KNOWN, "path").render({"prompt": "p"})


@pytest.mark.parametrize("dots", [".", "..", "%2e%2E"])
def test_dots_are_no_segment_of_a_path(dots: str) -> None:
    with pytest.raises(ValueError, match="path"):
        Path(f"/v1/{dots}/x", KNOWN, "path")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("{", "not JSON"),
        ("[NaN]", "NaN is no JSON"),
        ('"{{prompt}}"', "must be a JSON object or array"),
        ("7", "must be a JSON object or array"),
        ('{"a": "{{promt}}"}', "unknown placeholder {{promt}}; known are messages, model,"),
        ('{"a": "{{credential}}"}', "is for headers only"),
        ('{"a": "{{ prompt }}"}', "without spaces"),
        ('{"a": "{{prompt"}', "without spaces"),
        ('{"{{prompt}}": 1}', "no placeholders in the names of members"),
        ('{"a": 1, "a": 2}', "twice"),
        ("[" * 40 + "]" * 40, "nested deeper than 32"),
        ("[" * 8000 + "]" * 8000, "nested deeper than 32"),
        ("1" * 5000, "not JSON"),
    ],
)
def test_a_template_that_cannot_be_is_refused_by_name(source: str, says: str) -> None:
    with pytest.raises(ValueError) as refused:
        Body(source, KNOWN, FIELD)
    assert str(refused.value).startswith(FIELD)
    assert says in str(refused.value)


def test_a_text_knows_its_placeholders() -> None:
    text = read_text("Bearer {{model}}", KNOWN, "f")
    assert (text.names, text.alone) == (frozenset({"model"}), None)
    assert read_text("{{model}}", KNOWN, "f").alone == "model"
