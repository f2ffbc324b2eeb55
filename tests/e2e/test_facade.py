"""The facade's pod: unchanged clients of OpenAI and Anthropic, an API key, a token of the cluster, a killed runner."""

import re
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import anthropic
import openai
import pytest

from tests.e2e.conftest import ROOT, SYSTEM, Cluster, eventually, model

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

KEYS = f"{SYSTEM}-keys"
ASKED = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
NUMBERS = {"type": "array", "items": {"type": "integer"}, "minItems": 900}


def headrace_key(cluster: Cluster, *arguments: str) -> str:
    done = cluster.run(str(ROOT / "hack/headrace"), "key", *arguments, "--keys-namespace", KEYS)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def address(headrace: Cluster, tmp_path: Path) -> Iterator[str]:
    """Where the facade's Service answers on this machine."""
    log = (tmp_path / "forward").open("w+")
    command = [headrace.env["KUBECTL"], "-n", SYSTEM, "port-forward", "service/headrace-facade", ":80"]
    forward = subprocess.Popen(command, env=headrace.env, stdout=log, stderr=subprocess.STDOUT)

    def port() -> str | None:
        found = re.search(r"127\.0\.0\.1:(\d+)", (tmp_path / "forward").read_text())
        return found[1] if found else None

    yield f"http://127.0.0.1:{eventually(port, lambda told: told is not None, what='kubectl forwards')}"
    forward.terminate()
    forward.wait(20)
    log.close()


@pytest.fixture
def served(headrace: Cluster, namespace: str, weights: str) -> str:
    """A model that serves; its name."""
    headrace.apply(namespace, model("smollm2", weights))
    headrace.wait("llmmodel/smollm2", "condition=Available", namespace, timeout=180)
    return "smollm2"


def test_unchanged_clients_stream(headrace: Cluster, namespace: str, served: str, address: str) -> None:
    key = headrace_key(headrace, "create", namespace, "--expires", "1h")
    one = openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0, timeout=60)
    assert [each.id for each in one.models.list()] == [served]
    stream = one.chat.completions.create(model=served, messages=ASKED, stream=True, max_tokens=24, temperature=0)
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert "Paris" in "".join(pieces)
    assert len(pieces) > 4
    other = anthropic.Anthropic(base_url=address, api_key=key, max_retries=0, timeout=60)
    with other.messages.stream(model=served, messages=ASKED, max_tokens=24, extra_body={"temperature": 0}) as events:
        assert "Paris" in "".join(events.text_stream)
        assert events.get_final_message().usage.output_tokens > 4
    # With a token of the cluster, too; and not with one whose owner may not create tasks there.
    headrace.kubectl("create", "serviceaccount", "caller", "-n", namespace)
    token = headrace.kubectl("create", "token", "caller", "-n", namespace).strip()
    with pytest.raises(openai.PermissionDeniedError):
        one.with_options(api_key=token).chat.completions.create(model=served, messages=ASKED, max_tokens=4)
    headrace.kubectl(
        "create", "rolebinding", "caller", "-n", namespace, "--clusterrole=edit", f"--serviceaccount={namespace}:caller"
    )
    # A refusal is kept for five seconds.
    deadline = time.monotonic() + 30
    while True:
        try:
            one.with_options(api_key=token).chat.completions.create(model=served, messages=ASKED, max_tokens=4)
            break
        except openai.PermissionDeniedError:
            assert time.monotonic() < deadline
            time.sleep(0.5)
    headrace_key(headrace, "revoke", key.split("_")[1])

    def refused() -> bool:
        try:
            one.models.list()
        except openai.AuthenticationError:
            return True
        return False

    eventually(refused, bool, within=20, what="a revoked key ends")


def test_a_killed_runner_costs_who_has_seen_nothing_an_attempt(
    headrace: Cluster, namespace: str, served: str, address: str
) -> None:
    key = headrace_key(headrace, "create", namespace)
    client = openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0, timeout=180)
    found: list[object] = []

    def ask() -> None:
        shape = {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": NUMBERS}}
        try:
            answer = client.chat.completions.create(
                model=served,
                messages=ASKED,
                max_tokens=1500,
                response_format=shape,
                timeout=180,  # type: ignore[call-overload]
            )
            found.append(answer.choices[0].finish_reason)
        except openai.APIStatusError as error:
            found.append((error.status_code, error.code))

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(2)
    selected = ("-n", namespace, "-l", "headrace.dev/model=smollm2")
    assert "deleted" in headrace.kubectl("delete", "pods", *selected, "--grace-period=0", "--force")
    asking.join(180)
    # The array of 900 numbers is too long for 1,500 tokens: told by the second pod, as the first would have.
    assert found == [(502, "output_invalid")]
