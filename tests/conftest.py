"""What every suite runs under."""

import signal

from hypothesis import settings

# How long an example takes is the machine's affair, not the code's.
settings.register_profile("headrace", deadline=None)
settings.load_profile("headrace")


def pytest_configure() -> None:
    """However a run is ended, its fixtures end what they started. A shell's background job is born deaf to SIGINT."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
