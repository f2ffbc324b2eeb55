"""Who lets a remote model have a key and a host, and what a refusal says."""

from dataclasses import replace
from typing import Any

import pytest
from remote_cases import ALLOWS, OPENAI, OWN, SETTINGS, granted, remote_model

from headrace_crds.remote import Remote
from headrace_operator.decide import access
from headrace_operator.decide.access import Door, remote_json
from headrace_operator.decide.snapshots import CredentialsView
from headrace_operator.settings import Settings

INSIDE = {**OWN, "baseURL": "http://vllm.models.svc:8000/v1"}
KEYED = {**OWN, "credentials": OPENAI["credentials"]}


def test_a_local_model_has_nothing_to_do_with_it() -> None:
    from operator_cases import model

    assert access.of(model(), SETTINGS, None) is None


@pytest.mark.parametrize(
    ("remote", "seen", "reason", "words"),
    [
        (OPENAI, CredentialsView(False), "CredentialsNotFound", ["'openai'", "'team-a'", "'token'", "api.openai.com"]),
        (OPENAI, None, "CredentialsNotFound", ["does not exist"]),
        (
            OPENAI,
            CredentialsView(True),
            "HostNotAllowed",
            ["kubectl annotate secret openai -n team-a headrace.dev/allowed-hosts=api.openai.com"],
        ),
        (
            {**OPENAI, "provider": "Anthropic"},
            ALLOWS,
            "HostNotAllowed",
            ["'openai'", "headrace.dev/allowed-hosts: api.anthropic.com"],
        ),
        (OPENAI, CredentialsView(True, ""), "HostNotAllowed", ["headrace.dev/allowed-hosts: api.openai.com"]),
        (OPENAI, CredentialsView(True, "api.openai.com:8443"), "HostNotAllowed", ["headrace.dev/allowed-hosts"]),
        (OPENAI, CredentialsView(True, "openai.com"), "HostNotAllowed", ["headrace.dev/allowed-hosts"]),
        (OPENAI, CredentialsView(True, "*.openai.com"), "HostNotAllowed", ["'*.openai.com'", "such as api.openai.com"]),
        (
            {**KEYED, "baseURL": "https://llm.example.com:9000/v1"},
            CredentialsView(True, "llm.example.com"),
            "HostNotAllowed",
            ["llm.example.com:9000"],
        ),
        (INSIDE, None, "HostNotAllowed", ["not https", "remote.allowedHosts"]),
        ({**OWN, "baseURL": "https://10.0.0.7/v1"}, None, "HostNotAllowed", ["10.0.0.7", "remote.allowedHosts"]),
        ({**OWN, "baseURL": "https://169.254.169.254"}, None, "HostNotAllowed", ["metadata service"]),
        ({**OWN, "baseURL": "https://2130706433"}, None, "HostNotAllowed", ["spec.remote.baseURL", "number"]),
        (
            {**OWN, "proxyURL": "https://proxy.example.com:3128"},
            None,
            "HostNotAllowed",
            ["spec.remote.proxyURL", "proxy.example.com:3128", "remote.allowedHosts"],
        ),
        ({**OWN, "proxyURL": "http://proxy:3128"}, None, "HostNotAllowed", ["spec.remote.proxyURL", "allowedHosts"]),
        ({**OWN, "provider": "Mine", "baseURL": None}, None, "InvalidSettings", ["spec.remote.baseURL"]),
        ({**OWN, "caBundle": "\U0001f600" * 60_000}, None, "InvalidSettings", ["caBundle", "120000"]),
    ],
)
def test_a_refusal_says_what_to_do(remote: dict[str, Any], seen: Any, reason: str, words: list[str]) -> None:
    found = granted(remote_model(remote=remote), seen)
    assert found.refusal is not None
    assert found.refusal.reason == reason
    assert not found.granted
    assert not found.refusal.stalled, "it goes on by itself once it is allowed"
    assert (found.allowed, found.exempt, found.doors) == ((), (), ())
    for word in words:
        assert word in found.refusal.message


def test_an_annotation_may_name_several_hosts() -> None:
    seen = CredentialsView(True, " API.openai.com , proxy.example.com:8443,")
    found = granted(remote_model(), seen)
    assert found.granted
    assert found.allowed == ("api.openai.com", "proxy.example.com:8443")
    assert found.exempt == ()
    assert found.doors == (Door(443, public_only=True),)


def test_without_a_key_the_host_of_base_url_is_allowed() -> None:
    found = granted(remote_model(remote=OWN), None)
    assert found.allowed == ("llm.example.com:443",)


def test_the_charts_hosts_may_be_anywhere_and_speak_http() -> None:
    chart = replace(SETTINGS, remote_allowed_hosts=("vllm.models.svc:8000", "proxy:3128", "other.svc"))
    found = granted(remote_model(remote={**INSIDE, "proxyURL": "http://proxy:3128"}), None, chart)
    assert found.granted
    assert found.exempt == ("vllm.models.svc:8000", "proxy:3128"), "others are not this model's business"
    assert found.doors == (Door(8000, public_only=False), Door(3128, public_only=False))


def test_a_host_of_the_charts_without_a_port_has_the_usual_ones() -> None:
    chart = replace(SETTINGS, remote_allowed_hosts=("llm.internal",))
    for url, usual in (
        ("http://llm.internal", True),
        ("https://llm.internal:8443", True),
        ("http://llm.internal:81", False),
    ):
        assert granted(remote_model(remote={**OWN, "baseURL": url}), None, chart).granted is usual, url


def test_the_charts_word_does_not_stand_for_the_secrets() -> None:
    chart = replace(SETTINGS, remote_allowed_hosts=("llm.example.com",))
    found = granted(remote_model(remote=KEYED), CredentialsView(True), chart)
    assert found.refusal is not None
    assert "kubectl annotate" in found.refusal.message


def test_the_specs_text_is_the_same_and_refers_to_no_variable() -> None:
    given = {**OWN, "extraBody": '{"user": "$(HEADRACE_POD) $$ \u00fc"}'}
    text = remote_json(Remote.model_validate(given))
    assert "$" not in text
    assert Remote.model_validate_json(text) == Remote.model_validate(given)
    assert text == remote_json(Remote.model_validate(dict(reversed(given.items()))))


def test_the_environment_names_hosts(tmp_path: Any) -> None:
    (tmp_path / "key").write_text("k" * 32)
    environment = {
        "HEADRACE_NAMESPACE": "headrace-system",
        "HEADRACE_RUNNER_REDIS_SECRET_FILE": str(tmp_path / "key"),
        "HEADRACE_REDIS_URL_FILE": "/nowhere",
        "HEADRACE_RUNNER_IMAGE": "i",
        "HEADRACE_RUNNER_REDIS_ADDRESS": "redis://r:6379/0",
        "HEADRACE_REMOTE_ALLOWED_HOSTS": "a.internal, [fd00::1]:8000",
        "HEADRACE_RUNNER_RESOURCES": '{"remote": {"limits": {"memory": "1Gi"}}}',
    }
    runner = Settings.from_environment(environment).runner
    assert runner.remote_allowed_hosts == ("a.internal", "[fd00::1]:8000")
    assert runner.resources == {"remote": {"limits": {"memory": "1Gi"}}}
    with pytest.raises(ValueError, match="HEADRACE_REMOTE_ALLOWED_HOSTS"):
        Settings.from_environment({**environment, "HEADRACE_REMOTE_ALLOWED_HOSTS": "http://a"})


MTLS = {**OWN, "clientCertificate": {"secretName": "mtls"}}


@pytest.mark.parametrize(
    ("remote", "certificate", "reason", "words"),
    [
        (
            MTLS,
            None,
            "CredentialsNotFound",
            ["'mtls'", "tls.crt and tls.key", "headrace.dev/allowed-hosts: llm.example.com"],
        ),
        (MTLS, CredentialsView(False), "CredentialsNotFound", ["'mtls'"]),
        (MTLS, CredentialsView(True), "HostNotAllowed", ["kubectl annotate secret mtls"]),
        (MTLS, CredentialsView(True, "api.openai.com"), "HostNotAllowed", ["'mtls'", "llm.example.com"]),
        # One Secret's word is not the other's.
        (
            {**OPENAI, "clientCertificate": {"secretName": "mtls"}},
            CredentialsView(True, "a.example"),
            "HostNotAllowed",
            ["'mtls'"],
        ),
    ],
)
def test_a_client_certificate_is_its_owners_to_allow(
    remote: dict[str, Any], certificate: Any, reason: str, words: list[str]
) -> None:
    found = granted(remote_model(remote=remote), certificate=certificate)
    assert found.refusal is not None
    assert found.refusal.reason == reason
    assert (found.allowed, found.exempt, found.doors) == ((), (), ())
    for word in words:
        assert word in found.refusal.message


def test_a_key_whose_owner_allows_nothing_is_not_made_up_for_by_the_certificate() -> None:
    of = remote_model(remote={**OPENAI, "clientCertificate": {"secretName": "mtls"}})
    found = granted(of, CredentialsView(True), certificate=ALLOWS)
    assert found.refusal is not None
    assert "'openai'" in found.refusal.message


def test_with_a_client_certificate_the_host_of_base_url_alone_is_asked() -> None:
    of = remote_model(remote={**OPENAI, "clientCertificate": {"secretName": "mtls"}})
    both = CredentialsView(True, "api.openai.com,elsewhere.example.com")
    assert granted(of, both, certificate=both).allowed == ("api.openai.com:443",)


def test_a_client_certificate_goes_with_https() -> None:
    of = remote_model(remote={**MTLS, "baseURL": "http://vllm.models.svc:8000/v1"})
    settings = replace(SETTINGS, remote_allowed_hosts=("vllm.models.svc:8000",))
    found = granted(of, None, settings, CredentialsView(True, "vllm.models.svc:8000"))
    assert found.refusal is not None
    assert (found.refusal.reason, "shown in TLS alone" in found.refusal.message) == ("InvalidSettings", True)
