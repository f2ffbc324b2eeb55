"""What both sides ask: a prompt of 512 bytes, two parameters."""

PROMPT_BYTES = 512
MAX_TOKENS = 256
TEMPERATURE = 0.7


def prompt(number: int) -> str:
    """Another one for each call."""
    begun = f"Call {number}: write a few words about nothing in particular. "
    return begun + "x" * (PROMPT_BYTES - len(begun))
