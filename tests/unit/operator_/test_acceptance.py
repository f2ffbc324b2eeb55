"""Tasks that can never run, judged before anything is queued."""

import pytest
from operator_cases import task

from headrace_crds.task import LLMTask, LLMTaskSpec, Message
from headrace_operator.decide.acceptance import refusal

LIMIT = 256 * 1024


@pytest.mark.parametrize(
    "schema",
    ['{"type": "object"}', "{}", "true", "false", '  {"a": [1, 2.5e3, "ü"]}  ', '{"a": 1, "a": 2}'],
)
def test_a_json_object_or_boolean_is_a_schema(schema: str) -> None:
    assert refusal(task(output={"jsonSchema": schema})) is None


@pytest.mark.parametrize(
    ("schema", "word"),
    [
        pytest.param("{]", "line 1 column 2", id="syntax"),
        pytest.param("[]", "object, true or false", id="array"),
        pytest.param('"x"', "object, true or false", id="string"),
        pytest.param("12", "object, true or false", id="number"),
        pytest.param("null", "object, true or false", id="null"),
        pytest.param('{"minimum": NaN}', "NaN", id="NaN"),
        pytest.param('{"minimum": -Infinity}', "Infinity", id="Infinity"),
        pytest.param("[" * 60_000, "too deeply", id="endless nesting"),
        pytest.param('{"const": ' + "9" * 5_000 + "}", "endless number", id="a number of 5,000 digits"),
    ],
)
def test_anything_else_is_refused_with_the_place(schema: str, word: str) -> None:
    found = refusal(task(output={"jsonSchema": schema}))
    assert found is not None
    assert found.reason == "InvalidSchema"
    assert word in found.message


@pytest.mark.parametrize(
    ("prompt", "schema", "refused"),
    [
        pytest.param("a" * LIMIT, None, False, id="exactly the limit"),
        pytest.param("ä" * (LIMIT // 2), None, False, id="exactly the limit in two-byte characters"),
        pytest.param("ä" * (LIMIT // 2 + 1), None, True, id="two bytes more"),
        pytest.param("a" * (LIMIT - 2), "{}", False, id="prompt and schema together at the limit"),
        pytest.param("a" * (LIMIT - 1), "{}", True, id="prompt and schema together above it"),
        pytest.param("\x01" * (LIMIT - 10), None, True, id="control characters take six bytes as JSON"),
    ],
)
def test_bytes_are_counted(prompt: str, schema: str | None, refused: bool) -> None:
    output = {"output": {"jsonSchema": schema}} if schema is not None else {}
    found = refusal(task(prompt=prompt, **output))
    assert (found is not None) is refused
    if found is not None:
        assert found.reason == "InputTooLarge"


def test_messages_count_together() -> None:
    turns = [{"role": "user", "content": "ä" * 50_000}, {"role": "assistant", "content": "ö" * 90_000}]
    found = refusal(task(prompt=None, messages=turns))
    assert found is not None
    assert "280000 bytes" in found.message


def test_what_messages_take_beside_their_text_counts() -> None:
    turns = [{"role": "user", "content": "a"}] * 21_000
    found = refusal(LLMTask.model_construct(**{**dict(task()), "spec": many(turns)}))
    assert found is not None
    assert found.reason == "InputTooLarge"


def many(turns: list[dict[str, str]]) -> LLMTaskSpec:
    return task().spec.model_copy(update={"prompt": None, "messages": [Message.model_validate(t) for t in turns]})


def test_tools_and_calls_are_read_and_counted() -> None:
    call = {"id": "a", "name": "f", "arguments": "{}"}
    turn = {"role": "assistant", "toolCalls": [call]}

    def task(**spec: object) -> LLMTask:
        given = {"modelRef": {"name": "m"}, "messages": [{"role": "user", "content": "hi"}, turn], **spec}
        return LLMTask(spec=LLMTaskSpec.model_validate(given))

    assert refusal(task(tools=[{"name": "f", "parameters": "{}"}, {"name": "g"}])) is None
    for wrong, says in (("{a", "not JSON"), ("[]", "JSON object"), ("NaN", "not JSON")):
        found = refusal(task(tools=[{"name": "f", "parameters": wrong}]))
        assert found is not None
        assert says in found.message
    bad = {"role": "assistant", "toolCalls": [{**call, "arguments": "3"}]}
    assert refusal(task(messages=[bad])) is not None
    large = refusal(task(tools=[{"name": f"f{n}", "description": "x" * 4096} for n in range(64)]))
    assert large is not None
    assert large.reason == "InputTooLarge"
