"""The KV cache behind its ledger: every change of llama.cpp's memory is made and noted here.

Two kinds. *Unified*: one pool of cells for all sequences, so that a prefix is shared and not copied, and what one does
not need another can have; but each step looks at all cells in use for every sequence. *Separate*: each sequence has a
stream of its own, looks at nothing else, and a prefix is copied, or taken over where its last owner left it.
"""

from collections.abc import Iterable
from typing import Final

import llama_cpp.llama_cpp as llama

from headrace_runner.engine.ledger import Ledger
from headrace_runner.engine.model import LoadedModel
from headrace_runner.engine.prefixes import PrefixStore, Scope, Tokens

_PREFIX_SHARE: Final = 4
"""At most one cell in so many holds a kept prefix: each step looks at all cells, whoever they belong to."""


class KvCache:
    """For the decode thread alone.

    Sequences below ``model.parallelism`` generate; those above, where the cache is unified, hold prefixes.
    """

    def __init__(self, model: LoadedModel, cells: int) -> None:
        self.ledger = Ledger(cells)
        self.unified = model.kv_unified
        self._memory = llama.llama_get_memory(model.context)
        self._forgets = model.no_prefixes_because is not None
        holders = range(model.parallelism, model.parallelism + model.prefix_sequences)
        self.prefixes = PrefixStore(holders, cells // _PREFIX_SHARE if self.unified else cells)

    @property
    def shares_prefixes(self) -> bool:
        """Whether a part of a sequence can be copied; all of one always can."""
        return not self._forgets

    def clear(self) -> list[int]:
        """Forget everything, kept prefixes included; gives their sequences.

        The next token goes into the first cell again.
        """
        evicted = []
        while (prefix := self.prefixes.evict()) is not None:
            self.ledger.release(prefix)
            evicted.append(prefix)
        llama.llama_memory_clear(self._memory, False)
        return evicted

    def copy(self, source: int, target: int, count: int) -> None:
        """Let ``target``, which holds nothing, hold the first ``count`` cells of ``source`` as well."""
        if self.unified:
            self.ledger.share(source, target, count)
            llama.llama_memory_seq_cp(self._memory, source, target, 0, count)
            return
        # Between streams llama.cpp copies all or nothing.
        self.ledger.extend(target, self.ledger.length(source))
        llama.llama_memory_seq_cp(self._memory, source, target, -1, -1)
        self._cut(target, count)

    def take_over(self, prefix: int, count: int) -> None:
        """Make a kept prefix's stream that of a sequence which begins with ``count`` of its tokens."""
        self.prefixes.hand_over(prefix)
        self._cut(prefix, count)

    def leave_behind(self, scope: Scope, seq_id: int, tokens: Tokens) -> bool:
        """Keep the beginning ``tokens`` in the stream of a sequence that ends; False where it is of no use there."""
        if self.unified or not self.prefixes.inherit(scope, seq_id, tokens):
            return False
        self.check((seq_id,))
        self._cut(seq_id, len(tokens))
        return True

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

    def keep(self, scope: Scope, source: int, tokens: Tokens) -> None:
        """Share the beginning ``tokens`` of the sequence ``source`` with its scope's prompts to come, where it fits."""
        target, evicted = self.prefixes.keep(scope, tokens)
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

    def _cut(self, seq_id: int, count: int) -> None:
        if self.ledger.length(seq_id) == count:
            return
        self.ledger.truncate(seq_id, count)
        if not llama.llama_memory_seq_rm(self._memory, seq_id, count, -1):
            raise RuntimeError(f"sequence {seq_id} cannot be cut")

    def _positions(self, seq_id: int) -> tuple[int, int]:
        last = int(llama.llama_memory_seq_pos_max(self._memory, seq_id))
        if self._forgets:
            # What a sliding window has passed is gone, and a state has no first position.
            return (0, last) if last >= 0 else (-1, -1)
        return int(llama.llama_memory_seq_pos_min(self._memory, seq_id)), last
