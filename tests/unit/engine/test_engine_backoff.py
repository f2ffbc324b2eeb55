"""Back-off between restarts of the engine."""

from headrace_runner.engine.backoff import Backoff


def test_it_doubles_up_to_five_minutes() -> None:
    backoff = Backoff()
    assert [backoff.next_seconds(0) for _ in range(11)] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


def test_a_minute_of_serving_forgives() -> None:
    backoff = Backoff()
    assert [backoff.next_seconds(served) for served in (0, 59.9, 0, 60, 0, 1000)] == [1, 2, 4, 1, 2, 1]
