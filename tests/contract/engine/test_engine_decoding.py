"""The decode loop's promises, one by one, on a real model: seeds, forks, preemption, shared prefixes, streamed text."""

import math

import pytest

from headrace_runner.engine.model import LoadedModel
from headrace_runner.engine.protocol import Refusal
from headrace_runner.engine.settings import EngineSettings
from tests.contract.engine.decoding import decoding

pytestmark = pytest.mark.contract

STORY = "Once upon a time there was a mill"
CONTEXT_TOKENS = 64
SYSTEM = "You are a patient teacher who explains everything in plain words, and gives one example for each thing. " * 2


@pytest.fixture(scope="module")
def pool(model_path) -> LoadedModel:
    """Four sequences of 64 tokens in one pool: a step is short, and the cache soon full."""
    settings = EngineSettings(model_path, context_tokens=CONTEXT_TOKENS, parallelism=4, kv_unified=True)
    return LoadedModel(str(model_path), settings, lambda percent: None)


@pytest.fixture(scope="module")
def streams(model_path) -> LoadedModel:
    """Four sequences, each with 64 tokens of its own."""
    settings = EngineSettings(model_path, context_tokens=CONTEXT_TOKENS, parallelism=4)
    return LoadedModel(str(model_path), settings, lambda percent: None)


@pytest.fixture(params=["pool", "streams"])
def small(request: pytest.FixtureRequest) -> LoadedModel:
    return request.getfixturevalue(request.param)


def test_alone_the_same_seed_gives_the_same_text_whatever_ran_before(small: LoadedModel) -> None:
    with decoding(small) as running:
        first = running.ask(STORY, seed=7, temperature=1.0, max_tokens=24)
        others = [running.submit(f"{SYSTEM}{n}", max_tokens=4) for n in range(5)]
        for each in others:
            each.result()
        assert len(running.loop.places.cache.prefixes) == 1
        again = running.ask(STORY, seed=7, temperature=1.0, max_tokens=24)
        assert running.ask(STORY, seed=8, temperature=1.0, max_tokens=24).text != first.text
    assert again.text == first.text


def test_completions_of_one_prompt_differ_by_their_seeds_and_share_its_cells(small: LoadedModel) -> None:
    with decoding(small) as running:
        used: list[int] = []
        running.steps.before = lambda count: used.append(running.loop.places.cache.ledger.used)
        result = running.ask(STORY, n=3, seed=7, temperature=1.0, max_tokens=8)
        texts = [result.text, *(each.text for each in result.alternatives)]
        assert len(set(texts)) == 3
        # The prompt once, and each completion's tokens but for the last, which nobody decodes.
        copies = 1 if small.kv_unified else 3
        assert max(used) == copies * result.usage.prompt_tokens + 3 * 6
        assert result.usage.completion_tokens == 24
        second = running.ask(STORY, seed=8, temperature=1.0, max_tokens=8)
    assert second.text == texts[1]


def test_who_loses_its_place_goes_on_where_it_was(pool: LoadedModel) -> None:
    with decoding(pool) as running:
        alone = running.ask(STORY, max_tokens=40, seed=1)
    with decoding(pool, cells=CONTEXT_TOKENS) as running:
        asked = [running.submit(STORY, max_tokens=40), running.submit(STORY, max_tokens=40)]
        results = [each.result() for each in asked]
        assert running.loop.places.preemptions > 0
    for each, result in zip(asked, results, strict=True):
        assert (result.usage.completion_tokens, result.finish_reason) == (40, "Length")
        assert each.streamed() == result.text
        # Floats are summed in another order where two are decoded at once; the model is sure of its first words.
        assert result.text.split()[:4] == alone.text.split()[:4]


def test_a_prefix_that_two_had_is_kept_for_the_third(small: LoadedModel) -> None:
    with decoding(small) as running:
        cached = [running.ask(f"{SYSTEM}{n}", max_tokens=2).usage.cached_tokens for n in range(4)]
        assert cached[:2] == [0, 0]
        assert cached[2] == cached[3] >= 32
        assert running.loop.places.cache.ledger.used == running.loop.places.cache.prefixes.cells


def test_who_comes_together_decodes_a_prefix_once(small: LoadedModel) -> None:
    with decoding(small) as running:
        steps: list[int] = []
        running.steps.before = lambda count: steps.append(running.loop.places.cache.ledger.used)
        asked = [running.submit(f"{SYSTEM}{n}", max_tokens=2) for n in range(4)]
        cached = [each.result().usage.cached_tokens for each in asked]
        assert sorted(cached)[0] == 0
        assert all(count >= 32 for count in sorted(cached)[1:])
        assert small.kv_unified == (max(steps) < 2 * len(asked[0].tokens))


def test_the_same_prompt_of_another_scope_shares_no_cell(small: LoadedModel) -> None:
    with decoding(small) as running:

        def cached(scope: str | None) -> int:
            return running.ask(f"{SYSTEM}1", scope=scope, max_tokens=2).usage.cached_tokens

        assert [cached("ours") for _ in range(3)][2] >= 32
        assert [cached(None) for _ in range(3)] == [0, 0, 0]
        assert cached("ours") >= 32
        # By the third of theirs there is one of their own.
        assert [cached("theirs"), cached("theirs")] == [0, 0]
        assert cached("theirs") >= 32


def test_who_comes_together_waits_for_nobody_of_another_scope(small: LoadedModel) -> None:
    with decoding(small) as running:
        live: list[int] = []
        running.steps.before = lambda count: live.append(len(running.loop.places.live))
        scopes = ["ours", "theirs", None, "ours"]
        # All four have a place at once, so that each could wait for any other.
        asked = [running.submit(f"{SYSTEM}1", scope=scope, max_tokens=8) for scope in scopes]
        cached = [each.result().usage.cached_tokens for each in asked]
        assert max(live) == 4
    assert cached[:3] == [0, 0, 0]
    assert cached[3] >= 32


def test_kept_prefixes_make_room_before_anybody_has_to(pool: LoadedModel) -> None:
    with decoding(pool, cells=CONTEXT_TOKENS * 3) as running:
        for n in range(3):
            running.ask(f"{SYSTEM}{n}", max_tokens=2)
        assert len(running.loop.places.cache.prefixes) == 1
        asked = [running.submit(f"{n} {STORY}", max_tokens=50) for n in range(3)]
        for each in asked:
            each.result()
        assert len(running.loop.places.cache.prefixes) == 0
        assert running.loop.places.preemptions == 0


def test_a_bias_forbids_and_forces(streams: LoadedModel) -> None:
    (mill,) = streams.tokenize([" mill"])
    with decoding(streams) as running:
        assert running.ask(STORY, logit_bias=((mill, 100.0),), max_tokens=3).text == " mill mill mill"
        free = running.ask(STORY, max_tokens=1, logprobs=1)
        assert free.logprobs
        forbidden = tuple((token, -100.0) for token in streams.tokenize([free.text]))
        assert running.ask(STORY, logit_bias=forbidden, max_tokens=1).text != free.text


def test_logarithms_are_those_of_the_models_own_distribution(streams: LoadedModel) -> None:
    with decoding(streams) as running:
        result = running.ask(STORY, max_tokens=6, logprobs=20)
        assert result.logprobs is not None
        assert "".join(each.text for each in result.logprobs) == result.text
        for each in result.logprobs:
            assert len(each.top) == 20
            assert each.top[0] == (each.text, each.logprob)
            assert [logprob for _, logprob in each.top] == sorted((p for _, p in each.top), reverse=True)
            assert 0.2 < sum(math.exp(logprob) for _, logprob in each.top) <= 1.0
        (mill,) = streams.tokenize([" mill"])
        forced = running.ask(STORY, max_tokens=1, logprobs=0, logit_bias=((mill, 100.0),))
        assert forced.logprobs is not None
        assert forced.logprobs[0].logprob < -1
        assert forced.logprobs[0].top == ()


def test_nothing_of_a_stop_string_is_streamed(streams: LoadedModel) -> None:
    with decoding(streams) as running:
        free = running.ask(STORY, max_tokens=16)
        stop = free.text[len(free.text) // 2 :][:6]
        asked = running.submit(STORY, max_tokens=16, stop=(stop,))
        result = asked.result()
        assert result.finish_reason == "Stop"
        assert result.text == free.text[: free.text.index(stop)]
        assert asked.streamed() == result.text


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"n": 5}, "n is 5, but the model runs 4 sequences"),
        ({"logit_bias": ((10**6, 1.0),)}, "token 1000000 is beyond the vocabulary of 49152"),
    ],
)
def test_what_never_fits_is_refused_with_the_numbers(
    streams: LoadedModel, parameters: dict[str, object], words: str
) -> None:
    with decoding(streams) as running:
        with pytest.raises(Refusal, match=words) as refused:
            running.submit(STORY, **parameters)
        assert (refused.value.reason, refused.value.retryable) == ("InvalidParameters", False)


def test_more_completions_than_there_are_cells_are_refused_with_the_numbers(pool: LoadedModel) -> None:
    with decoding(pool, cells=CONTEXT_TOKENS) as running:
        with pytest.raises(Refusal, match="4 completions of 20 need 88 cells of the KV cache, which has 64"):
            running.submit(STORY, n=4, max_tokens=20)
        assert running.ask(STORY, n=2, max_tokens=20).usage.completion_tokens == 40
