"""The decode thread's signs of life and what the supervisor makes of their absence."""

from headrace_runner.engine.heartbeat import Heartbeat, Pulse


def test_it_beats_once_a_second_and_at_both_ends() -> None:
    told: list[tuple[float, bool]] = []
    now = 10.0
    heart = Heartbeat(lambda busy: told.append((now, busy)), lambda: now)
    heart.idle()
    for tenth in range(25):
        now = 10.0 + tenth / 10
        heart.busy()
    heart.idle()
    heart.idle()
    heart.busy()
    assert told == [(10.0, True), (11.0, True), (12.0, True), (12.4, False), (12.4, True)]


def test_only_a_child_that_works_owes_a_beat() -> None:
    pulse = Pulse(120)
    assert pulse.left_seconds(0) is None
    pulse.beat(True, 5)
    assert pulse.left_seconds(6) == 119
    pulse.beat(True, 60)
    assert pulse.left_seconds(179) == 1
    assert pulse.left_seconds(500) == 0
    pulse.beat(False, 200)
    assert pulse.left_seconds(500) is None
