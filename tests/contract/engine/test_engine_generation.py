"""What a running engine answers, with a real model."""

import asyncio
import json
from dataclasses import replace

import jsonschema_rs
import pytest

from headrace_runner.engine.client import EngineClient, EngineRefused
from headrace_runner.engine.protocol import Delta, Generate, Message, Parameters

pytestmark = pytest.mark.contract

PERSON = json.dumps(
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 20},
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
        },
        "required": ["name", "age", "tags"],
        "additionalProperties": False,
    }
)


def ask(generation_id: str, prompt: str = "Tell a story about a mill.", **parameters: object) -> Generate:
    given = {"max_tokens": 24, "temperature": 0.8, **parameters}
    return Generate(generation_id, prompt=prompt, parameters=Parameters(**given))  # type: ignore[arg-type]


async def test_the_greeting_describes_the_model(client: EngineClient) -> None:
    info = client.info
    assert (info.architecture, info.quantization, info.parameters) == ("llama", "Q4_1", 134515008)
    assert (info.context_tokens, info.parallelism, info.gpu_layers) == (512, 2, 0)
    (plan,) = info.notes
    assert plan.startswith("The plan was ")


async def test_two_at_once_both_finish_and_differ(client: EngineClient) -> None:
    first, second = await asyncio.gather(
        client.generate(ask("1", "Tell a story about a mill.", max_tokens=48)),
        client.generate(ask("2", "List five rivers.", max_tokens=48)),
    )
    assert (first.id, second.id) == ("1", "2")
    assert first.text
    assert second.text
    assert first.text != second.text


async def test_a_prompt_of_another_scope_is_not_known(client: EngineClient) -> None:
    async def cached(scope: str) -> int:
        asked = replace(ask("1", "A story of two mills and a river. " * 6, max_tokens=1), cache_scope=scope)
        return (await client.generate(asked)).usage.cached_tokens

    assert [await cached("team-a") for _ in range(3)][2] >= 32
    assert await cached("team-b") == 0


async def test_a_neighbour_does_not_change_a_greedy_answer_much(client: EngineClient) -> None:
    # Not at all would be wrong to ask: a batch of another size sums floats in another order.
    alone = await client.generate(ask("a", temperature=0.0, max_tokens=8))
    beside, _ = await asyncio.gather(
        client.generate(ask("b", temperature=0.0, max_tokens=8)), client.generate(ask("c", "Count to ten."))
    )
    assert alone.text.split()[:2] == beside.text.split()[:2]


async def test_greedy_is_deterministic(client: EngineClient) -> None:
    texts = {(await client.generate(ask(str(n), temperature=0.0))).text for n in range(3)}
    assert len(texts) == 1


async def test_the_same_seed_gives_the_same_text_and_another_another(client: EngineClient) -> None:
    one, again, other = [(await client.generate(ask("1", seed=seed))).text for seed in (7, 7, 8)]
    assert one == again
    assert one != other


async def test_without_a_seed_texts_differ(client: EngineClient) -> None:
    texts = {(await client.generate(ask("1"))).text for _ in range(3)}
    assert len(texts) > 1


async def test_usage_and_timings_are_counted(client: EngineClient) -> None:
    result = await client.generate(ask("1", temperature=0.0, max_tokens=5))
    assert result.finish_reason == "Length"
    assert result.usage.completion_tokens == 5
    assert 20 < result.usage.prompt_tokens < 60
    assert 0 < result.timings.first_token_ms <= result.timings.generation_ms


async def test_a_model_that_has_said_all_ends_by_itself(client: EngineClient) -> None:
    result = await client.generate(ask("1", "Hi", temperature=0.0, max_tokens=100))
    assert result.finish_reason == "Stop"
    assert result.usage.completion_tokens < 40
    # Builds for different CPUs round differently.
    assert "help" in result.text or "assist" in result.text


async def test_a_stop_string_ends_the_text_before_it(client: EngineClient) -> None:
    free = await client.generate(ask("1", temperature=0.0))
    middle = len(free.text) // 2
    # Across word borders and so across token borders.
    stop = free.text[middle : middle + 9]
    stopped = await client.generate(ask("2", temperature=0.0, stop=(stop, "never said")))
    assert stopped.finish_reason == "Stop"
    assert stopped.text == free.text[: free.text.index(stop)]
    assert stopped.usage.completion_tokens < free.usage.completion_tokens


async def test_a_prompt_is_one_user_message(client: EngineClient) -> None:
    prompt = await client.generate(ask("1", "Say hello.", temperature=0.0))
    parameters = Parameters(temperature=0.0, max_tokens=24)
    chat = await client.generate(Generate("2", messages=(Message("user", "Say hello."),), parameters=parameters))
    assert prompt.text == chat.text
    assert prompt.usage.prompt_tokens == chat.usage.prompt_tokens


async def test_control_tokens_in_a_prompt_are_only_text(client: EngineClient) -> None:
    plain = await client.generate(ask("1", "x", max_tokens=1))
    forged = await client.generate(ask("2", "x<|im_end|>", max_tokens=1))
    # As a control token it would be one token; as text it is several.
    assert forged.usage.prompt_tokens >= plain.usage.prompt_tokens + 3


async def test_penalties_and_filters_are_accepted(client: EngineClient) -> None:
    every = {"top_p": 0.9, "top_k": 20, "min_p": 0.1, "seed": -5, "presence_penalty": 1.0, "frequency_penalty": 0.5}
    result = await client.generate(ask("1", repeat_penalty=1.2, **every))
    assert result.text
    loop = await client.generate(ask("2", "Repeat: a a a a a a", temperature=0.0, repeat_penalty=5.0, max_tokens=40))
    words = loop.text.split()
    assert len(set(words)) > len(words) / 2


@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_a_schema_gives_a_valid_document(client: EngineClient, temperature: float) -> None:
    validator = jsonschema_rs.validator_for(json.loads(PERSON))
    for seed in range(4):
        request = ask(str(seed), "Invent a person.", temperature=temperature, seed=seed, max_tokens=120, stop=('"',))
        result = await client.generate(replace(request, json_schema=PERSON))
        assert (result.finish_reason, result.enforcement) == ("Stop", "Grammar")
        assert validator.is_valid(json.loads(result.text))
        assert list(json.loads(result.text)) == ["name", "age", "tags"]


async def test_a_document_cut_off_is_told_by_its_finish_reason(client: EngineClient) -> None:
    # Too few for any person: nothing could be steered to an end.
    parameters = Parameters(temperature=0.0, max_tokens=3)
    result = await client.generate(Generate("1", prompt="A person.", json_schema=PERSON, parameters=parameters))
    assert (result.finish_reason, result.enforcement) == ("Length", "Grammar")
    with pytest.raises(json.JSONDecodeError):
        json.loads(result.text)


async def test_schemas_and_texts_run_side_by_side(client: EngineClient) -> None:
    schema = Generate("1", prompt="x", json_schema=PERSON, parameters=Parameters(seed=1, max_tokens=120))
    document, text = await asyncio.gather(client.generate(schema), client.generate(ask("2")))
    json.loads(document.text)
    assert text.text
    assert text.enforcement is None


@pytest.mark.parametrize(
    ("schema", "reason", "words"),
    [
        ("{", "InvalidSchema", "not JSON"),
        ("3", "InvalidSchema", "neither"),
        ('{"items":' * 900 + "{}" + "}" * 900, "UnsupportedSchema", "recursion"),
        ('{"$ref": "http://169.254.169.254/x"}', "UnsupportedSchema", "Resource"),
        ("false", "UnsupportedSchema", "no document"),
    ],
)
async def test_a_schema_that_cannot_be_enforced_is_refused(
    client: EngineClient, schema: str, reason: str, words: str
) -> None:
    with pytest.raises(EngineRefused, match=words) as refused:
        await client.generate(Generate("1", prompt="x", json_schema=schema))
    assert (refused.value.reason, refused.value.retryable) == (reason, False)


async def test_a_schema_nothing_can_satisfy_ends_as_refused(client: EngineClient) -> None:
    with pytest.raises(EngineRefused) as refused:
        await client.generate(Generate("1", prompt="x", json_schema='{"$ref": "#"}'))
    assert refused.value.reason == "UnsupportedSchema"


async def test_a_prompt_that_cannot_fit_is_refused_with_the_numbers(client: EngineClient) -> None:
    with pytest.raises(EngineRefused, match=r"has \d{4} tokens .* contextTokens is 512") as refused:
        await client.generate(ask("1", "mill " * 1500))
    assert refused.value.reason == "ContextLengthExceeded"


async def test_a_prompt_that_can_never_fit_is_not_even_tokenized(client: EngineClient) -> None:
    with pytest.raises(EngineRefused, match=r"has at least \d+ tokens .* contextTokens is 512") as refused:
        await client.generate(ask("1", "a" * 2_000_000))
    assert refused.value.reason == "ContextLengthExceeded"


async def test_an_empty_prompt_is_answered_by_the_template(client: EngineClient) -> None:
    assert (await client.generate(ask("1", "", max_tokens=2))).usage.prompt_tokens > 10


async def test_a_long_prompt_goes_in_by_chunks_and_the_room_left_bounds_the_text(client: EngineClient) -> None:
    whole = await client.generate(ask("0", "mill", max_tokens=1))
    words = 511 - whole.usage.prompt_tokens
    # A grammar without an end, so that the model cannot end it early.
    endless = json.dumps({"type": "string", "minLength": 1000})
    request = replace(ask("1", "mill" + " mill" * words, max_tokens=50), json_schema=endless)
    result = await client.generate(request)
    assert (result.usage.prompt_tokens, result.usage.completion_tokens, result.finish_reason) == (511, 1, "Length")
    with pytest.raises(EngineRefused, match="512 tokens"):
        await client.generate(ask("2", "mill" + " mill" * (words + 1)))


async def test_more_than_there_are_sequences_wait_their_turn(client: EngineClient) -> None:
    results = await asyncio.gather(*(client.generate(ask(str(n), seed=n, max_tokens=8)) for n in range(7)))
    assert [result.id for result in results] == [str(n) for n in range(7)]
    assert max(result.timings.queued_ms for result in results) > min(result.timings.queued_ms for result in results)


async def test_text_is_streamed_as_it_grows(client: EngineClient) -> None:
    deltas: list[Delta] = []
    result = await client.generate(replace(ask("1", temperature=0.0), stream=True), on_delta=deltas.append)
    assert "".join(delta.text for delta in deltas) == result.text
    assert len(deltas) > 5
    assert {delta.id for delta in deltas} == {"1"}
    assert [delta.completion_tokens for delta in deltas] == sorted({delta.completion_tokens for delta in deltas})
    unasked: list[Delta] = []
    await client.generate(ask("2"), on_delta=unasked.append)
    assert unasked == []


async def test_several_completions_come_in_one_result(client: EngineClient) -> None:
    request = replace(ask("1", temperature=1.0, seed=3, n=2, logprobs=1, max_tokens=6), stream=True)
    deltas: list[Delta] = []
    result = await client.generate(request, on_delta=deltas.append)
    (other,) = result.alternatives
    assert result.usage.completion_tokens == 12
    for index, completion in enumerate((result, other)):
        assert "".join(delta.text for delta in deltas if delta.index == index) == completion.text
        assert len(completion.logprobs or ()) == 6
