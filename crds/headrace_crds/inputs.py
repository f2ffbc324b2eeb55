"""What goes into a generation: the model's name, sampling parameters, the shape of the output."""

from typing import Annotated, ClassVar, Final

from pydantic import Field

from headrace_crds.base import DECIMAL, DNS_LABEL, SIGNED_DECIMAL, ApiModel, Rule, exactly_one_of

INPUT_LIMIT_BYTES: Final = 256 * 1024
LARGE_INPUT_LIMIT_BYTES: Final = 900 * 1024
"""Of a text that inputFrom refers to."""
DEFAULT_MAX_REPAIRS: Final = 2
OBJECT_NAME: Final = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
DATA_KEY: Final = r"^[-._a-zA-Z0-9]+$"


class ModelRef(ApiModel):
    """Names an LLMModel."""

    name: Annotated[str, Field(min_length=1, max_length=40, pattern=DNS_LABEL)]
    """Name of the LLMModel. It may be created later than the task."""
    namespace: Annotated[str, Field(min_length=1, max_length=63, pattern=DNS_LABEL)] | None = None
    """Namespace of the LLMModel, where its spec.sharing admits the task's namespace; absent: the task's own."""


class KeyRef(ApiModel):
    """One entry of a ConfigMap or Secret in the task's namespace."""

    name: Annotated[str, Field(min_length=1, max_length=253, pattern=OBJECT_NAME)]
    """Name of the object."""
    key: Annotated[str, Field(min_length=1, max_length=253, pattern=DATA_KEY)]
    """Key of its data."""


class Embed(ApiModel):
    """Texts to turn into vectors."""

    rules: ClassVar = (
        Rule(
            "self.input.map(text, size(text)).sum() <= 262144",
            "embed.input holds more than 262144 characters together: split it into several tasks",
            ".input",
        ),
    )

    input: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=65_536)]],
        Field(min_length=1, max_length=512),
    ]
    """One vector comes out for each. Each has to fit into the model's context."""


class InputFrom(ApiModel):
    """Where a prompt that is too large for the object comes from."""

    rules: ClassVar = (exactly_one_of("configMapKeyRef", message="inputFrom needs configMapKeyRef: {name, key}"),)

    config_map_key_ref: KeyRef | None = None
    """A ConfigMap of the task's namespace with the label headrace.dev/input: "true". Its text is one user message."""


class Parameters(ApiModel):
    """How tokens are chosen. Absent members take the model's defaults."""

    rules: ClassVar = (
        Rule(
            "!has(self.temperature) || double(self.temperature) <= 2.0",
            'temperature must be between 0 and 2, as a string such as "0.7"',
            ".temperature",
        ),
        Rule(
            "!has(self.topP) || double(self.topP) <= 1.0",
            'topP must be between 0 and 1, as a string such as "0.95"',
            ".topP",
        ),
        Rule(
            "!has(self.minP) || double(self.minP) <= 1.0",
            'minP must be between 0 and 1, as a string such as "0.05"',
            ".minP",
        ),
        Rule(
            "!has(self.presencePenalty) || "
            "(double(self.presencePenalty) >= -2.0 && double(self.presencePenalty) <= 2.0)",
            "presencePenalty must be between -2 and 2",
            ".presencePenalty",
        ),
        Rule(
            "!has(self.frequencyPenalty) || "
            "(double(self.frequencyPenalty) >= -2.0 && double(self.frequencyPenalty) <= 2.0)",
            "frequencyPenalty must be between -2 and 2",
            ".frequencyPenalty",
        ),
        Rule(
            "!has(self.repeatPenalty) || (double(self.repeatPenalty) > 0.0 && double(self.repeatPenalty) <= 4.0)",
            "repeatPenalty must be above 0 and at most 4; 1 switches it off",
            ".repeatPenalty",
        ),
    )

    temperature: Annotated[str, Field(max_length=16, pattern=DECIMAL)] | None = None
    """Randomness from "0" (always the likeliest token) to "2", a decimal as a string."""
    max_tokens: Annotated[int, Field(ge=1, le=131072)] | None = None
    """Upper bound of generated tokens. The room left in the model's context also bounds it."""
    top_p: Annotated[str, Field(max_length=16, pattern=DECIMAL)] | None = None
    """Sample from the smallest set of tokens whose probability sums up to this, "0" to "1"."""
    top_k: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Sample from the k likeliest tokens; 0 switches it off."""
    min_p: Annotated[str, Field(max_length=16, pattern=DECIMAL)] | None = None
    """Drop tokens less likely than this share of the likeliest, "0" to "1"."""
    seed: Annotated[int, Field(ge=0, le=4294967294)] | None = None
    """Makes sampling repeatable on the same model, build and machine."""
    stop: Annotated[list[Annotated[str, Field(min_length=1, max_length=64)]], Field(max_length=8)] | None = None
    """Texts that end the generation; they are not part of the result."""
    presence_penalty: Annotated[str, Field(max_length=16, pattern=SIGNED_DECIMAL)] | None = None
    """Penalty for tokens that have appeared at all, "-2" to "2"."""
    frequency_penalty: Annotated[str, Field(max_length=16, pattern=SIGNED_DECIMAL)] | None = None
    """Penalty that grows with each appearance of a token, "-2" to "2"."""
    repeat_penalty: Annotated[str, Field(max_length=16, pattern=DECIMAL)] | None = None
    """llama.cpp's multiplicative repetition penalty; "1" switches it off."""


class Output(ApiModel):
    """Shape that the result must have."""

    rules: ClassVar = (
        exactly_one_of(
            "jsonSchema",
            "grammar",
            "regex",
            "choice",
            message="output needs jsonSchema, grammar, regex or choice, and only one of them: "
            "set one, remove the others; leave output out for plain text",
        ),
        Rule(
            "!has(self.jsonSchema) || size(bytes(self.jsonSchema)) <= 65536",
            "jsonSchema holds more than 65536 bytes in UTF-8: shorten it",
            ".jsonSchema",
        ),
        Rule(
            "!has(self.grammar) || size(bytes(self.grammar)) <= 65536",
            "grammar holds more than 65536 bytes in UTF-8: shorten it",
            ".grammar",
        ),
    )

    json_schema: Annotated[str, Field(min_length=2, max_length=65536)] | None = None
    """A JSON Schema as JSON *text*: the API server would reorder a structured one, and the order of properties steers
    the model. Sampling is constrained by it and the result is validated against it."""
    grammar: Annotated[str, Field(min_length=1, max_length=65536)] | None = None
    """A grammar in llama.cpp's GBNF, with a rule named root, that the whole result follows."""
    regex: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    """A regular expression (the syntax of Rust's regex crate: no look-around, no back-references) that the whole
    result matches."""
    choice: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=512)]],
            Field(min_length=1, max_length=128, json_schema_extra={"x-kubernetes-list-type": "set"}),
        ]
        | None
    ) = None
    """The result is one of these texts, byte for byte."""
    max_repairs: Annotated[int, Field(ge=0, le=5)] = DEFAULT_MAX_REPAIRS
    """How often the model is asked again, with the error, where the result does not have the shape; then the task is
    Failed as InvalidOutput. Tokens of all tries count."""

    def texts(self) -> list[str]:
        """What the author of the task wrote: it counts as input."""
        given = [text for text in (self.json_schema, self.grammar, self.regex) if text is not None]
        return [*given, *(self.choice or [])]
