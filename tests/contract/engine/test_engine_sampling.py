"""Drawing from the likeliest tokens gives what drawing from all of them gives."""

from typing import Any

import numpy as np
import pytest

from headrace_runner.engine.protocol import Parameters
from headrace_runner.engine.sampling import SamplerChain, candidates_of

pytestmark = pytest.mark.contract
VOCABULARY = 49_152
DRAWS = 64


def steep(rng: np.random.Generator) -> Any:
    return (3.0 * rng.standard_normal(VOCABULARY)).astype(np.float32)


def masked(rng: np.random.Generator) -> Any:
    """As a grammar leaves them: few tokens may follow."""
    logits = np.full(VOCABULARY, -np.inf, np.float32)
    logits[rng.choice(VOCABULARY, 60, replace=False)] = rng.standard_normal(60)
    return logits


def tied(rng: np.random.Generator) -> Any:
    return rng.integers(-9, 10, VOCABULARY).astype(np.float32)


def peaked(rng: np.random.Generator) -> Any:
    """Fewer tokens within the widest gap than top-k wants."""
    logits = steep(rng) - 60
    logits[rng.integers(VOCABULARY)] = 30.0
    return logits


@pytest.mark.parametrize("shape", [steep, masked, peaked])
@pytest.mark.parametrize(
    "parameters",
    [
        Parameters(seed=7),
        Parameters(seed=7, temperature=0.0),
        Parameters(seed=7, temperature=1.5, top_k=200, top_p=1.0, min_p=0.0),
        Parameters(seed=7, temperature=1.0, logit_bias=((5, 30.0), (11, -100.0), (17, 12.0))),
        Parameters(seed=7, temperature=0.0, logit_bias=((5, 60.0),)),
        Parameters(seed=7, temperature=1.0, logit_bias=((5, 6.0), (5, 6.0), (9, -3.0))),
        Parameters(seed=7, temperature=1.0, logit_bias=tuple((token, 0.1 * token) for token in range(100))),
        Parameters(seed=7, top_k=0),
        Parameters(seed=7, repeat_penalty=1.3),
    ],
    ids=[
        "defaults",
        "greedy",
        "wide",
        "biased",
        "greedy-biased",
        "biased-twice",
        "many-biases",
        "no-top-k",
        "penalties",
    ],
)
def test_what_is_left_out_is_never_drawn(shape: Any, parameters: Parameters) -> None:
    rng = np.random.default_rng(3)
    narrow, whole = (SamplerChain(parameters, VOCABULARY) for _ in range(2))
    for _ in range(DRAWS):
        logits = shape(rng)
        everything = candidates_of(logits, np.arange(VOCABULARY))
        some = narrow.likeliest(logits)
        drawn = narrow.draw(everything.copy() if some is None else some)
        assert drawn == whole.draw(everything)
    narrow.free()
    whole.free()


def test_a_tie_is_decided_among_its_equals() -> None:
    rng, chain = np.random.default_rng(3), SamplerChain(Parameters(temperature=0.0), VOCABULARY)
    logits = tied(rng)
    some = chain.likeliest(logits)
    assert some is not None
    assert chain.draw(some) == int(np.argmax(logits))
    chain.free()


@pytest.mark.parametrize(("shape", "most"), [(steep, 2048), (masked, 60), (peaked, None)])
def test_few_are_looked_at_where_they_can_be_told_apart(shape: Any, most: int | None) -> None:
    chain = SamplerChain(Parameters(seed=1), VOCABULARY)
    some = chain.likeliest(shape(np.random.default_rng(5)))
    assert (some is None) if most is None else (some is not None and 40 <= len(some) <= most)
    chain.free()
