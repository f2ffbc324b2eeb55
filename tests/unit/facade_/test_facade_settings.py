"""What the environment says, and what it must not say."""

import pytest

from headrace_facade.settings import Settings


def test_settings_come_from_the_environment() -> None:
    inside = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "6443"}
    settings = Settings.from_environment({**inside, "HEADRACE_METRICS_PORT": "0", "HEADRACE_DEFAULT_NAMESPACE": "team"})
    assert settings.kube_url == "https://10.0.0.1:6443"
    assert (settings.port, settings.metrics_port, settings.default_namespace) == (8000, 0, "team")
    assert Settings.from_environment({"KUBERNETES_SERVICE_HOST": "fd00::1"}).kube_url == "https://[fd00::1]:443"
    assert Settings.from_environment({**inside, "HEADRACE_KUBE_URL": "http://x/"}).kube_url == "http://x"
    assert Settings.from_environment({**inside, "HEADRACE_KUBE_CA_FILE": ""}).kube_ca_file is None
    with pytest.raises(ValueError, match="HEADRACE_KUBE_URL"):
        Settings.from_environment({})
    with pytest.raises(ValueError, match="HEADRACE_PORT"):
        Settings.from_environment({**inside, "HEADRACE_PORT": "http"})


@pytest.mark.parametrize(("text", "seconds"), [(None, 3600), ("", None), ("0", 0), ("60", 60)])
def test_how_long_tasks_are_kept_is_set(text: str | None, seconds: int | None) -> None:
    told = {} if text is None else {"HEADRACE_DEFAULT_TTL_SECONDS": text}
    assert Settings.from_environment({"HEADRACE_KUBE_URL": "http://x", **told}).default_ttl_seconds == seconds


def test_the_operators_bounds_are_set() -> None:
    told = {"HEADRACE_KUBE_URL": "http://x", "HEADRACE_QUEUE_MODEL_TASKS": "7", "HEADRACE_QUEUE_NAMESPACE_TASKS": ""}
    bounds = Settings.from_environment(told).bounds
    assert (bounds.model_tasks, bounds.namespace_tasks) == (7, 10_000)
    for name in ("HEADRACE_QUEUE_MODEL_TASKS", "HEADRACE_DEFAULT_TTL_SECONDS"):
        with pytest.raises(ValueError, match=name):
            Settings.from_environment({**told, name: "-1"})


def test_what_calls_need_is_set() -> None:
    told = {"HEADRACE_KUBE_URL": "http://x"}
    absent = Settings.from_environment(told)
    assert (absent.requests_per_minute, absent.tokens_per_minute, absent.hold_seconds) == (0, 0, 60)
    assert absent.watch_namespaces == absent.sharing_model_namespaces == ()
    assert absent.kube_token_file is not None
    given = Settings.from_environment(
        {
            **told,
            "HEADRACE_KUBE_TOKEN_FILE": "",
            "HEADRACE_KEYS_NAMESPACE": "k",
            "HEADRACE_WATCH_NAMESPACES": "a, b,",
            "HEADRACE_SHARING_MODEL_NAMESPACES": "m",
            "HEADRACE_HOLD_SECONDS": "90",
            "HEADRACE_REQUESTS_PER_MINUTE": "60",
            "HEADRACE_TOKENS_PER_MINUTE": "0",
        }
    )
    assert given.kube_token_file is None
    assert given.keys_namespace == "k"
    assert (given.watch_namespaces, given.sharing_model_namespaces) == (("a", "b"), ("m",))
    assert (given.requests_per_minute, given.tokens_per_minute, given.hold_seconds) == (60, 0, 90)
    for name in ("HEADRACE_REQUESTS_PER_MINUTE", "HEADRACE_TOKENS_PER_MINUTE"):
        for text in ("-1", "many", "1000000001"):
            with pytest.raises(ValueError, match=name):
                Settings.from_environment({**told, name: text})


def test_what_sessions_and_sockets_need_is_set() -> None:
    told = {"HEADRACE_KUBE_URL": "http://x"}
    absent = Settings.from_environment(told)
    assert (absent.session_ttl_hours, absent.allowed_origins) == (24, ())
    given = Settings.from_environment({**told, "SESSION_TTL_HOURS": "1", "HEADRACE_ALLOWED_ORIGINS": "https://a, b"})
    assert (given.session_ttl_hours, given.allowed_origins) == (1, ("https://a", "b"))
    for text in ("0", "721", "many", "-1"):
        with pytest.raises(ValueError, match="SESSION_TTL_HOURS"):
            Settings.from_environment({**told, "SESSION_TTL_HOURS": text})
