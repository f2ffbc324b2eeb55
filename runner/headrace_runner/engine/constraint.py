"""JSON Schema as a mask over the vocabulary: llguidance decides at every step which tokens may follow.

Strict: a schema with a keyword that llguidance cannot enforce is refused, never enforced in part. Whitespace is
compact, because models otherwise fill the room with it.
"""

import ctypes
import json
import time
from typing import Any, Final

import llguidance
import llguidance.numpy
import numpy as np
from numpy.typing import NDArray

from headrace_runner.engine.protocol import Enforcement, FinishReason, Reason, Refusal

MAX_COMPILE_SECONDS: Final = 2.0
# Fuel in place of a clock, which cannot stop native code: llguidance gives 50,000 units a millisecond for lexers.
_LIMITS: Final = llguidance.LLParserLimits(
    initial_lexer_fuel=20_000_000, step_lexer_fuel=500_000, max_lexer_states=50_000, verbose_errors=False
)
_OPTIONS: Final[Any] = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":", "lenient": False}
# A mask is only ever -inf or untouched; finite logits stay as the model gave them.
_MASKED: Final = np.float32(-np.inf)


class TokenMasks:
    """Makes constraints for one vocabulary. Building takes 0.1 to 1 s, so it is built once."""

    def __init__(self, tokenizer: Any, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size

    def compile(self, schema_text: str) -> "Constraint":
        """Compile JSON text. Raises Refusal: InvalidSchema (not a schema) or UnsupportedSchema (llguidance's words).

        Blocks for milliseconds, in the worst case MAX_COMPILE_SECONDS; releases the GIL. Call it off the decode thread.
        """
        try:
            schema = json.loads(schema_text)
        except (ValueError, RecursionError) as error:
            raise Refusal(Reason.INVALID_SCHEMA, f"json_schema is not JSON: {error}") from error
        if schema is False:
            raise Refusal(Reason.UNSUPPORTED_SCHEMA, "the schema false admits no document")
        if not isinstance(schema, (dict, bool)):
            raise Refusal(Reason.INVALID_SCHEMA, "json_schema is neither an object nor a boolean")
        began = time.monotonic()
        try:
            # The text and not the parsed value: property order and long numbers survive.
            text = "{}" if schema is True else schema_text  # llguidance takes no boolean schema
            grammar = llguidance.LLMatcher.grammar_from_json_schema(text, overrides=_OPTIONS)
        except ValueError as error:
            raise Refusal(Reason.UNSUPPORTED_SCHEMA, _first_line(str(error))) from error
        matcher = llguidance.LLMatcher(self._tokenizer, grammar, log_level=0, limits=_LIMITS)
        if matcher.is_error():
            raise Refusal(Reason.UNSUPPORTED_SCHEMA, _first_line(matcher.get_error()))
        elapsed = time.monotonic() - began
        if elapsed > MAX_COMPILE_SECONDS:
            message = f"the schema took {elapsed:.1f} s to compile, at most {MAX_COMPILE_SECONDS:.0f} s are allowed"
            raise Refusal(Reason.UNSUPPORTED_SCHEMA, message)
        return Constraint(matcher, self._vocab_size)


class Constraint:
    """Where one sequence is in its grammar."""

    def __init__(self, matcher: Any, vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._bits: NDArray[np.int32] = llguidance.numpy.allocate_token_bitmask(1, vocab_size)

    enforcement: Enforcement = "Grammar"

    def begin(self, token_budget: int) -> None:
        """Say how many tokens the document may have, before the first mask."""

    def prepare(self) -> None:
        """Begin to fill masks beside the decode that follows; may do so for all constraints of this vocabulary."""

    @property
    def finish_reason(self) -> FinishReason:
        """Of a complete document."""
        return "Stop"

    def fork(self) -> "Constraint":
        """Give one that stands where this one does, and goes on by itself."""
        return Constraint(self._matcher.deep_copy(), self._vocab_size)

    def apply(self, logits_pointer: Any) -> bool:
        """Mask a row of logits (float32, vocabulary long) in place; False where no token may follow.

        False must end the sequence: a sampler draws the last token of a row that is all -inf. Raises Refusal with
        UnsupportedSchema where the grammar broke a limit.
        """
        llguidance.numpy.fill_next_token_bitmask(self._matcher, self._bits)
        if self._matcher.is_error():
            raise Refusal(Reason.UNSUPPORTED_SCHEMA, _first_line(self._matcher.get_error()))
        if not self._bits.any():
            return False
        mask_logits(logits_pointer, self._bits[0], self._vocab_size)
        return True

    def consume(self, token: int) -> bool:
        """Advance by a sampled token; True where the document is complete and nothing can follow."""
        if not self._matcher.consume_token(token):
            raise Refusal(Reason.UNSUPPORTED_SCHEMA, _first_line(self._matcher.get_error()))
        return bool(self._matcher.is_stopped())

    def is_complete(self) -> bool:
        """Tell whether what was consumed is a whole document."""
        return bool(self._matcher.is_accepting())


def mask_logits(logits_pointer: Any, bits: NDArray[np.int32], vocab_size: int) -> None:
    """Set the logits of tokens whose bit is clear to -inf, in place.

    ``unpackbits`` and ``copyto`` take a tenth of the time of llguidance's own numpy kernel.
    """
    logits = np.ctypeslib.as_array(ctypes.cast(logits_pointer, ctypes.POINTER(ctypes.c_float)), shape=(vocab_size,))
    allowed = np.unpackbits(bits.view(np.uint8), count=vocab_size, bitorder="little").view(np.bool_)
    np.copyto(logits, _MASKED, where=~allowed)


def _first_line(message: str) -> str:
    return (message.strip().splitlines() or ["the grammar was refused"])[0][:500]
