"""One llama.cpp sampler chain per sequence: penalties → top-k → top-p → min-p → temperature → draw."""

import secrets
from typing import Final

import llama_cpp.llama_cpp as llama

from headrace_runner.engine.protocol import Parameters

PENALTY_TOKENS: Final = 64
_SEEDS: Final = 2**32 - 1  # the last one, LLAMA_DEFAULT_SEED, means "random" to llama.cpp


class SamplerChain:
    """Draws tokens for one sequence. Owns memory of llama.cpp: ``free`` it.

    ``sample`` also *accepts* the token (llama_sampler_sample does both), so that nothing else may accept it again.
    """

    def __init__(self, parameters: Parameters, vocab_size: int) -> None:
        self._chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
        self._add_penalties(parameters, vocab_size)
        temperature = 0.8 if parameters.temperature is None else parameters.temperature
        if temperature <= 0.0:
            self._add(llama.llama_sampler_init_greedy())
            return
        self._add(llama.llama_sampler_init_top_k(40 if parameters.top_k is None else parameters.top_k))
        self._add(llama.llama_sampler_init_top_p(0.95 if parameters.top_p is None else parameters.top_p, 1))
        self._add(llama.llama_sampler_init_min_p(0.05 if parameters.min_p is None else parameters.min_p, 1))
        self._add(llama.llama_sampler_init_temp(temperature))
        seed = secrets.randbelow(_SEEDS) if parameters.seed is None else parameters.seed % _SEEDS
        self._add(llama.llama_sampler_init_dist(seed))

    def sample(self, context: object, output: int) -> int:
        """Draw from the logits of batch position ``output``."""
        return int(llama.llama_sampler_sample(self._chain, context, output))

    def free(self) -> None:
        """Give the chain back; using it afterwards is an error of ours."""
        llama.llama_sampler_free(self._chain)
        self._chain = None

    def _add_penalties(self, parameters: Parameters, vocab_size: int) -> None:
        repeat = 1.0 if parameters.repeat_penalty is None else parameters.repeat_penalty
        frequency = parameters.frequency_penalty or 0.0
        presence = parameters.presence_penalty or 0.0
        if (repeat, frequency, presence) != (1.0, 0.0, 0.0):
            self._add(llama.llama_sampler_init_penalties(vocab_size, PENALTY_TOKENS, repeat, frequency, presence))

    def _add(self, sampler: object) -> None:
        # The chain owns what is added to it and frees it.
        llama.llama_sampler_chain_add(self._chain, sampler)
