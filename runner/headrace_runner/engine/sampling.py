"""One llama.cpp sampler chain per sequence: bias → penalties → top-k → top-p → min-p → temperature → draw."""

import ctypes
import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final

import llama_cpp.llama_cpp as llama
import numpy as np
from numpy.typing import NDArray

from headrace_runner.engine.protocol import Parameters, TokenLogprob

PENALTY_TOKENS: Final = 64
MAX_TOKEN_TEXT_CHARS: Final = 64
_SEEDS: Final = 2**32 - 1  # the last one, LLAMA_DEFAULT_SEED, means "random" to llama.cpp
_GAPS: Final = (6.0, 14.0)
"""How far below the largest logit the likeliest tokens are looked for; as many as are asked for are mostly nearer."""
_MOST_BIASES: Final = 16
_CANDIDATE: Final = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])  # llama_token_data


class SamplerChain:
    """Draws tokens for one sequence. Owns memory of llama.cpp: ``free`` it.

    ``sample`` also *accepts* the token (llama_sampler_sample does both), so that nothing else may accept it again.
    ``index`` counts the completions of one request: each draws with a seed of its own.
    """

    def __init__(self, parameters: Parameters, vocab_size: int, index: int = 0) -> None:
        self._chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
        self._logits = ctypes.c_float * vocab_size
        # Summed up: llama.cpp adds those of a token that is there twice only where it sees the whole vocabulary.
        biases: dict[int, float] = {}
        for token, bias in parameters.logit_bias:
            biases[token] = biases.get(token, 0.0) + bias
        self._biased = np.array(list(biases), np.intp)
        self._add_bias(biases, vocab_size)
        penalises = self._add_penalties(parameters, vocab_size)
        temperature = 0.8 if parameters.temperature is None else parameters.temperature
        wanted = 1
        if temperature <= 0.0:
            self._add(llama.llama_sampler_init_greedy())
        else:
            wanted = 40 if parameters.top_k is None else parameters.top_k
            self._add(llama.llama_sampler_init_top_k(wanted))
            self._add(llama.llama_sampler_init_top_p(0.95 if parameters.top_p is None else parameters.top_p, 1))
            self._add(llama.llama_sampler_init_min_p(0.05 if parameters.min_p is None else parameters.min_p, 1))
            self._add(llama.llama_sampler_init_temp(temperature))
            seed = secrets.randbelow(_SEEDS) if parameters.seed is None else (parameters.seed + index) % _SEEDS
            self._add(llama.llama_sampler_init_dist(seed))
        # Penalties may lift a token from anywhere; each bias is looked for among all candidates. 0 or less: no top-k,
        # every token counts.
        self._wanted = 0 if penalises or len(biases) > _MOST_BIASES else wanted

    def sample(self, context: object, output: int) -> int:
        """Draw from the logits of batch position ``output``."""
        pointer = llama.llama_get_logits_ith(context, output)
        memory: Any = self._logits.from_address(ctypes.addressof(pointer.contents))
        candidates = self.likeliest(np.frombuffer(memory, np.float32))
        if candidates is None:
            return int(llama.llama_sampler_sample(self._chain, context, output))
        return self.draw(candidates)

    def draw(self, candidates: NDArray[np.void]) -> int:
        """Draw from these: records as ``candidates_of`` makes them, which are written over."""
        array = llama.llama_token_data_array(
            data=ctypes.cast(candidates.ctypes.data, llama.llama_token_data_p),
            size=len(candidates),
            selected=-1,
            sorted=False,
        )
        llama.llama_sampler_apply(self._chain, ctypes.byref(array))
        if not 0 <= array.selected < array.size:
            raise RuntimeError("llama.cpp drew none of the candidates")
        token = int(array.data[array.selected].id)
        llama.llama_sampler_accept(self._chain, token)
        return token

    def likeliest(self, logits: NDArray[np.float32]) -> NDArray[np.void] | None:
        """As many tokens as the chain looks at, and more; None where they cannot be told apart cheaply.

        llama_sampler_sample writes a record of every token of the vocabulary before top-k drops nearly all of them.
        What is left out here has a smaller logit than ``wanted`` others that no bias touches: top-k drops it, too.
        """
        if self._wanted <= 0:
            return None
        largest = logits.max()
        for gap in _GAPS:
            near = logits > largest - np.float32(gap)
            count = int(np.count_nonzero(near))
            if count - len(self._biased) >= self._wanted:
                if len(self._biased):
                    near[self._biased] = True
                return candidates_of(logits, np.flatnonzero(near))
        return None

    def free(self) -> None:
        """Give the chain back; using it afterwards is an error of ours."""
        llama.llama_sampler_free(self._chain)
        self._chain = None

    def _add_bias(self, biases: Mapping[int, float], vocab_size: int) -> None:
        if biases:
            array = (llama.llama_logit_bias * len(biases))(*(llama.llama_logit_bias(*each) for each in biases.items()))
            self._add(llama.llama_sampler_init_logit_bias(vocab_size, len(biases), array))

    def _add_penalties(self, parameters: Parameters, vocab_size: int) -> bool:
        repeat = 1.0 if parameters.repeat_penalty is None else parameters.repeat_penalty
        frequency = parameters.frequency_penalty or 0.0
        presence = parameters.presence_penalty or 0.0
        penalises = (repeat, frequency, presence) != (1.0, 0.0, 0.0)
        if penalises:
            self._add(llama.llama_sampler_init_penalties(vocab_size, PENALTY_TOKENS, repeat, frequency, presence))
        return penalises

    def _add(self, sampler: object) -> None:
        # The chain owns what is added to it and frees it.
        llama.llama_sampler_chain_add(self._chain, sampler)


def candidates_of(logits: NDArray[np.float32], tokens: NDArray[np.intp]) -> NDArray[np.void]:
    """llama_token_data of these tokens."""
    candidates = np.zeros(len(tokens), _CANDIDATE)
    candidates["id"] = tokens
    candidates["logit"] = logits[tokens]
    return candidates


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
