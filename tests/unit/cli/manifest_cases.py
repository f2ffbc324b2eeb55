"""Manifests and what is wrong with them; a contract test asks a real API server for its opinion of the same."""

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Case:
    """``field`` and ``says`` are of the expected mistake; no field: the manifest is right.

    ``only_here``: the API server takes it, and the engine would refuse it later.
    """

    name: str
    kind: str
    spec: dict[str, Any]
    field: str = ""
    says: str = ""
    metadata: dict[str, Any] | None = None
    only_here: bool = False

    def manifest(self) -> dict[str, Any]:
        return {
            "apiVersion": "headrace.dev/v1alpha1",
            "kind": self.kind,
            "metadata": {"name": "case", **(self.metadata or {})},
            "spec": self.spec,
        }


def task(name: str, field: str = "", says: str = "", *, only_here: bool = False, **spec: Any) -> Case:
    base: dict[str, Any] = {"modelRef": {"name": "m"}, "prompt": "hi"}
    kept = {key: value for key, value in (base | spec).items() if value is not ...}
    return Case(name, "LLMTask", kept, field, says, only_here=only_here)


def parameter(key: str, value: Any, says: str = "") -> Case:
    field = f"spec.parameters.{key}" if says else ""
    return task(f"{key}={value!r}", field, says, parameters={key: value})


def model(name: str, field: str = "", says: str = "", *, called: str = "case", **local: Any) -> Case:
    source = {"persistentVolumeClaim": {"claimName": "models", "path": "a/b.gguf"}}
    spec = {"local": {key: value for key, value in {"source": source, **local}.items() if value is not ...}}
    return Case(name, "LLMModel", spec, field, says, {"name": called})


CLAIM = {"persistentVolumeClaim": {"claimName": "models", "path": "a.gguf"}}
FETCHED = {"http": {"url": "https://models.example.com/m.gguf?v=1"}, "sha256": "0" * 64}
CACHE_CLAIM = {"claimName": "weights"}
UPWARDS = {"hostPath": {"path": "/srv/../etc/m.gguf"}}


def shared(name: str, field: str = "", says: str = "", **namespaces: Any) -> Case:
    base = model(name, field, says)
    return Case(name, "LLMModel", base.spec | {"sharing": {"namespaces": namespaces}}, field, says, {"name": "case"})


HTTP: dict[str, Any] = {"body": '{"p": "{{prompt}}"}', "response": {"text": "/text"}}
POLL: dict[str, Any] = {"url": "/url", "status": "/status", "doneValues": ["over"]}
KEY = {"secretKeyRef": {"name": "s", "key": "k"}}


def remote(name: str, field: str = "", says: str = "", **members: Any) -> Case:
    base = {"provider": "OpenAICompatible", "model": "m", "baseURL": "https://llm.example.com/v1"}
    kept = {key: value for key, value in (base | members).items() if value is not ...}
    return Case(name, "LLMModel", {"remote": kept}, field and f"spec.remote.{field}", says)


def http(name: str, field: str = "", says: str = "", **members: Any) -> Case:
    kept = {key: value for key, value in (HTTP | members).items() if value is not ...}
    return remote(name, field and f"http.{field}", says, provider="HTTP", http=kept)


def falls(name: str, where: str = "", says: str = "", *, kind: str = "LLMTask", **fallback: Any) -> Case:
    base = model(name) if kind == "LLMModel" else task(name)
    field = f"spec.fallback{where}" if says else ""
    return Case(name, kind, base.spec | {"fallback": fallback}, field, says, {"name": "case"})


def sized(name: str, field: str = "", says: str = "", **members: Any) -> Case:
    return Case(name, "LLMModel", model(name).spec | members, field and f"spec.{field}", says)


EUROS = {"costMicros": 5, "currency": "EUR"}


def quota(name: str, field: str = "", says: str = "", *, called: str = "default", **spec: Any) -> Case:
    return Case(name, "LLMQuota", spec, field, says, {"name": called})


def team(**expression: Any) -> dict[str, Any]:
    return {"matchExpressions": [{"key": "team", **expression}]}


MESSAGES = [{"role": "user", "content": "hi"}]

HOOK = {"url": "https://hooks.example/x", "secretRef": {"name": "keys", "key": "current"}}

CALL = {"id": "a1", "name": "f", "arguments": "{}"}


def said(name: str, where: str, says: str, **message: object) -> Case:
    return task(name, f"spec.messages[0]{where}", says, prompt=..., messages=[message])


CASES = [
    sized("scales itself", scaling={"maxReplicas": 2}, runnerTemplate={"nodeSelector": {"gpu": "h200"}}),
    sized("bounds", "scaling.maxReplicas", "at least minReplicas", scaling={"minReplicas": 2}),
    sized(
        "label of ours", "runnerTemplate.labels", "the operator's", runnerTemplate={"labels": {"headrace.dev/a": "b"}}
    ),
    sized("number for a label", "runnerTemplate.labels.a", "must be text", runnerTemplate={"labels": {"a": 1}}),
    sized("a taint", runnerTemplate={"tolerations": [{"key": "gpu", "operator": "Exists"}]}),
    sized(
        "value of any",
        "runnerTemplate.tolerations[0].value",
        "takes no value",
        runnerTemplate={"tolerations": [{"key": "gpu", "operator": "Exists", "value": "a"}]},
    ),
    sized(
        "taint of the control plane",
        "runnerTemplate.tolerations[0].key",
        "control plane",
        runnerTemplate={"tolerations": [{"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}]},
    ),
    sized(
        "node of the control plane",
        "runnerTemplate.nodeSelector",
        "control plane",
        runnerTemplate={"nodeSelector": {"node-role.kubernetes.io/control-plane": ""}},
    ),
    task("prompt"),
    task("messages", prompt=..., messages=MESSAGES),
    task("both inputs", "spec", "exactly one of prompt, messages, embed and inputFrom", messages=MESSAGES),
    task("no input", "spec", "exactly one of prompt, messages, embed and inputFrom", prompt=...),
    task("texts to embed", prompt=..., embed={"input": ["a", "b"]}),
    task("nothing to embed", "spec.embed.input", "from 1 to 512", prompt=..., embed={"input": []}),
    task("an empty text", "spec.embed.input[0]", "0 characters", prompt=..., embed={"input": [""]}),
    task(
        "vectors of a shape", "spec.embed", "neither output", prompt=..., embed={"input": ["a"]}, output={"regex": "a"}
    ),
    task("too much to embed", "spec.embed.input", "more than 262144", prompt=..., embed={"input": ["x" * 60_000] * 5}),
    task("input from", prompt=..., inputFrom={"configMapKeyRef": {"name": "c", "key": "k"}}),
    task("input from nothing", "spec.inputFrom", "inputFrom needs configMapKeyRef", prompt=..., inputFrom={}),
    model("parts", source={"persistentVolumeClaim": {"claimName": "m"}, "files": [{"path": "a"}, {"path": "b"}]}),
    model("one part", "spec.local.source.files", "from 2 to 64", source={**CLAIM, "files": [{"path": "a"}]}),
    model("path and parts", "spec.local.source", "either", source={**CLAIM, "files": [{"path": "a"}, {"path": "b"}]}),
    model(
        "digest of parts",
        "spec.local.source.sha256",
        "sha256 is of one file",
        source={
            "persistentVolumeClaim": {"claimName": "m"},
            "sha256": "0" * 64,
            "files": [{"path": "a"}, {"path": "b"}],
        },
    ),
    model("fetched", source=FETCHED, cache={"persistentVolumeClaim": {"claimName": "weights"}, "limitBytes": 1 << 40}),
    model("Hugging Face", source={"huggingFace": {"repo": "a/b", "file": "c/d.gguf"}, "sha256": "0" * 64}),
    model("S3", source={"s3": {"bucket": "models", "key": "a b.gguf"}, "sha256": "0" * 64}),
    model("image", source={"image": {"reference": "r.example/m@sha256:0", "path": "m.gguf"}, "sha256": "0" * 64}),
    model("node's file", source={"hostPath": {"path": "/srv/models/m.gguf"}}),
    model("node's file upwards", "spec.local.source.hostPath.path", "does not match", source=UPWARDS),
    model("no digest", "spec.local.source.sha256", "sha256 is needed", source={"http": FETCHED["http"]}),
    model("two sources", "spec.local.source", "in its place", source={**CLAIM, **FETCHED}),
    model(
        "parts over a network",
        "spec.local.source.files",
        "files goes with",
        source={"hostPath": {"path": "/srv/a.gguf"}, "files": [{"path": "a"}, {"path": "b"}]},
    ),
    model("cache of nothing", "spec.local.cache", "cache goes with", cache={"persistentVolumeClaim": CACHE_CLAIM}),
    model("cache without claim", "spec.local.cache", "cache needs", source=FETCHED, cache={}),
    model(
        "adapter beside fetched weights",
        "spec.local.adapters",
        "on the volume of the weights",
        source=FETCHED,
        adapters=[{"path": "l.gguf"}],
    ),
    model("adapter", adapters=[{"path": "l.gguf", "scale": "-0.5"}]),
    model("adapter's scale", "spec.local.adapters[0].scale", "between -100", adapters=[{"path": "l", "scale": "101"}]),
    model("quantized context", kvCache={"keyType": "Q8_0", "valueType": "Q4_0"}),
    model(
        "quantized values without flash attention",
        "spec.local.kvCache.valueType",
        "needs flashAttention",
        kvCache={"valueType": "Q8_0"},
        flashAttention="Disabled",
    ),
    model("tensor split", gpu={"count": 2, "tensorSplit": [3, 1]}),
    model("tensor split of another count", "spec.local.gpu.tensorSplit", "one share", gpu={"tensorSplit": [3, 1]}),
    shared("shared with all", **{"from": "All"}),
    shared("shared by labels", **{"from": "Selector", "selector": team(operator="In", values=["a"])}),
    shared("selector missing", "spec.sharing.namespaces.selector", "selector goes with", **{"from": "Selector"}),
    shared(
        "values missing",
        "spec.sharing.namespaces.selector.matchExpressions[0].values",
        "values are needed for In and NotIn",
        **{"from": "Selector", "selector": team(operator="In")},
    ),
    falls("fallback", policy="List", models=[{"name": "a"}, {"name": "m", "namespace": "b"}], when=["Refused"]),
    falls("fallback off", policy="None", kind="LLMModel"),
    falls("fallback nowhere", ".models", "models go with policy List", policy="List"),
    falls("fallback without a policy", ".models", "models go with policy List", models=[{"name": "a"}]),
    falls("fallback to itself", ".models", "names the model of modelRef", policy="List", models=[{"name": "m"}]),
    falls("fallback twice", ".models", "names one twice", policy="List", models=[{"name": "a"}, {"name": "a"}]),
    falls(
        *("fallback of a model to itself", ".models", "names the model itself"),
        kind="LLMModel",
        policy="List",
        models=[{"name": "case"}],
    ),
    quota("quota", maxQueuedTasks=5),
    quota("quota with budgets", budgets=[{"window": "Daily", "tokens": 5}, {"window": "Daily", **EUROS}]),
    quota("budget of nothing", "spec.budgets[0]", "needs tokens, costMicros or both", budgets=[{"window": "Daily"}]),
    quota(
        "budget in a currency without money",
        "spec.budgets[0].currency",
        "currency is of costMicros",
        budgets=[{"window": "Hourly", "tokens": 5, "currency": "EUR"}],
    ),
    quota(
        "budgets twice",
        "spec.budgets",
        "same window and currency",
        budgets=[{"window": "Daily", "tokens": 5}, {"window": "Daily", "costMicros": 5, "currency": "USD"}],
    ),
    quota("quota of another name", "", "metadata.name must be default", called="other"),
    task("no messages", "spec.messages", "from 1 to 1024", prompt=..., messages=[]),
    task(
        "messages too large together",
        "spec.messages",
        "more than 262144 characters",
        prompt=...,
        messages=[{"role": "user", "content": "x" * 140_000}] * 2,
    ),
    task("prompt of too many bytes", "spec.prompt", "more than 262144 bytes", prompt="ü" * 140_000),
    task(
        "schema of too many bytes",
        "spec.output.jsonSchema",
        "more than 65536 bytes",
        output={"jsonSchema": json.dumps({"description": "ü" * 33_000}, ensure_ascii=False)},
    ),
    task("grammar of too many bytes", "spec.output.grammar", "more than 65536", output={"grammar": "ü" * 33_000}),
    task("large messages", prompt=..., messages=[{"role": "user", "content": "ü" * 131_072}] * 2),
    task(
        "wrong role",
        "spec.messages[0].role",
        "did you mean user",
        prompt=...,
        messages=[{"role": "User", "content": ""}],
    ),
    task("misspelt field", "spec.promt", "did you mean prompt", promt="hi"),
    task("no model", "spec.modelRef", "missing", modelRef=...),
    task("bad model name", "spec.modelRef.name", "does not match", modelRef={"name": "Model_A"}),
    task("name with a newline", "spec.modelRef.name", "does not match", modelRef={"name": "m\n"}),
    task("empty prompt", "spec.prompt", "from 1 to", prompt=""),
    task("null prompt", "spec.prompt", "give it one or remove", prompt=None),
    task("priority", priority=-100),
    task("priority too high", "spec.priority", "from -100 to 100", priority=101),
    task("priority as text", "spec.priority", "without quotes", priority="5"),
    task("priority as truth", "spec.priority", "must be an integer", priority=True),
    task("schema", output={"jsonSchema": '{"type": "object"}'}),
    task("empty output", "spec.output", "output needs jsonSchema, grammar, regex or choice", output={}),
    task("two shapes", "spec.output", "only one of them", output={"regex": "a", "choice": ["a"]}),
    task("grammar", output={"grammar": 'root ::= "yes"', "maxRepairs": 0}),
    task("too many repairs", "spec.output.maxRepairs", "from 0 to 5", output={"regex": "a", "maxRepairs": 6}),
    task("schema as an object", "spec.output.jsonSchema", "must be text", output={"jsonSchema": {"type": "object"}}),
    task("schema is no JSON", "spec.output.jsonSchema", "is not JSON", only_here=True, output={"jsonSchema": "{a"}),
    task("schema is true", output={"jsonSchema": "true"}),
    task("schema is false", output={"jsonSchema": " false\n"}),
    task(
        "schema is a bare number",
        "spec.output.jsonSchema",
        "true or false",
        only_here=True,
        output={"jsonSchema": "12"},
    ),
    task("priority with a point", priority=1.0),
    task("priority with a fraction", "spec.priority", "not a number: write 2", priority=1.5),
    task("priority in words", "spec.priority", "not text: write a number from -100 to 100", priority="high"),
    task("time in words", "spec.activeDeadlineSeconds", "write a number from 1 to", activeDeadlineSeconds="1h"),
    task("truth in quotes", "spec.suspend", "not text: write true without quotes", suspend="yes"),
    task("truth as a number", "spec.cancel", "not a number: write false without quotes", cancel=0),
    task("model as text", "spec.modelRef", "not text: write its members, {name: …}", modelRef="m"),
    task("model as a list", "spec.modelRef", "not a list: write its members", modelRef=[{"name": "m"}]),
    task("messages as text", "spec.messages", "not text: write ['hi']", prompt=..., messages="hi"),
    task("messages as an object", "spec.messages", "a dash before each entry", prompt=..., messages={"role": "user"}),
    task("message as text", "spec.messages[0]", "{role: …}", prompt=..., messages=["hi"]),
    task("prompt as a list", "spec.prompt", "not a list: write it in quotes, or as a block after |", prompt=["hi"]),
    task("webhook", webhook={**HOOK, "events": ["Complete", "Failed"]}),
    task(
        "events twice",
        "spec.webhook.events[1]",
        "in the list before: remove one",
        webhook={**HOOK, "events": ["Failed"] * 2},
    ),
    task("parts", prompt=..., messages=[{"role": "user", "contentParts": [{"type": "text", "text": "hi"}]}]),
    said("image", ".contentParts[0].type", "UnsupportedContent", role="user", contentParts=[{"type": "image_url"}]),
    said("content twice", ".contentParts", "not both", role="user", content="a", contentParts=[{"text": "b"}]),
    said("nothing said", "", "needs content", role="user"),
    said("call of a user", ".toolCalls", "assistant's", role="user", content="", toolCalls=[CALL]),
    said("answer to nothing", ".toolCallId", "needs toolCallId", role="tool", content="1"),
    task("calls", prompt=..., messages=[*MESSAGES, {"role": "assistant", "toolCalls": [CALL]}]),
    task("tools", tools=[{"name": "f", "parameters": '{"type": "object"}'}], toolChoice="f"),
    task("tool named none", "spec.tools[0].name", "words of toolChoice", tools=[{"name": "none"}]),
    task("large tool", "spec.tools[0].parameters", "16384 bytes", tools=[{"name": "f", "parameters": "ü" * 9000}]),
    task("choice of nothing", "spec.toolChoice", "chooses among tools", toolChoice="auto"),
    task("unknown choice", "spec.toolChoice", "the name of one", tools=[{"name": "f"}], toolChoice="g"),
    task(
        "call and document",
        "spec.output",
        "leaves no answer",
        tools=[{"name": "f"}],
        toolChoice="required",
        output={"jsonSchema": "{}"},
    ),
    task("schema is a list", "spec.output.jsonSchema", "JSON object", only_here=True, output={"jsonSchema": "[]"}),
    parameter("temperature", "0"),
    parameter("temperature", "2"),
    parameter("temperature", "2.1", "between 0 and 2"),
    parameter("temperature", 0.7, 'write it in quotes, "0.7"'),
    parameter("temperature", "hot", "does not match"),
    parameter("topP", "1"),
    parameter("topP", "1.01", "between 0 and 1"),
    parameter("minP", "1"),
    parameter("minP", "1.01", "between 0 and 1"),
    parameter("presencePenalty", "-2"),
    parameter("presencePenalty", "-2.5", "between -2 and 2"),
    parameter("presencePenalty", "2.5", "between -2 and 2"),
    parameter("frequencyPenalty", "2"),
    parameter("frequencyPenalty", "-2.5", "between -2 and 2"),
    parameter("frequencyPenalty", "2.5", "between -2 and 2"),
    parameter("repeatPenalty", "4"),
    parameter("repeatPenalty", "0", "above 0"),
    parameter("repeatPenalty", "4.5", "above 0"),
    parameter("maxTokens", 1),
    parameter("maxTokens", 0, "from 1 to"),
    parameter("seed", 4294967294),
    parameter("seed", 4294967295, "from 0 to"),
    parameter("stop", ["a"]),
    parameter("stop", "a", "must be a list"),
    parameter("stop", list("123456789"), "has 9 entries"),
    model("model"),
    model("gpu", gpu={"count": 2, "layers": "12"}),
    model("gpu layers", "spec.local.gpu.layers", "does not match", gpu={"layers": "all"}),
    model("no gpu", "spec.local.gpu.count", "from 1 to 16", gpu={"count": 0}),
    model("no source", "spec.local.source", "missing", source=...),
    model("empty source", "spec.local.source", "source needs persistentVolumeClaim", source={}),
    model(
        "path upwards",
        "spec.local.source.persistentVolumeClaim.path",
        "does not match",
        source={"persistentVolumeClaim": {"claimName": "c", "path": "../x.gguf"}},
    ),
    model("long name", "", "at most 40 characters", called="m" * 41),
    model("dotted name", "", "without dots", called="a.b"),
    Case("empty model", "LLMModel", {}, "spec", "spec needs either local"),
    Case(
        "hot defaults",
        "LLMModel",
        {**model("").spec, "defaults": {"temperature": "3"}},
        "spec.defaults.temperature",
        "between 0 and 2",
    ),
    remote("remote model"),
    remote("remote without address", "baseURL", "baseURL is needed", baseURL=...),
    remote("remote without key", "credentials", "credentials are needed", provider="Anthropic"),
    remote("HTTP without http", "http", "http goes with provider HTTP", provider="HTTP"),
    remote("key to nowhere", "credentials", "go together", provider="HTTP", http=HTTP, credentials=KEY),
    remote("extra body", "extraBody", "has no meaning", provider="HTTP", http=HTTP, extraBody='{"a": 1}'),
    remote(
        "certificate without TLS",
        "clientCertificate",
        "shown in TLS alone",
        provider="OpenAICompatible",
        baseURL="http://vllm.models.svc/v1",
        clientCertificate={"secretName": "mtls"},
    ),
    http("HTTP model"),
    http("HTTP by GET", method="GET", body=..., path="/x?q={{prompt}}"),
    http("body of a GET", "body", "a GET has no body", method="GET"),
    http("no place for the input", "body", "no place for the input", body="{}"),
    http("key in the path", "body", "for headers only", path="/x?key={{credential}}"),
    http("header of the client", "headers[0].name", "the client itself", headers=[{"name": "HOST", "value": "x"}]),
    http("job without poll", "poll", "poll goes with style Poll", style="Poll"),
    http("job", style="Poll", poll=POLL),
    http(
        "done and failed", "poll.failedValues", "either done or", style="Poll", poll=POLL | {"failedValues": ["over"]}
    ),
    http("pointer", "response.text", "does not match", response={"text": "text"}),
    Case("bad name", "LLMTask", task("").spec, "metadata.name", "lower-case", {"name": "Bad_Name"}),
    Case("label", "LLMTask", task("").spec, "", "", {"labels": {"a": "1"}}),
    Case("label that is a number", "LLMTask", task("").spec, "metadata.labels.a", "quotes", {"labels": {"a": 1}}),
    Case("misspelt metadata", "LLMTask", task("").spec, "metadata.label", "did you mean labels", {"label": {}}),
]
