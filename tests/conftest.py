"""What every suite runs under."""

from hypothesis import settings

# How long an example takes is the machine's affair, not the code's.
settings.register_profile("headrace", deadline=None)
settings.load_profile("headrace")
