"""Random joins, leaves, forks, preemptions and aborts on a real model with too few cells for all of them.

After every step the ledger has to be llama.cpp's view, and every text the one that its request has alone: up to the
first place where the model hardly preferred one token to another, because a batch of another shape sums in another
order.
"""

import random

import pytest

from headrace_runner.engine.model import LoadedModel
from headrace_runner.engine.protocol import Completion, Failure, GenerationResult, TokenLogprob
from headrace_runner.engine.settings import EngineSettings
from tests.contract.engine.decoding import Asked, Decoding, decoding

pytestmark = pytest.mark.contract

# Of SmolLM2-135M-Instruct Q4_1: what a logit may differ by between a batch and the same sequence alone.
EPSILON = 0.5
CONTEXT_TOKENS = 128
CELLS = 160
REQUESTS = 18
LONGEST = 48
SYSTEM = "You are a patient teacher who explains everything in plain words and gives one example for each thing. " * 2
PROMPTS = [
    "Once upon a time there was a mill",
    "The five largest rivers of the world are",
    SYSTEM + "What is rain?",
    SYSTEM + "Why do stars shine at night and not at noon?",
    SYSTEM + "Who built the first wind mill, and where did it stand?",
    "1, 2, 3, 4, 5, 6, 7,",
]


@pytest.fixture(params=["pool", "streams"])
def fuzzed_model(model_path, request: pytest.FixtureRequest) -> LoadedModel:
    unified = request.param == "pool"
    settings = EngineSettings(model_path, context_tokens=CONTEXT_TOKENS, parallelism=6, kv_unified=unified)
    return LoadedModel(str(model_path), settings, lambda percent: None)


def check_view(running: Decoding) -> None:
    """Every place and every kept prefix spans in llama.cpp what the ledger says, and nobody else has any cell."""
    cache = running.loop.places.cache
    cache.check(range(running.model.parallelism + running.model.prefix_sequences))
    held = {sequence.seq_id for sequence in running.loop.places.live if sequence.decoded}
    held.update(cache.prefixes.seq_ids)
    assert {seq_id for seq_id in range(22) if cache.ledger.length(seq_id)} == held
    assert 0 <= cache.ledger.used <= cache.ledger.total


def gap(token: TokenLogprob) -> float:
    """How much likelier the best token was than the next one, of those that may be drawn: end tokens have no text."""
    best, second, *_ = (logprob for text, logprob in token.top if text)
    return best - second


def assert_same(alone: tuple[TokenLogprob, ...], other: tuple[TokenLogprob, ...], *, cut: bool) -> None:
    """Equal tokens wherever the best two are further apart than twice epsilon; a cut text may be shorter."""
    for expected, found in zip(alone, other, strict=False):
        if expected.text != found.text:
            assert gap(expected) <= 2 * EPSILON, (expected, found)
            return
        assert abs(expected.logprob - found.logprob) <= 2 * EPSILON
    assert cut or len(alone) == len(other)


def submit(running: Decoding, prompt: str, *, max_tokens: int = LONGEST, **parameters: object) -> Asked:
    # No text ends early: where one ends is the choice between two tokens as well, but one that leaves no logarithm.
    endless = tuple((token, -100.0) for token in running.model.eog_tokens)
    return running.submit(prompt, max_tokens=max_tokens, logprobs=5, logit_bias=endless, **parameters)


def test_every_text_is_that_of_its_request_alone(fuzzed_model: LoadedModel) -> None:
    choose = random.Random(5)
    with decoding(fuzzed_model) as idle:
        alone = {prompt: submit(idle, prompt, seed=1).result().logprobs or () for prompt in PROMPTS}
    pool = fuzzed_model.kv_unified
    with decoding(fuzzed_model, CELLS if pool else None) as running:
        asked: list[tuple[str, Asked]] = []
        aborted: set[int] = set()

        def before_step(count: int) -> None:
            check_view(running)
            for _ in range(choose.choice([0, 0, 1, 2])):
                if len(asked) < REQUESTS:
                    prompt, n = choose.choice(PROMPTS), choose.choice([1, 1, 1, 3])
                    max_tokens = choose.randint(1, LONGEST) if n == 1 else choose.randint(1, LONGEST // 2)
                    asked.append((prompt, submit(running, prompt, max_tokens=max_tokens, n=n)))
            if asked and choose.random() < 0.05:
                unlucky = choose.choice(asked)[1]
                aborted.add(unlucky.key)
                running.loop.abort(unlucky.key)

        running.steps.before = before_step
        while len(asked) < REQUESTS:
            submit(running, PROMPTS[0]).result()
        for prompt, each in asked:
            judge(each, each.result(), alone[prompt], cut=each.key in aborted)
        # Only in a pool can cells run out: a stream has room for its sequence's longest text.
        assert (running.loop.places.preemptions > 0) == pool
        assert any(each.result().usage.cached_tokens for _, each in asked)
        assert aborted


def judge(each: Asked, result: GenerationResult, alone: tuple[TokenLogprob, ...], *, cut: bool) -> None:
    assert not any(isinstance(event, Failure) for event in each.events)
    first = Completion(result.text, result.finish_reason, result.logprobs)
    wanted = each.parameters.max_tokens or 0
    for index, completion in enumerate((first, *result.alternatives)):
        # A delta that came twice, or not at all, would show here.
        assert each.streamed(index) == completion.text
        assert_same(alone[:wanted], completion.logprobs or (), cut=cut and completion.finish_reason == "Cancelled")
        assert cut or completion.finish_reason in ("Stop", "Length")
