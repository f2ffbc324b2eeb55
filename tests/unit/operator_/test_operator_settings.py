"""Settings: every mistake names its variable."""

from pathlib import Path

import pytest

from headrace_operator.allowance import Allowance
from headrace_operator.decide.window import Bounds
from headrace_operator.settings import Settings


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "url").write_text("redis://operator:pw@redis:6379/0\n")
    (tmp_path / "key").write_text("0123456789abcdef\n")
    return {
        "HEADRACE_NAMESPACE": "headrace-system",
        "HEADRACE_REDIS_URL_FILE": str(tmp_path / "url"),
        "HEADRACE_RUNNER_REDIS_ADDRESS": "redis://redis.headrace-system.svc:6379/0",
        "HEADRACE_RUNNER_REDIS_SECRET_FILE": str(tmp_path / "key"),
        "HEADRACE_RUNNER_IMAGE": "registry/runner:1",
    }


def test_the_least_that_is_needed(environment: dict[str, str]) -> None:
    settings = Settings.from_environment(environment)
    assert settings.redis_url() == "redis://operator:pw@redis:6379/0"
    assert settings.watch_namespaces == ()
    assert settings.runner.lease_seconds == 15
    assert "0123456789abcdef" not in repr(settings)


def test_everything(environment: dict[str, str]) -> None:
    settings = Settings.from_environment(
        {
            **environment,
            "HEADRACE_WATCH_NAMESPACES": "team-a, team-b",
            "HEADRACE_RUNNER_RESOURCES": '{"engine": {"limits": {"memory": "8Gi"}}}',
            "HEADRACE_RUNNER_IMAGE_PULL_SECRETS": "one,two",
            "HEADRACE_RUNNER_IMAGE_PULL_POLICY": "Never",
            "HEADRACE_LEASE_SECONDS": "20",
            "HEADRACE_API_SERVER_PORT": "16443",
        }
    )
    assert settings.watch_namespaces == ("team-a", "team-b")
    assert settings.runner.resources == {"engine": {"limits": {"memory": "8Gi"}}}
    assert settings.runner.image_pull_secrets == ("one", "two")
    assert settings.runner.api_server_ports == (443, 6443, 16443)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HEADRACE_NAMESPACE", ""),
        ("HEADRACE_RUNNER_IMAGE", " "),
        ("HEADRACE_RUNNER_REDIS_SECRET_FILE", "/does/not/exist"),
        ("HEADRACE_RUNNER_RESOURCES", "{"),
        ("HEADRACE_RUNNER_RESOURCES", '{"sidecar": {}}'),
        ("HEADRACE_RUNNER_IMAGE_PULL_POLICY", "Sometimes"),
        ("HEADRACE_LEASE_SECONDS", "0"),
        ("HEADRACE_SWEEP_SECONDS", "often"),
        ("HEADRACE_QUEUE_MODEL_TASKS", "0"),
        ("HEADRACE_QUEUE_NAMESPACE_BYTES", "1000"),
        ("HEADRACE_DEFAULT_QUOTA", "{"),
        ("HEADRACE_DEFAULT_QUOTA", '{"maxQueuedTasks": -1}'),
    ],
)
def test_a_mistake_names_its_variable(environment: dict[str, str], variable: str, value: str) -> None:
    with pytest.raises(ValueError, match=variable):
        Settings.from_environment({**environment, variable: value})


def test_a_short_key_is_refused(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "key").write_text("short")
    with pytest.raises(ValueError, match="16 bytes"):
        Settings.from_environment(environment)


def test_an_allowance_is_used_up_and_comes_back() -> None:
    now = [0.0]
    allowance: Allowance[str] = Allowance(60, lambda: now[0])
    assert sum(allowance.take("a") for _ in range(100)) == 60
    assert allowance.take("b")
    now[0] = 10.0
    assert sum(allowance.take("a") for _ in range(100)) == 10
    allowance.forget("a")
    assert allowance.take("a")


@pytest.mark.parametrize(
    "url",
    ["redis://operator:PASSW/ORD@redis:6379/0", "http://operator:PASSWORD@redis", "redis://[PASSWORD", "PASSWORD", ""],
)
def test_a_url_that_is_none_is_named_and_never_quoted(environment: dict[str, str], url: str) -> None:
    Path(environment["HEADRACE_REDIS_URL_FILE"]).write_text(url)
    with pytest.raises(ValueError, match="HEADRACE_REDIS_URL_FILE") as caught:
        Settings.from_environment(environment).redis_url()
    assert "PASSW" not in str(caught.value)
    assert caught.value.__context__ is None


def test_only_watched_namespaces_are_served(environment: dict[str, str]) -> None:
    assert Settings.from_environment(environment).serves("anywhere")
    some = Settings.from_environment({**environment, "HEADRACE_WATCH_NAMESPACES": "team-a"})
    assert (some.serves("team-a"), some.serves("team-b")) == (True, False)


def test_the_window_is_as_large_as_told(environment: dict[str, str]) -> None:
    usual = Settings.from_environment(environment)
    assert usual.window == Bounds(20_000, 256 * 2**20, 10_000, 128 * 2**20)
    assert usual.default_quota.max_queued_tasks is None
    told = {"MODEL_TASKS": "4", "MODEL_BYTES": "4194304", "NAMESPACE_TASKS": "2", "NAMESPACE_BYTES": "1048576"}
    queue = {f"HEADRACE_QUEUE_{name}": value for name, value in told.items()}
    some = Settings.from_environment({**environment, **queue, "HEADRACE_DEFAULT_QUOTA": '{"maxQueuedTasks": 7}'})
    assert some.window == Bounds(4, 2**22, 2, 2**20)
    assert some.default_quota.max_queued_tasks == 7


def test_sharing_is_off_unless_told(environment: dict[str, str]) -> None:
    assert Settings.from_environment(environment).sharing_model_namespaces == ()
    some = Settings.from_environment({**environment, "HEADRACE_SHARING_MODEL_NAMESPACES": "models, more"})
    assert some.sharing_model_namespaces == ("models", "more")
