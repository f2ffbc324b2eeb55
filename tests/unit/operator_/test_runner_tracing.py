"""What runners are told about traces, and the way that their network policy leaves to the collector."""

import json
from dataclasses import replace
from typing import Any

import pytest
from operator_cases import RUNNER, model, model_snapshot

from headrace_crds.model import LLMModel
from headrace_operator.decide import children
from headrace_operator.decide.tracing import RunnerTracing

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACES = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
COLLECTOR = "http://collector.observability.svc:4318"
REMOTE = LLMModel.model_validate(
    {
        "metadata": {"name": "gpt", "namespace": "team-a", "uid": "u", "generation": 1},
        "spec": {"remote": {"provider": "OpenAI", "model": "m", "baseURL": "https://llm.example.com"}},
    }
)


def built(environment: dict[str, str], of: LLMModel | None = None) -> dict[str, dict[str, Any]]:
    of = of or model()
    settings = replace(RUNNER, tracing=RunnerTracing.from_environment(environment))
    seen = replace(model_snapshot(of), runner=settings)
    return {each["kind"]: each for each in children.build(seen, of)}


def env(environment: dict[str, str], container: str = "runner", of: LLMModel | None = None) -> dict[str, Any]:
    pod = built(environment, of)["Deployment"]["spec"]["template"]["spec"]
    entries = next(each["env"] for each in pod["containers"] if each["name"] == container)
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in entries if each["name"][:4] == "OTEL"}


def test_without_an_endpoint_pods_are_what_they_were() -> None:
    unset = {"OTEL_TRACES_SAMPLER": "always_on", "OTEL_SERVICE_NAME": "operator", ENDPOINT: " "}
    plain = {each["kind"]: each for each in children.build(model_snapshot(model()), model())}
    assert json.dumps(built(unset)) == json.dumps(plain)


@pytest.mark.parametrize("of", [model(), REMOTE], ids=["local", "remote"])
def test_a_runner_hears_endpoint_and_sampler_and_no_secret(of: LLMModel) -> None:
    told = {ENDPOINT: COLLECTOR, "OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"}
    its_own = {"OTEL_SERVICE_NAME": "the-operator", "OTEL_EXPORTER_OTLP_HEADERS": "authorization=s3cret"}
    assert env({**told, **its_own}, of=of) == told
    assert "s3cret" not in json.dumps(built({**told, **its_own}, of))


def test_headers_come_from_the_models_own_namespace() -> None:
    told = env({ENDPOINT: COLLECTOR, "HEADRACE_TRACING_HEADERS_SECRET": "otlp"})
    ref = {"secretKeyRef": {"name": "otlp", "key": "headers", "optional": True}}
    assert told == {ENDPOINT: COLLECTOR, "OTEL_EXPORTER_OTLP_HEADERS": ref}


def test_the_engine_hears_nothing() -> None:
    assert env({ENDPOINT: COLLECTOR, "HEADRACE_TRACING_HEADERS_SECRET": "otlp"}, "engine") == {}


NAMESPACE = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "observability"}}}


@pytest.mark.parametrize(
    ("url", "port", "to"),
    [
        (COLLECTOR, 4318, [NAMESPACE]),
        ("http://collector.example:4318", 4318, None),
        ("https://collector.observability.svc.cluster.local/otlp", 443, [NAMESPACE]),
        ("http://10.0.0.7:4318", 4318, [{"ipBlock": {"cidr": "10.0.0.7/32"}}]),
        ("http://[fd00::7]:4318", 4318, [{"ipBlock": {"cidr": "fd00::7/128"}}]),
        ("http://collector", 80, None),
        ("https://otlp.example.com", 443, None),
    ],
)
def test_the_way_out_is_as_narrow_as_the_address_tells(url: str, port: int, to: Any) -> None:
    *others, rule = built({ENDPOINT: url})["NetworkPolicy"]["spec"]["egress"]
    assert others == built({})["NetworkPolicy"]["spec"]["egress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": port}]
    assert rule.get("to") == to


def test_the_endpoint_of_traces_counts_where_both_are_set() -> None:
    made = RunnerTracing.from_environment({ENDPOINT: COLLECTOR, TRACES: "http://traces.elsewhere.svc:4319/v1/traces"})
    assert (made.host, made.port) == ("traces.elsewhere.svc", 4319)
    assert dict(made.variables).keys() == {ENDPOINT, TRACES}


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        (ENDPOINT, "collector:4318"),
        (ENDPOINT, "ftp://collector"),
        (ENDPOINT, "http://"),
        (ENDPOINT, "http://c:99999"),
        (ENDPOINT, "http://user:s3cret@c:4318"),
        (ENDPOINT, "http://s3cret@c:4318"),
        (TRACES, "http://[s3cret"),
        ("HEADRACE_TRACING_HEADERS_SECRET", "../s3cret"),
    ],
)
def test_a_mistake_names_its_variable_and_quotes_nothing(variable: str, value: str) -> None:
    with pytest.raises(ValueError, match=variable) as refused:
        RunnerTracing.from_environment({ENDPOINT: COLLECTOR, variable: value})
    assert "s3cret" not in str(refused.value)
