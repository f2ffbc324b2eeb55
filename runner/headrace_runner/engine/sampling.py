"""One llama.cpp sampler chain per sequence: bias → penalties → top-k → top-p → min-p → temperature → draw."""

import ctypes
import secrets
from collections.abc import Callable
from typing import Any, Final

import llama_cpp.llama_cpp as llama
import numpy as np

from headrace_runner.engine.protocol import Parameters, TokenLogprob

PENALTY_TOKENS: Final = 64
MAX_TOKEN_TEXT_CHARS: Final = 64
_SEEDS: Final = 2**32 - 1  # the last one, LLAMA_DEFAULT_SEED, means "random" to llama.cpp


class SamplerChain:
    """Draws tokens for one sequence. Owns memory of llama.cpp: ``free`` it.

    ``sample`` also *accepts* the token (llama_sampler_sample does both), so that nothing else may accept it again.
    ``index`` counts the completions of one request: each draws with a seed of its own.
    """

    def __init__(self, parameters: Parameters, vocab_size: int, index: int = 0) -> None:
        self._chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
        self._add_bias(parameters, vocab_size)
        self._add_penalties(parameters, vocab_size)
        temperature = 0.8 if parameters.temperature is None else parameters.temperature
        if temperature <= 0.0:
            self._add(llama.llama_sampler_init_greedy())
            return
        self._add(llama.llama_sampler_init_top_k(40 if parameters.top_k is None else parameters.top_k))
        self._add(llama.llama_sampler_init_top_p(0.95 if parameters.top_p is None else parameters.top_p, 1))
        self._add(llama.llama_sampler_init_min_p(0.05 if parameters.min_p is None else parameters.min_p, 1))
        self._add(llama.llama_sampler_init_temp(temperature))
        seed = secrets.randbelow(_SEEDS) if parameters.seed is None else (parameters.seed + index) % _SEEDS
        self._add(llama.llama_sampler_init_dist(seed))

    def sample(self, context: object, output: int) -> int:
        """Draw from the logits of batch position ``output``."""
        return int(llama.llama_sampler_sample(self._chain, context, output))

    def free(self) -> None:
        """Give the chain back; using it afterwards is an error of ours."""
        llama.llama_sampler_free(self._chain)
        self._chain = None

    def _add_bias(self, parameters: Parameters, vocab_size: int) -> None:
        if parameters.logit_bias:
            biases = [llama.llama_logit_bias(token, bias) for token, bias in parameters.logit_bias]
            array = (llama.llama_logit_bias * len(biases))(*biases)
            self._add(llama.llama_sampler_init_logit_bias(vocab_size, len(biases), array))

    def _add_penalties(self, parameters: Parameters, vocab_size: int) -> None:
        repeat = 1.0 if parameters.repeat_penalty is None else parameters.repeat_penalty
        frequency = parameters.frequency_penalty or 0.0
        presence = parameters.presence_penalty or 0.0
        if (repeat, frequency, presence) != (1.0, 0.0, 0.0):
            self._add(llama.llama_sampler_init_penalties(vocab_size, PENALTY_TOKENS, repeat, frequency, presence))

    def _add(self, sampler: object) -> None:
        # The chain owns what is added to it and frees it.
        llama.llama_sampler_chain_add(self._chain, sampler)


class Distribution:
    """The model's own distribution over the next token, read from its logits before a mask touches them."""

    def __init__(self, logits_pointer: Any, vocab_size: int, top: int) -> None:
        """Read ``vocab_size`` float32 logits; ``top`` is how many of the likeliest tokens ``describe`` names."""
        pointer = ctypes.cast(logits_pointer, ctypes.POINTER(ctypes.c_float))
        self._logits = np.ctypeslib.as_array(pointer, shape=(vocab_size,)).copy()
        largest = float(self._logits.max())
        self._log_sum = largest + float(np.log(np.exp(self._logits - largest).sum(dtype=np.float64)))
        best = np.argpartition(self._logits, -top)[-top:] if top else np.zeros(0, np.intp)
        self._top = best[np.argsort(-self._logits[best], kind="stable")]

    def describe(self, token: int, piece: Callable[[int], bytes]) -> TokenLogprob:
        """Give the token's logarithm and those of the likeliest ones; ``piece`` gives a token's bytes."""
        top = tuple((_text(piece(int(each))), self._logprob(int(each))) for each in self._top)
        return TokenLogprob(_text(piece(token)), self._logprob(token), top)

    def _logprob(self, token: int) -> float:
        # A model may say never; JSON has no word for it.
        return max(round(float(self._logits[token]) - self._log_sum, 6), -9999.0)


def _text(piece: bytes) -> str:
    return piece.decode("utf-8", "replace")[:MAX_TOKEN_TEXT_CHARS]
