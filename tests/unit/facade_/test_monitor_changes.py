"""What a monitor's socket tells as changed."""

from typing import Any

from headrace_facade.native.monitor_schema import Away, MonitorStatus
from headrace_facade.native.schema import ModelView
from headrace_facade.sockets.monitoring import changes


def model(name: str, **facts: Any) -> ModelView:
    known = {"phase": "Serving", "ready": True, "available": True, "reason": "", "message": "", "replicas": 1}
    return ModelView(
        model=name, namespace="team-a", name=name, kind="local", capabilities=[], ready_replicas=1, **{**known, **facts}
    )


def status(*models: ModelView, away: tuple[str, ...] = ()) -> MonitorStatus:
    gone = [Away(what=each, message="gone") for each in away]
    return MonitorStatus(namespace="team-a", queues=[], left_off=0, models=list(models), gpus=[], away=gone)


def test_at_first_nothing_has_changed() -> None:
    assert changes(None, status(model("a"), away=("redis",))) == []


def test_what_stays_is_not_told_and_neither_is_a_message() -> None:
    assert changes(status(model("a")), status(model("a", message="other words", context_tokens=7))) == []


def test_models_come_go_and_change() -> None:
    before = status(model("a"), model("b"))
    now = status(model("a", phase="Loading", available=False), model("c"))
    told = {each["model"]: each for each in changes(before, now)}
    assert (told["a"]["before"]["phase"], told["a"]["now"]["phase"]) == ("Serving", "Loading")
    assert (told["b"]["before"]["phase"], told["b"]["now"]) == ("Serving", None)
    assert (told["c"]["before"], told["c"]["now"]["available"]) == (None, True)


def test_parts_go_away_and_come_back() -> None:
    up, down = status(), status(away=("redis",))
    assert changes(up, down) == [{"part": "redis", "before": "ok", "now": "gone"}]
    assert changes(down, up) == [{"part": "redis", "before": "gone", "now": "ok"}]
    assert changes(down, down) == []
