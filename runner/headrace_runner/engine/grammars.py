"""Compiles the shape that a request asks for: JSON Schema, GBNF, regular expression or choice → llguidance's matcher.

JSON Schema goes down a ladder until a rung holds; what the mask then enforces is told:

| rung | what                                                                   | enforcement   |
|------|------------------------------------------------------------------------|---------------|
| 1    | every keyword enforced, as it is or in equivalent words                 | Grammar       |
| 2    | keywords replaced by narrower ones that imply them (``narrow`` only)     | Grammar       |
| 3    | what no mask can express is left to the validation afterwards            | ValidatedOnly |

Whitespace is compact, because models otherwise fill the room with it.
"""

import collections
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import llguidance
from llguidance.gbnf_to_lark import gbnf_to_lark

from headrace_runner.engine.constraint import Constraint, Start, in_a_line
from headrace_runner.engine.filling import MaskFiller
from headrace_runner.engine.narrowing import equivalent, narrowed
from headrace_runner.engine.protocol import Enforcement, Generate, Reason, Refusal
from headrace_runner.engine.vocabulary import Vocabulary

MAX_COMPILE_SECONDS: Final = 2.0
MAX_CACHED: Final = 64
# Fuel in place of a clock, which cannot stop native code: llguidance gives 50,000 units a millisecond for lexers.
_LIMITS: Final = llguidance.LLParserLimits(
    initial_lexer_fuel=20_000_000,
    step_lexer_fuel=500_000,
    max_lexer_states=20_000,
    max_grammar_size=200_000,
    verbose_errors=False,
)
_STRICT: Final[Any] = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":", "lenient": False}
_LENIENT: Final[Any] = {**_STRICT, "lenient": True, "coerce_one_of": True}
_REMEDY: Final = "simplify it, or leave output out and ask for the shape in the prompt"


class _Compiled:
    """A matcher at its start, to be copied for every sequence; thread-safe."""

    def __init__(self, make: Callable[[], Any], matcher: Any, enforcement: Enforcement, *, is_json: bool) -> None:
        self.enforcement: Enforcement = enforcement
        self.is_json = is_json
        self._make = make
        self._matcher = matcher
        self._lock = threading.Lock()

    def start(self) -> Start:
        return Start(self._matcher, self._matcher.deep_copy(), self._renewed)

    def _renewed(self, spent: Any) -> Start:
        """All copies of a matcher share its lexer, whose states only grow: what earlier sequences have seen must not
        use up the bound of later ones.
        """
        with self._lock:
            if self._matcher is spent:
                self._matcher = self._make()
        return self.start()


class TokenMasks:
    """Makes constraints for one vocabulary; thread-safe. The last ``MAX_CACHED`` grammars are kept."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._filler = MaskFiller()
        self._lock = threading.Lock()
        self._cache: collections.OrderedDict[bytes, _Compiled | Refusal] = collections.OrderedDict()

    def prepare(self) -> None:
        """Fill the masks that the next step needs: call it right before a decode."""
        self._filler.prepare()

    def constraint(self, request: Generate) -> Constraint:
        """Compile the shape that the request asks for.

        Raises Refusal: InvalidSchema (cannot be read) or UnsupportedSchema (beyond the limits). Blocks for
        milliseconds; the GIL is released. Call it off the decode thread.
        """
        compiled = self._cached(request)
        return Constraint(
            compiled.start(), self._vocabulary, self._filler, compiled.enforcement, is_json=compiled.is_json
        )

    def _cached(self, request: Generate) -> _Compiled:
        parts = (request.json_schema, request.grammar, request.regex, request.choice, request.narrow)
        digest = hashlib.sha256(repr(parts).encode()).digest()
        with self._lock:
            found = self._cache.get(digest)
            if found is not None:
                self._cache.move_to_end(digest)
        if found is None:
            found = self._compiled(request)
            with self._lock:
                self._cache[digest] = found
                while len(self._cache) > MAX_CACHED:
                    self._cache.popitem(last=False)
        if isinstance(found, Refusal):
            raise Refusal(found.reason, found.message)
        return found

    def _compiled(self, request: Generate) -> _Compiled | Refusal:
        began = time.monotonic()
        try:
            if request.json_schema:
                compiled = self._of_schema(request.json_schema, narrow=request.narrow)
            elif request.grammar:
                compiled = self._of(_lark(request.grammar), "output.grammar")
            elif request.regex:
                compiled = self._of(llguidance.LLMatcher.grammar_from_regex(request.regex), "output.regex")
            else:
                compiled = self._of(_choice(request.choice), "output.choice")
        except Refusal as refusal:
            return refusal
        except (RecursionError, ValueError, TypeError) as error:
            # Python's own limits and what is no schema at all; a second try would end the same way.
            message = f"output cannot be compiled: {in_a_line(str(error))}: {_REMEDY}"
            return Refusal(Reason.UNSUPPORTED_SCHEMA, message)
        elapsed = time.monotonic() - began
        if elapsed > MAX_COMPILE_SECONDS:
            message = f"output took {elapsed:.1f} s to compile, {MAX_COMPILE_SECONDS:.0f} s are allowed: {_REMEDY}"
            return Refusal(Reason.UNSUPPORTED_SCHEMA, message)
        return compiled

    def _of(self, grammar: str, name: str) -> _Compiled:
        matcher, error = self._matcher(grammar)
        if error:
            raise Refusal(Reason.INVALID_SCHEMA, f"{name} cannot be compiled: {error}: correct it or simplify it")
        return self._kept(grammar, matcher, "Grammar", is_json=False)

    def _of_schema(self, schema_text: str, *, narrow: bool) -> _Compiled:
        schema = _read(schema_text)
        exact = equivalent(schema)
        errors = []
        for rung, options, enforcement in _rungs(exact, narrow=narrow):
            try:
                # The author's own text where nothing is rewritten: long numbers survive.
                text = "{}" if rung is True else schema_text if rung is schema else json.dumps(rung)
                grammar = llguidance.LLMatcher.grammar_from_json_schema(text, overrides=options)
            except ValueError as error:
                errors.append(in_a_line(str(error)))
                continue
            matcher, refused = self._matcher(grammar)
            if not refused:
                return self._kept(grammar, matcher, enforcement, is_json=True)
            errors.append(refused)
        raise Refusal(Reason.UNSUPPORTED_SCHEMA, f"output.jsonSchema cannot be compiled: {errors[0]}: {_REMEDY}")

    def _kept(self, grammar: str, matcher: Any, enforcement: Enforcement, *, is_json: bool) -> _Compiled:
        return _Compiled(lambda: self._matcher(grammar)[0], matcher, enforcement, is_json=is_json)

    def _matcher(self, grammar: str) -> tuple[Any, str]:
        matcher = llguidance.LLMatcher(self._vocabulary.tokenizer, grammar, log_level=0, limits=_LIMITS)
        return matcher, in_a_line(matcher.get_error()) if matcher.is_error() else ""


def _read(schema_text: str) -> dict[str, Any] | bool:
    try:
        schema = json.loads(schema_text)
    except (ValueError, RecursionError) as error:
        raise Refusal(Reason.INVALID_SCHEMA, f"output.jsonSchema is not JSON: {error}") from error
    if schema is False:
        raise Refusal(Reason.UNSUPPORTED_SCHEMA, "output.jsonSchema is false, which admits no document: change it")
    if not isinstance(schema, dict | bool):
        raise Refusal(Reason.INVALID_SCHEMA, "output.jsonSchema is neither an object nor a boolean")
    return schema


def _rungs(exact: Any, *, narrow: bool) -> Iterator[tuple[Any, Any, Enforcement]]:
    yield exact, _STRICT, "Grammar"
    if narrow and (narrower := narrowed(exact)) is not exact:
        yield narrower, _STRICT, "Grammar"
        yield narrower, _LENIENT, "ValidatedOnly"
    yield exact, _LENIENT, "ValidatedOnly"


def _lark(grammar: str) -> str:
    try:
        return llguidance.LLMatcher.grammar_from_lark(gbnf_to_lark(grammar))
    except Exception as error:
        message = f"output.grammar is not GBNF: {in_a_line(str(error))}: correct it"
        raise Refusal(Reason.INVALID_SCHEMA, message) from error


def _choice(choices: tuple[str, ...]) -> str:
    # JSON's escapes are those of Lark's strings.
    alternatives = " | ".join(json.dumps(text, ensure_ascii=False) for text in choices)
    return llguidance.LLMatcher.grammar_from_lark(f"start: {alternatives}")
