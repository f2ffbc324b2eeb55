"""What a mutant replaces stands in the tree: one whose text went away would prove nothing."""

from pathlib import Path

import pytest

from tests.chaos.main import FAULTS
from tests.chaos.mutants import mutate
from tests.chaos.mutations import MUTANTS, Edit, Mutant

CHECKOUT = Path(__file__).parents[3]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_changes_what_is_there(mutant: Mutant) -> None:
    assert mutant.edits
    for edit in mutant.edits:
        assert (CHECKOUT / edit.path).read_text().count(edit.old) == 1, edit
    assert set(mutant.faults.split(",")) <= {fault.name for fault in FAULTS}


def test_one_whose_text_is_gone_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("twice twice")
    for old in ("twice", "absent"):
        with pytest.raises(ValueError, match="file holds"):
            mutate(tmp_path, Mutant("m", "", (Edit("file", old, ""),), "none", frozenset()))
