"""Back-off between restarts of the engine."""

from headrace_runner.engine.backoff import Backoff


def test_it_doubles_up_to_five_minutes() -> None:
    backoff = Backoff()
    assert [backoff.next_seconds(0) for _ in range(11)] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


def test_a_minute_of_serving_forgives() -> None:
    backoff = Backoff()
    assert [backoff.next_seconds(served) for served in (0, 59.9, 0, 60, 0, 1000)] == [1, 2, 2, 1, 2, 1]


def test_who_serves_and_dies_again_and_again_is_not_waited_for_long() -> None:
    backoff = Backoff()
    assert [backoff.next_seconds(1) for _ in range(6)] == [1, 2, 2, 2, 2, 2]
    # One that does not even come to serve is another matter, and none once it does.
    assert [backoff.next_seconds(served) for served in (0, 0, 0, 1)] == [2, 4, 8, 2]
