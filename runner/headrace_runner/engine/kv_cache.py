"""The KV cache behind its ledger: every change of llama.cpp's memory is made and noted here.

The cache is unified: one pool of cells for all sequences, so that a prefix is shared and not copied, and what one
sequence does not need another can have.
"""

from collections.abc import Iterable
from typing import Final

import llama_cpp.llama_cpp as llama

from headrace_runner.engine.ledger import Ledger
from headrace_runner.engine.model import LoadedModel
from headrace_runner.engine.prefixes import PrefixStore, Tokens

_PREFIX_SHARE: Final = 4
"""At most one cell in so many holds a kept prefix: each step looks at all cells, whoever they belong to."""


class KvCache:
    """For the decode thread alone. Sequences below ``model.parallelism`` generate, those above hold prefixes."""

    def __init__(self, model: LoadedModel, cells: int) -> None:
        self.ledger = Ledger(cells)
        self._memory = llama.llama_get_memory(model.context)
        self._forgets = model.no_prefixes_because is not None
        holders = range(model.parallelism, model.parallelism + model.prefix_sequences)
        self.prefixes = PrefixStore(holders, cells // _PREFIX_SHARE)

    @property
    def shares_prefixes(self) -> bool:
        """Whether a part of a sequence can be copied; all of one always can."""
        return not self._forgets

    def clear(self) -> None:
        """Forget everything, kept prefixes included; the next token goes into the first cell again."""
        while (prefix := self.prefixes.evict()) is not None:
            self.ledger.release(prefix)
        llama.llama_memory_clear(self._memory, False)

    def copy(self, source: int, target: int, count: int) -> None:
        """Let ``target`` share the first ``count`` cells of ``source``."""
        self.ledger.share(source, target, count)
        llama.llama_memory_seq_cp(self._memory, source, target, 0, count)

    def remove(self, seq_id: int, *, trusted: bool = True) -> None:
        """Forget a sequence, and check first that llama.cpp knew it as the ledger did.

        ``trusted`` False is for what a failed step left half done. Raises LedgerMismatch, RuntimeError.
        """
        if trusted:
            self.check((seq_id,))
        self.ledger.release(seq_id)
        if not llama.llama_memory_seq_rm(self._memory, seq_id, -1, -1):
            raise RuntimeError(f"sequence {seq_id} cannot be removed from memory")

    def check(self, seq_ids: Iterable[int]) -> None:
        """Compare these sequences and all kept prefixes with llama.cpp. Raises LedgerMismatch."""
        self.ledger.check(seq_ids, self._positions)

    def keep(self, source: int, tokens: Tokens) -> None:
        """Keep the beginning ``tokens`` of the sequence ``source`` for prompts to come, where there is room."""
        target, evicted = self.prefixes.keep(tokens)
        for seq_id in evicted:
            self.remove(seq_id)
        if target is not None:
            self.copy(source, target, len(tokens))

    def make_room(self, cells: int, besides: int | None = None) -> bool:
        """Evict kept prefixes, but not that of ``besides``, until ``cells`` are free; False where that is in vain."""
        while self.ledger.free < cells:
            evicted = self.prefixes.evict(besides)
            if evicted is None:
                return False
            self.remove(evicted)
        return True

    def _positions(self, seq_id: int) -> tuple[int, int]:
        last = int(llama.llama_memory_seq_pos_max(self._memory, seq_id))
        if self._forgets:
            # What a sliding window has passed is gone, and a state has no first position.
            return (0, last) if last >= 0 else (-1, -1)
        return int(llama.llama_memory_seq_pos_min(self._memory, seq_id)), last
