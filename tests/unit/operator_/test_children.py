"""The manifests of a model's children: what Pod Security, RBAC and the contract with the runner ask of them."""

import base64
import json
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from operator_cases import MODEL, RUNNER, deployment, gpu_model, model, model_snapshot

from headrace_crds.model import Capability, LLMModel, Local
from headrace_operator.decide import children
from headrace_operator.decide.network import redis_is_ours
from headrace_operator.decide.snapshots import RunnerSettings
from headrace_runner.engine.settings import EngineSettings


def built(of: LLMModel, **more: Any) -> dict[str, dict[str, Any]]:
    return {manifest["kind"]: manifest for manifest in children.build(model_snapshot(of, **more), of)}


def pod_spec(of: LLMModel, **more: Any) -> dict[str, Any]:
    spec: dict[str, Any] = built(of, **more)["Deployment"]["spec"]["template"]["spec"]
    return spec


def container(of: LLMModel, name: str) -> dict[str, Any]:
    return next(each for each in pod_spec(of)["containers"] if each["name"] == name)


def environment(of: LLMModel, name: str) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in container(of, name)["env"]}


def test_every_child_is_owned_labelled_and_named_after_the_model() -> None:
    manifests = built(model())
    assert tuple(manifests) == children.KINDS
    for manifest in manifests.values():
        metadata = manifest["metadata"]
        assert (metadata["namespace"], metadata["name"]) == ("team-a", "headrace-qwen")
        assert metadata["ownerReferences"][0]["uid"] == "model-uid"
        assert metadata["ownerReferences"][0]["controller"] is True
        assert metadata["labels"]["app.kubernetes.io/managed-by"] == "headrace"


def test_the_same_model_gives_the_same_bytes() -> None:
    assert json.dumps(built(gpu_model())) == json.dumps(built(gpu_model()))


def test_pod_security_restricted() -> None:
    spec = pod_spec(gpu_model())
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for each in spec["containers"]:
        security = each["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["readOnlyRootFilesystem"] is True
    allowed = {"emptyDir", "persistentVolumeClaim", "projected", "secret"}
    assert all(set(volume) - {"name"} <= allowed for volume in spec["volumes"])
    assert not {"hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"} & set(spec)


def test_the_engine_has_weights_and_gpu_and_nothing_else() -> None:
    engine = container(gpu_model(count=2), "engine")
    assert {mount["name"] for mount in engine["volumeMounts"]} == {"socket", "model", "tmp-engine"}
    assert next(mount for mount in engine["volumeMounts"] if mount["name"] == "model")["readOnly"] is True
    assert engine["resources"]["limits"] == {"memory": "4Gi", "nvidia.com/gpu": "2"}
    assert "ports" not in engine


def test_the_runner_has_token_and_redis_and_no_gpu() -> None:
    runner = container(gpu_model(), "runner")
    assert {mount["name"] for mount in runner["volumeMounts"]} == {"socket", "token", "redis", "tmp-runner"}
    assert "nvidia.com/gpu" not in json.dumps(runner["resources"])


def test_the_token_is_short_lived_and_mounted_by_hand() -> None:
    spec = pod_spec(model())
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    token = next(volume for volume in spec["volumes"] if volume["name"] == "token")
    assert token["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"] == 3600


def test_the_contract_with_runner_and_engine() -> None:
    of = gpu_model()
    assert environment(of, "runner") | {"HEADRACE_POD": ""} == {
        "HEADRACE_MODEL": "team-a/qwen",
        "HEADRACE_MODEL_GENERATION": "1",
        "HEADRACE_POD": "",
        "HEADRACE_REDIS_URL_FILE": "/etc/headrace/redis/url",
        "HEADRACE_PARALLELISM": "1",
        "HEADRACE_LEASE_SECONDS": "15",
        "HEADRACE_DRAIN_SECONDS": "5",
        "HEADRACE_ENGINE_SOCKET": "/run/headrace/engine.sock",
        "HEADRACE_ENGINE_STATE": "/run/headrace/engine.json",
        "NVIDIA_VISIBLE_DEVICES": "void",
    }
    assert environment(of, "engine") == {
        "HEADRACE_MODEL_PATH": "/models/qwen.gguf",
        "HEADRACE_CONTEXT_TOKENS": "4096",
        "HEADRACE_PARALLELISM": "1",
        "HEADRACE_ENGINE_SOCKET": "/run/headrace/engine.sock",
        "HEADRACE_ENGINE_STATE": "/run/headrace/engine.json",
        "HEADRACE_GPU_LAYERS": "All",
        "VRAM_RESERVE_MB": "1024",
        "MAX_VRAM_USAGE_PERCENT": "95",
    }
    assert "HEADRACE_GPU_LAYERS" not in environment(model(), "engine")


def test_what_differs_from_the_engines_defaults_reaches_it() -> None:
    of = model()
    local = of.spec.local
    assert local is not None
    changed = Local.model_validate(
        {
            **local.dump(),
            "source": {
                "persistentVolumeClaim": {"claimName": "models"},
                "files": [{"path": "a-1.gguf", "sha256": "0" * 64}, {"path": "a-2.gguf"}],
            },
            "adapters": [{"path": "lora.gguf", "scale": "0.5"}],
            "kvCache": {"keyType": "Q8_0", "valueType": "Q4_0", "unified": True},
            "flashAttention": "Enabled",
            "memoryMap": False,
            "pooling": "Last",
            "gpu": {"count": 2, "layers": "20", "tensorSplit": [3, 1]},
        }
    )
    spec = of.spec.model_copy(update={"local": changed, "capabilities": [Capability.CHAT, Capability.EMBEDDING]})
    before, after = environment(of, "engine"), environment(of.model_copy(update={"spec": spec}), "engine")
    assert {name: value for name, value in after.items() if before.get(name) != value} == {
        "HEADRACE_MODEL_PATH": "/models/a-1.gguf",
        "HEADRACE_MODEL_PARTS": '[{"path": "/models/a-1.gguf", "sha256": "'
        + "0" * 64
        + '"}, {"path": "/models/a-2.gguf"}]',
        "HEADRACE_ADAPTERS": '[{"path": "/models/lora.gguf", "scale": "0.5"}]',
        "HEADRACE_KV_TYPE_K": "Q8_0",
        "HEADRACE_KV_UNIFIED": "true",
        "HEADRACE_KV_TYPE_V": "Q4_0",
        "HEADRACE_FLASH_ATTENTION": "Enabled",
        "HEADRACE_MEMORY_MAP": "false",
        "HEADRACE_POOLING": "Last",
        "HEADRACE_CAPABILITIES": "Chat,Embedding",
        "HEADRACE_GPU_LAYERS": "20",
        "HEADRACE_GPU_COUNT": "2",
        "HEADRACE_TENSOR_SPLIT": "3,1",
        "VRAM_RESERVE_MB": "1024",
        "MAX_VRAM_USAGE_PERCENT": "95",
    }
    engine = EngineSettings.from_environment(after)
    assert [(part.path.name, part.sha256) for part in engine.files] == [("a-1.gguf", "0" * 64), ("a-2.gguf", None)]
    assert [(adapter.path.name, adapter.scale) for adapter in engine.adapters] == [("lora.gguf", 0.5)]
    assert (engine.kv_type_k, engine.kv_type_v, engine.flash_attention) == ("Q8_0", "Q4_0", "Enabled")
    assert engine.kv_unified
    assert (engine.memory_map, engine.pooling, engine.generates, engine.embeds) == (False, "Last", True, True)
    assert (engine.gpu_layers, engine.gpu_count, engine.tensor_split) == (20, 2, (3, 1))


def test_scaling_changes_replicas_and_no_pod() -> None:
    before, after = model(generation=1, replicas=1), model(generation=2, replicas=3)
    old, new = built(before)["Deployment"], built(after, deployment=deployment(before))["Deployment"]
    assert new["spec"]["replicas"] == 3
    assert new["spec"]["template"] == old["spec"]["template"]


def test_another_spec_rolls_the_pods() -> None:
    before, after = model(), model(generation=2, local={"contextTokens": 8192})
    old, new = built(before)["Deployment"], built(after, deployment=deployment(before))["Deployment"]
    assert old["spec"]["template"]["metadata"]["annotations"]["headrace.dev/spec-generation"] == "1"
    assert new["spec"]["template"]["metadata"]["annotations"]["headrace.dev/spec-generation"] == "2"


@pytest.mark.parametrize(("of", "surge"), [(gpu_model(), 0), (model(), 1)], ids=["gpu", "cpu"])
def test_a_gpu_is_handed_over_not_asked_for_twice(of: LLMModel, surge: int) -> None:
    rolling = built(of)["Deployment"]["spec"]["strategy"]["rollingUpdate"]
    assert rolling == {"maxSurge": surge, "maxUnavailable": 1 - surge}


def test_the_redis_url_has_a_user_of_its_own() -> None:
    url = base64.b64decode(built(model())["Secret"]["data"]["url"]).decode()
    parts = urlsplit(url)
    assert unquote(parts.username or "") == children.redis_user(MODEL) == "headrace:team-a:qwen"
    assert parts.password == "s3cret"
    assert (parts.hostname, parts.port, parts.path) == ("headrace-redis.headrace-system.svc", 6379, "/0")


def test_the_role_is_the_charts_and_bound_to_this_account_alone() -> None:
    binding = built(model())["RoleBinding"]
    assert binding["roleRef"]["name"] == "headrace-runner"
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "headrace-qwen", "namespace": "team-a"}]


def test_the_network_is_metrics_in_and_redis_names_and_api_out() -> None:
    policy = built(model())["NetworkPolicy"]["spec"]
    assert [port["port"] for port in policy["ingress"][0]["ports"]] == [8080]
    dns, redis, api = policy["egress"]
    assert {port["port"] for port in dns["ports"]} == {53}
    assert redis["to"][0]["podSelector"] == {"matchLabels": {"app.kubernetes.io/component": "redis"}}
    assert {port["port"] for port in api["ports"]} == {443, 6443}


@pytest.mark.parametrize(
    ("address", "ours"),
    [
        ("redis://headrace-redis.headrace-system.svc:6379/0", True),
        ("redis://headrace-redis.headrace-system.svc.cluster.local:6379/0", True),
        ("redis://headrace-redis.headrace-system:6379/0", True),
        ("rediss://redis.example.com:6380/0", False),
        ("redis://10.0.0.7:6379/0", False),
        ("redis://redis.other.svc:6379/0", False),
    ],
)
def test_an_external_redis_is_reached_anywhere(address: str, ours: bool) -> None:
    assert redis_is_ours(RunnerSettings(namespace="headrace-system", image="i", redis_address=address)) is ours


def test_the_operators_secrets_reach_no_pod() -> None:
    assert "s3cret" not in json.dumps(built(model())["Deployment"])
    assert RUNNER.image in json.dumps(built(model())["Deployment"])


def test_pods_are_of_one_account_and_roll_when_it_is_made_again() -> None:
    plain = built(model())["Deployment"]
    first, again, other = (children.of_account(plain, uid) for uid in ("uid-1", "uid-1", "uid-2"))
    assert first == again
    assert first["spec"]["template"] != other["spec"]["template"]
    template = other["spec"]["template"]
    annotations = template["metadata"].pop("annotations")
    assert annotations.pop(children.ANNOTATION_ACCOUNT_UID) == "uid-2"
    assert annotations == plain["spec"]["template"]["metadata"]["annotations"]
    assert children.ANNOTATION_ACCOUNT_UID not in plain["spec"]["template"]["metadata"]["annotations"], (
        "changed in place"
    )
    assert {**other, "spec": None} == {**plain, "spec": None}
