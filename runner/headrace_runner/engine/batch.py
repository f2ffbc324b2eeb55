"""llama.cpp's batch: the tokens of one decode step."""

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np


class TokenBatch:
    """A batch of at most ``capacity`` tokens, each of one sequence.

    The memory is numpy's, written by slices: item by item through ctypes a prompt's chunk takes a hundred times as
    long. Nothing of it is initialised by llama.cpp, so ``add`` sets all of a row.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._token = np.zeros(capacity, np.int32)
        self._position = np.zeros(capacity, np.int32)
        self._seq_id = np.zeros(capacity, np.int32)
        self._wants_logits = np.zeros(capacity, np.int8)
        # One sequence a token; a row's list of sequences is the row's place in _seq_id.
        self._ones = np.ones(capacity, np.int32)
        self._pointers = self._seq_id.ctypes.data + np.arange(capacity, dtype=np.uintp) * self._seq_id.itemsize
        self.native: Any = llama.llama_batch(
            token=_pointer(self._token, llama.llama_token),
            pos=_pointer(self._position, llama.llama_pos),
            n_seq_id=_pointer(self._ones, ctypes.c_int32),
            seq_id=_pointer(self._pointers, ctypes.POINTER(llama.llama_seq_id)),
            logits=_pointer(self._wants_logits, ctypes.c_int8),
        )
        self.clear()

    def __len__(self) -> int:
        return int(self.native.n_tokens)

    def clear(self) -> None:
        """Begin the next step."""
        self.native.n_tokens = 0

    def add(self, tokens: Sequence[int], position: int, seq_id: int, *, wants_logits: bool) -> int:
        """Add consecutive tokens of a sequence, the first at ``position``; gives the last one's row.

        By that row its logits are found after the step, where they were wanted.
        """
        begin = len(self)
        end = begin + len(tokens)
        if end > self.capacity:
            raise ValueError(f"{end} tokens in a batch of {self.capacity}")
        self._token[begin:end] = tokens
        self._position[begin:end] = range(position, position + len(tokens))
        self._seq_id[begin:end] = seq_id
        self._wants_logits[begin:end] = 0
        self._wants_logits[end - 1] = wants_logits
        self.native.n_tokens = end
        return end - 1


def _pointer(array: Any, kind: Any) -> Any:
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(kind))
