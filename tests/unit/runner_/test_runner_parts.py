"""Settings, slots, reports and the request to the engine."""

import asyncio
from pathlib import Path

import pytest

from headrace_crds.task import Parameters
from headrace_crds.work import Work
from headrace_runner.engine.client import EngineModel, EngineState, Stage
from headrace_runner.execute import engine_parameters
from headrace_runner.remote.gate_state import Breaker, GateState
from headrace_runner.report import build
from headrace_runner.settings import RunnerSettings
from headrace_runner.slots import Slots

REQUIRED = {"HEADRACE_MODEL": "team/smol", "HEADRACE_POD": "p-0"}


def test_settings_have_the_defaults_of_the_architecture() -> None:
    settings = RunnerSettings.from_environment(REQUIRED)
    assert str(settings.model) == "team/smol"
    assert (settings.parallelism, settings.lease_seconds, settings.http_port) == (1, 15, 8080)
    assert settings.renew_every_seconds == 5
    assert settings.redis_url_file == Path("/etc/headrace/redis/url")
    assert settings.engine_socket == Path("/run/headrace/engine.sock")
    assert settings.kubeconfig is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HEADRACE_MODEL", ""),
        ("HEADRACE_MODEL", "smol"),
        ("HEADRACE_POD", ""),
        ("HEADRACE_PARALLELISM", "0"),
        ("HEADRACE_PARALLELISM", "many"),
        ("HEADRACE_LEASE_SECONDS", "0"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=name):
        RunnerSettings.from_environment({**REQUIRED, name: value})


def test_a_missing_redis_file_is_named(tmp_path: Path) -> None:
    settings = RunnerSettings.from_environment({**REQUIRED, "HEADRACE_REDIS_URL_FILE": str(tmp_path / "no")})
    with pytest.raises(ValueError, match="HEADRACE_REDIS_URL_FILE"):
        settings.redis_url()


async def test_slots_count_sequences_and_parked_commits() -> None:
    slots = Slots(2, parked_limit=3)
    slots.take()
    slots.take()
    assert slots.free == 0
    waiting = asyncio.create_task(slots.wait_free())
    await asyncio.sleep(0)
    assert not waiting.done()
    slots.park()
    assert await waiting == 1
    slots.take()
    slots.park()
    slots.park()
    # Three commits are parked: nothing more is claimed although both sequences are free.
    assert (slots.generating, slots.parked, slots.free) == (0, 3, 0)
    slots.leave(parked=True)
    assert slots.free == 1


def test_a_report_is_what_the_operator_reads() -> None:
    model = EngineModel("llama", 512, 2, "Q4_1", 135, 98, None, notes=("It is slow.", "x" * 600))
    state = EngineState(Stage.SERVING, since_ms=5, restarts=1, engine=model)
    slots = Slots(2)
    slots.take()
    assert build(state, slots, 4) == {
        "state": "Serving",
        "reason": "",
        "message": "",
        "sinceMs": 5,
        "restarts": 1,
        "engine": {
            "architecture": "llama",
            "contextTokens": 512,
            "quantization": "Q4_1",
            "parameters": 135,
            "sizeBytes": 98,
            "notes": ["It is slow.", "x" * 512],
        },
        "generation": 4,
        "busy": 1,
        "slots": 2,
        "commitForbidden": False,
    }
    forbidden = build(state, slots, 4, commit_forbidden=True)
    assert forbidden["commitForbidden"] is True
    assert "RoleBinding" in forbidden["message"]
    assert build(EngineState(), Slots(1), 0)["engine"] is None


def test_a_remote_models_report_has_its_gate() -> None:
    gate = GateState(Breaker.OPEN, "R" * 70, "x" * 600, retry_in_seconds=4.04, concurrency=3)
    report = build(EngineState(Stage.SERVING), Slots(1), 0, gate=gate)
    assert report["engine"] is None
    assert report["provider"] == {
        "breaker": "Open",
        "reason": "R" * 64,
        "message": "x" * 512,
        "retryInSeconds": 4.0,
        "concurrency": 3,
    }
    free = build(EngineState(Stage.SERVING), Slots(1), 0, gate=GateState())["provider"]
    assert (free["breaker"], free["retryInSeconds"], free["concurrency"]) == ("Closed", None, None)


def test_every_parameter_reaches_the_engine(work: Work) -> None:
    given = Parameters(
        temperature="0.7",
        max_tokens=5,
        top_p="0.9",
        top_k=3,
        min_p="0.1",
        seed=7,
        stop=["x"],
        presence_penalty="-1.5",
        frequency_penalty="0.5",
        repeat_penalty="1.1",
    )
    sent = engine_parameters(work.model_copy(update={"parameters": given}))
    assert all(getattr(sent, name) is not None for name in Parameters.model_fields)
    assert (sent.temperature, sent.presence_penalty, sent.stop) == (0.7, -1.5, ("x",))
