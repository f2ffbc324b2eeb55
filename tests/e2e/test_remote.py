"""A remote model through the chart: what its Secret allows, what its pod is, and a key that changes while it serves."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Cluster, condition, eventually, task

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

ANNOTATION = "headrace.dev/allowed-hosts"
SCHEMA = {
    "type": "object",
    "properties": {"key": {"enum": ["one", "two"]}},
    "required": ["key"],
    "additionalProperties": False,
}


def model(host: str) -> dict[str, Any]:
    remote = {
        "provider": "OpenAI",
        "model": "gpt-4.1-mini",
        "baseURL": f"http://{host}/v1",
        "credentials": {"secretKeyRef": {"name": "openai", "key": "key"}},
    }
    metadata = {"name": "gpt"}
    return {
        "apiVersion": "headrace.dev/v1alpha1",
        "kind": "LLMModel",
        "metadata": metadata,
        "spec": {"remote": remote},
    }


@pytest.fixture
def stand_in(headrace: Cluster, provider_namespace: str, provider_host: str) -> Iterator[str]:
    """OpenAI's stand-in behind a Service: its host and port."""
    script = Path(__file__).with_name("stand_in.py").read_text(encoding="utf-8")
    labels = {"app": "provider"}
    container = {
        "name": "provider",
        "image": headrace.env["RUNNER_IMAGE"],
        "command": ["python3", "/script/stand_in.py"],
        "ports": [{"containerPort": 8000}],
        "readinessProbe": {"tcpSocket": {"port": 8000}, "periodSeconds": 1},
        "volumeMounts": [{"name": "script", "mountPath": "/script"}],
    }
    template = {
        "metadata": {"labels": labels},
        "spec": {
            "containers": [container],
            "volumes": [{"name": "script", "configMap": {"name": "script"}}],
            "terminationGracePeriodSeconds": 1,
        },
    }
    headrace.kubectl("create", "namespace", provider_namespace)
    try:
        headrace.apply(
            provider_namespace,
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "script"}, "data": {"stand_in.py": script}},
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": "provider"},
                "spec": {"selector": {"matchLabels": labels}, "template": template},
            },
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "provider"},
                "spec": {"selector": labels, "ports": [{"port": 8000}]},
            },
        )
        headrace.wait("deployment/provider", "condition=Available", provider_namespace)
        yield provider_host
    finally:
        headrace.kubectl("delete", "namespace", provider_namespace, "--wait=false")


def pods(headrace: Cluster, namespace: str) -> list[dict[str, Any]]:
    found = json.loads(headrace.kubectl("get", "pods", "-n", namespace, "-l", "headrace.dev/model=gpt", "-o", "json"))
    return list(found["items"])


def test_a_remote_model_from_its_secret_to_another_key(headrace: Cluster, namespace: str, stand_in: str) -> None:
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "openai"},
        "stringData": {"key": "sk-e2e-one"},
    }
    headrace.apply(namespace, secret, model(stand_in), task("first", "gpt"))
    refused = eventually(
        lambda: headrace.get("llmmodel", "gpt", namespace),
        lambda m: (condition(m, "Ready") or {}).get("reason") == "HostNotAllowed",
        what="the Secret's owner has not allowed it",
    )
    remedy = f"kubectl annotate secret openai -n {namespace} {ANNOTATION}={stand_in}"
    assert remedy in (condition(refused, "Ready") or {})["message"]
    assert pods(headrace, namespace) == []
    waiting = headrace.get("llmtask", "first", namespace)["status"]
    assert "outcome" not in waiting

    # The remedy as it is told.
    headrace.kubectl(*remedy.split()[1:])
    headrace.wait("llmtask/first", "condition=Finished", namespace, timeout=45)
    done = headrace.get("llmtask", "first", namespace)["status"]
    assert (done["outcome"], done["result"]["text"], done["attempt"]) == ("Complete", "asked with key one", 1)
    assert done["usage"] == {"promptTokens": 11, "cachedTokens": 0, "completionTokens": 4}
    headrace.wait("llmmodel/gpt", "condition=Available", namespace, timeout=20)
    (pod,) = pods(headrace, namespace)
    assert [each["name"] for each in pod["spec"]["containers"]] == ["runner"]
    assert "sk-e2e" not in json.dumps(pod)
    assert headrace.get("networkpolicy", "headrace-gpt", namespace)["spec"]["egress"]

    headrace.apply(namespace, task("document", "gpt", output={"jsonSchema": json.dumps(SCHEMA)}))
    headrace.wait("llmtask/document", "condition=Finished", namespace, timeout=30)
    result = headrace.get("llmtask", "document", namespace)["status"]["result"]
    assert (result["enforcement"], json.loads(result["text"])) == ("Provider", {"key": "one"})
    print(headrace.kubectl("get", "llmmodels,llmtasks,pods", "-n", namespace))

    data = {"data": {"key": base64.b64encode(b"sk-e2e-two").decode()}}
    headrace.kubectl("patch", "secret", "openai", "-n", namespace, "--type=merge", "-p", json.dumps(data))
    # The kubelet looks at its pods' Secrets once a minute or so; when a pod changes it looks at once.
    headrace.kubectl("annotate", "pod", pod["metadata"]["name"], "-n", namespace, "looked-at=1")
    asked = iter(range(1000))

    def answer() -> str:
        name = f"again-{next(asked)}"
        headrace.apply(namespace, task(name, "gpt"))
        headrace.wait(f"llmtask/{name}", "condition=Finished", namespace, timeout=30)
        return str(headrace.get("llmtask", name, namespace)["status"]["result"]["text"])

    eventually(answer, lambda text: text == "asked with key two", within=120, what="the other key is used")
    assert [each["metadata"]["name"] for each in pods(headrace, namespace)] == [pod["metadata"]["name"]]
