"""Every reason with which an attempt can end is a word of the vocabulary."""

import re
from pathlib import Path

import headrace_bus
from headrace_crds.reasons import Reason
from headrace_runner.engine.protocol import Reason as EngineReason

WORDS = {reason.value for reason in Reason}


def test_what_an_engine_says_of_a_generation_is_a_word() -> None:
    # ProtocolError is about a connection: its generations end as EngineLost.
    assert {reason.value for reason in EngineReason} - {EngineReason.PROTOCOL_ERROR.value} <= WORDS


def test_what_the_bus_gives_back_in_a_runners_name_has_a_word() -> None:
    source = (Path(headrace_bus.__file__).parent / "bus.py").read_text()
    released = set(re.findall(r'release\(model, \S+, "(\w+)"\)', source))
    assert released == {Reason.CLAIM_ANSWERED_LATE.value}
