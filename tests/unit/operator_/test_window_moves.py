"""The window's books when tasks fall back to another model."""

from dataclasses import replace

from window_desk import MODEL, OTHER, Desk, a_view, later

from headrace_operator.decide.window import Bounds


def test_who_falls_back_leaves_one_models_seats_and_line_for_the_others() -> None:
    desk = Desk(Bounds(1, 10**9, 1, 10**9))
    first, waits = desk.hand_out(a_view(0)), desk.refuse(a_view(1))
    elsewhere = replace(later(waits, "Waiting", "FellBack"), ref=waits.ref._replace(model=OTHER))
    desk.window.note(elsewhere)
    assert not desk.window.waits("uid-1")
    other = desk.hand_out(elsewhere)
    assert (desk.window.handed_out(MODEL), desk.window.handed_out(OTHER)) == (1, 1)
    # A look at it by the model that it left gives nothing of the other's away.
    held = replace(later(first, "Waiting", "FellBack"), ref=first.ref._replace(model=OTHER))
    desk.window.note(held)
    assert desk.window.handed_out(MODEL) == 0
    refused = desk.refuse(held)
    desk.finish(other)
    assert desk.woken == ["uid-0"]
    desk.window.let_go(first.ref)
    assert desk.window.handed_out(OTHER) == 1
    desk.window.note(later(refused, "Queued"))
    assert desk.window.handed_out(OTHER) == 1


def test_a_seat_follows_a_task_that_was_handed_out_elsewhere_meanwhile() -> None:
    desk = Desk()
    queued = desk.hand_out(a_view(0))
    desk.window.note(replace(later(queued, "Queued"), ref=queued.ref._replace(model=OTHER)))
    assert (desk.window.handed_out(MODEL), desk.window.handed_out(OTHER)) == (0, 1)


def test_a_line_that_somebody_moved_to_keeps_who_stood_there_in_order() -> None:
    desk = Desk(Bounds(1, 10**9, 1, 10**9))
    desk.hand_out(a_view(8))
    taken = desk.hand_out(a_view(9, model=OTHER))
    waits = desk.refuse(a_view(1))
    moved = replace(later(waits, "Waiting", "QueueFull"), ref=waits.ref._replace(model=OTHER))
    desk.window.note(moved)
    desk.window.grant_changed("a")
    desk.finish(taken)
    assert desk.woken == ["uid-1"]
    assert desk.window.handed_out(OTHER) == 1
