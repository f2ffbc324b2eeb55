"""How a weights Job says that it ended: its container's termination message. Shared by runner image and operator."""

from typing import Annotated

from pydantic import Field, ValidationError

from headrace_crds.base import ApiModel


class WeightsEnd(ApiModel):
    """``reason`` is WeightsVerified, or why there are none."""

    reason: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Z][A-Za-z0-9]*$")]
    message: Annotated[str, Field(max_length=1024)] = ""
    size_bytes: Annotated[int, Field(ge=0, le=1 << 60)] = 0
    node: Annotated[str, Field(max_length=253)] | None = None


def read_end(text: str) -> WeightsEnd | None:
    """None for what is none: whoever may write pods may write anything there."""
    try:
        return WeightsEnd.model_validate_json(text)
    except ValidationError:
        return None
