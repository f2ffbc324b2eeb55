"""``Parked``: a result too large for the runner to commit, on its way through Redis to the operator.

The runner writes it by `Bus.park`, the operator reads it by `Bus.parked`. What stands in a model's Redis keys is
hostile input: reading checks every member, so that what was read can be written into an object as it is.
"""

import base64
import binascii
import hashlib
import zlib
from typing import Annotated, Final, Literal, Self

from pydantic import ConfigDict, Field, PrivateAttr, model_validator

from headrace_crds.base import SHA256, ApiModel
from headrace_crds.dialogue import ARGUMENTS_LIMIT_BYTES, MAX_TOOL_CALLS, ToolCall
from headrace_crds.inputs import OBJECT_NAME, KeyRef
from headrace_crds.outcome import text_digest
from headrace_crds.reasons import Reason
from headrace_crds.result import LARGE_RESULT_LIMIT_BYTES, REASONING_LIMIT_CHARS, Enforcement, Result, Timings, Usage
from headrace_crds.task import Outcome

_LEVEL: Final = 6
_ENCODED_LIMIT_CHARS: Final = 1024 * 1024
_LAST_MS: Final = 253_402_300_799_999
"""The end of the year 9999: what lies beyond is no date."""
_COUNT_LIMIT: Final = 1 << 53

Milliseconds = Annotated[int, Field(ge=0, le=_LAST_MS)]


class Parked(ApiModel):
    """A generation whose text has more than 32 KiB and at most 900 KiB in UTF-8.

    The text is deflated: JSON's escapes would let 900 KiB outgrow the bus's bound, and Redis' memory is for queued
    work. Errors quote nothing of it.
    """

    model_config = ConfigDict(hide_input_in_errors=True)

    text_zlib: Annotated[str, Field(max_length=_ENCODED_LIMIT_CHARS)]
    """The text in UTF-8, zlib format (RFC 1950), base64. `text` holds it."""
    size_bytes: Annotated[int, Field(ge=1, le=LARGE_RESULT_LIMIT_BYTES)]
    """Size of the text in UTF-8."""
    sha256: Annotated[str, Field(pattern=SHA256)]
    """Digest of the text in UTF-8."""
    finish_reason: Literal["Stop", "Length", "Cancelled", "ToolCalls"]
    """Cancelled: the task was cancelled and this is what had been generated until then."""
    enforcement: Enforcement | None = None
    """How the task's output was enforced; the text was validated in any case."""
    repairs: Annotated[int, Field(ge=1, le=5)] | None = None
    """How often the model was asked again for the shape's sake."""
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_TOOL_CALLS)] | None = None
    """Calls beside the text, at most 32 KiB of arguments together."""
    reasoning: Annotated[str, Field(max_length=REASONING_LIMIT_CHARS)] | None = None
    """What came before the text."""
    usage: Usage
    """Tokens of the attempt."""
    timings: Timings
    """Where the attempt's time went."""
    claimed_ms: Milliseconds
    """Redis' time of the claim: startTime of the attempt's record, and of the status where it has none."""
    completed_ms: Milliseconds
    """Redis' time at which the text was there: completionTime."""
    pod: Annotated[str, Field(min_length=1, max_length=253, pattern=OBJECT_NAME)]
    """The pod that generated it."""

    _text: str = PrivateAttr("")

    @classmethod
    def of(
        cls,
        text: str,
        finish_reason: Literal["Stop", "Length", "Cancelled", "ToolCalls"],
        enforcement: Enforcement | None,
        usage: Usage,
        timings: Timings,
        *,
        repairs: int | None = None,
        tool_calls: list[ToolCall] | None = None,
        reasoning: str | None = None,
        claimed_ms: int,
        completed_ms: int,
        pod: str,
    ) -> Self:
        """What a runner parks. Raises ValueError where it is no text of 1 byte to 900 KiB."""
        raw = text.encode()
        size_bytes, sha256 = text_digest(text)
        return cls(
            text_zlib=base64.b64encode(zlib.compress(raw, _LEVEL)).decode(),
            size_bytes=size_bytes,
            sha256=sha256,
            finish_reason=finish_reason,
            enforcement=enforcement,
            repairs=repairs,
            tool_calls=tool_calls,
            reasoning=reasoning,
            usage=usage,
            timings=timings,
            claimed_ms=claimed_ms,
            completed_ms=completed_ms,
            pod=pod,
        )

    @property
    def text(self) -> str:
        return self._text

    @property
    def outcome(self) -> Outcome:
        """What the operator commits with this result."""
        return Outcome.CANCELLED if self.finish_reason == "Cancelled" else Outcome.COMPLETE

    @property
    def reason(self) -> Reason:
        """The outcome's reason."""
        return Reason.CANCELLED if self.outcome is Outcome.CANCELLED else Reason.SUCCEEDED

    def result(self, config_map_ref: KeyRef) -> Result:
        """The status member; the ConfigMap's key holds `text`."""
        return Result(
            config_map_ref=config_map_ref,
            partial=True if self.outcome is Outcome.CANCELLED else None,
            finish_reason=self.finish_reason,
            size_bytes=self.size_bytes,
            sha256=self.sha256,
            enforcement=self.enforcement,
            repairs=self.repairs,
            tool_calls=self.tool_calls,
            reasoning=self.reasoning,
        )

    @model_validator(mode="after")
    def _check(self) -> Self:
        raw = _inflated(self.text_zlib, self.size_bytes)
        if hashlib.sha256(raw).hexdigest() != self.sha256:
            raise ValueError("the digest is another text's")
        if sum(len(call.arguments.encode()) for call in self.tool_calls or ()) > ARGUMENTS_LIMIT_BYTES:
            raise ValueError("the calls' arguments are larger than an object holds")
        counts = (*self.usage.model_dump().values(), *self.timings.model_dump().values())
        if any(isinstance(count, int) and count >= _COUNT_LIMIT for count in counts):
            raise ValueError("a count is beyond what an object holds")
        # UnicodeDecodeError is a ValueError.
        self._text = raw.decode()
        return self


def _inflated(encoded: str, size_bytes: int) -> bytes:
    """Exactly `size_bytes`, however much the data would unfold to. Raises ValueError."""
    inflater = zlib.decompressobj()
    try:
        raw = inflater.decompress(base64.b64decode(encoded, validate=True), size_bytes + 1)
    except (zlib.error, binascii.Error) as error:
        raise ValueError("the text cannot be unpacked") from error
    if len(raw) != size_bytes or not inflater.eof or inflater.unused_data:
        raise ValueError("the text has another size")
    return raw
