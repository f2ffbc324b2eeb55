"""llama.cpp's batch: the tokens of one decode step."""

from typing import Any

import llama_cpp.llama_cpp as llama


class TokenBatch:
    """A batch of at most ``capacity`` tokens, each of one sequence.

    llama_batch_init leaves every member uninitialised, so ``add`` sets all of a row.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.native: Any = llama.llama_batch_init(capacity, 0, 1)
        self.clear()

    def __len__(self) -> int:
        return int(self.native.n_tokens)

    @property
    def room(self) -> int:
        """How many tokens still fit."""
        return self.capacity - len(self)

    def clear(self) -> None:
        """Begin the next step."""
        self.native.n_tokens = 0

    def add(self, token: int, position: int, seq_id: int, *, wants_logits: bool) -> int:
        """Add a token; gives its row, by which its logits are found after the step."""
        row = len(self)
        native = self.native
        native.token[row] = token
        native.pos[row] = position
        native.n_seq_id[row] = 1
        native.seq_id[row][0] = seq_id
        native.logits[row] = wants_logits
        native.n_tokens = row + 1
        return row
