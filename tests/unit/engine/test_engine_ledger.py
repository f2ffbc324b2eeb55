"""The ledger of KV cells against a model that knows each cell by itself."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from headrace_runner.engine.ledger import Ledger, LedgerMismatch

TOTAL = 60
IDS = st.integers(0, 5)


class CellByCell(RuleBasedStateMachine):
    """Every cell has a name; a sequence is a list of them, and those in use are those in some list."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(TOTAL)
        self.cells: dict[int, list[int]] = {}
        self.names = itertools.count()

    def in_use(self) -> set[int]:
        return set(itertools.chain.from_iterable(self.cells.values()))

    @rule(seq_id=IDS, count=st.integers(1, 20))
    def extend(self, seq_id: int, count: int) -> None:
        if len(self.in_use()) + count > TOTAL:
            with pytest.raises(ValueError, match="are free"):
                self.ledger.extend(seq_id, count)
            return
        self.ledger.extend(seq_id, count)
        self.cells.setdefault(seq_id, []).extend(next(self.names) for _ in range(count))

    @precondition(lambda self: self.cells)
    @rule(data=st.data(), taker=IDS)
    def share(self, data: st.DataObject, taker: int) -> None:
        source = data.draw(st.sampled_from(sorted(self.cells)))
        count = data.draw(st.integers(1, len(self.cells[source])))
        if taker in self.cells:
            with pytest.raises(ValueError, match="cannot take"):
                self.ledger.share(source, taker, count)
            return
        self.ledger.share(source, taker, count)
        self.cells[taker] = self.cells[source][:count]

    @precondition(lambda self: self.cells)
    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        seq_id = data.draw(st.sampled_from(sorted(self.cells)))
        count = data.draw(st.integers(1, len(self.cells[seq_id])))
        lost = set(self.cells[seq_id][count:])
        if any(lost & set(cells) for other, cells in self.cells.items() if other != seq_id):
            with pytest.raises(ValueError, match="cannot be cut"):
                self.ledger.truncate(seq_id, count)
            return
        try:
            self.ledger.truncate(seq_id, count)
        except ValueError:
            # What was shared once and is no more counts as shared.
            return
        del self.cells[seq_id][count:]

    @rule(seq_id=IDS)
    def release(self, seq_id: int) -> None:
        before = self.in_use()
        self.cells.pop(seq_id, None)
        assert self.ledger.release(seq_id) == len(before - self.in_use())

    @invariant()
    def every_cell_is_counted_once(self) -> None:
        assert self.ledger.used == len(self.in_use())
        assert self.ledger.free == TOTAL - self.ledger.used
        for seq_id in range(6):
            assert self.ledger.length(seq_id) == len(self.cells.get(seq_id, ()))


TestCellByCell = CellByCell.TestCase
TestCellByCell.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(st.integers(1, 10), st.sampled_from([(-1, 0), (1, 0), (0, 1), (0, -1)]))
def test_a_view_that_differs_is_a_mismatch(length: int, off: tuple[int, int]) -> None:
    ledger = Ledger(TOTAL)
    ledger.extend(3, length)
    ledger.check((3,), lambda seq_id: (0, length - 1))
    with pytest.raises(LedgerMismatch, match="sequence 3"):
        ledger.check((3,), lambda seq_id: (off[0], length - 1 + off[1]))


def test_an_empty_sequence_has_no_positions() -> None:
    ledger = Ledger(TOTAL)
    ledger.check((0,), lambda seq_id: (-1, -1))
    with pytest.raises(LedgerMismatch):
        ledger.check((0,), lambda seq_id: (0, 0))
