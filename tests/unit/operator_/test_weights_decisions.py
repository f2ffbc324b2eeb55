"""What the operator makes of weights that are fetched: when runners may start, what the Job is, what its end means."""

import json
from dataclasses import replace
from typing import Any

import pytest
from operator_cases import MODEL, NOW_MS, RUNNER, conditions_of, deployment, model, model_snapshot, pod, report

from headrace_crds.model import LLMModel
from headrace_crds.outcome import timestamp
from headrace_crds.weights import WeightsEnd
from headrace_operator.decide import children, weights, weights_job
from headrace_operator.decide import model as decide_model
from headrace_operator.decide.snapshots import (
    ContainerView,
    CredentialsView,
    FetchView,
    JobView,
    ModelSnapshot,
    Ownership,
    PodView,
    RunnerSettings,
    WeightsSettings,
)

SHA256 = "ab" * 32
HTTP = {"http": {"url": "https://models.example.com/m.gguf"}, "sha256": SHA256}
CACHE = {"persistentVolumeClaim": {"claimName": "weights"}}
SECOND = 1000
HERE = {"sha256": SHA256, "cache": "weights", "sizeBytes": 7, "since": timestamp(NOW_MS - 3_600_000)}


def fetched(source: dict[str, Any] | None = None, *, cache: Any = CACHE, **more: Any) -> LLMModel:
    local = {"source": source or HTTP, **({"cache": cache} if cache else {})}
    return model(local=local, **more)


def settings(**weights: Any) -> RunnerSettings:
    return replace(RUNNER, weights=WeightsSettings(**weights))


def seen(of: LLMModel, **more: Any) -> ModelSnapshot:
    runner = more.pop("runner", RUNNER)
    return replace(model_snapshot(of, **more), runner=runner)


def job(of: LLMModel, *, runner: RunnerSettings = RUNNER, **more: Any) -> JobView:
    s = seen(of, runner=runner, credentials=more.pop("credentials", None))
    plan = weights.judge(s, of).plan
    assert plan is not None
    assert plan.job is not None
    made_of = plan.job["metadata"]["annotations"][weights_job.ANNOTATION_WEIGHTS]
    return replace(JobView("job-uid", Ownership.OURS, made_of, created_ms=NOW_MS - 50 * SECOND), **more)


def ended(reason: str, message: str = "why", *, phase: str = "Failed", **more: Any) -> PodView:
    end = WeightsEnd(reason=reason, message=message, **more).model_dump_json(by_alias=True)
    container = ContainerView("weights", last_words=end)
    return replace(pod("w", generation=0, phase=phase), containers=(container,), owner_uid="job-uid", fetches=True)


def going(**more: Any) -> PodView:
    return replace(pod("w", generation=0, **more), owner_uid="job-uid", fetches=True)


def replicas(s: ModelSnapshot, of: LLMModel) -> int | None:
    deployments = [each for each in children.build(s, of) if each["kind"] == "Deployment"]
    return deployments[0]["spec"]["replicas"] if deployments else None


def test_without_a_job_one_is_made_and_no_runner_starts() -> None:
    of = fetched()
    plan = decide_model.decide(seen(of, live=[]))
    assert plan.weights is not None
    assert plan.weights.job is not None
    assert plan.weights_ready is False
    assert replicas(seen(of), of) == 0
    status = plan.status or {}
    assert status["phase"] == "Loading"
    assert status["load"]["stage"] == "Downloading"
    assert conditions_of(status)["Ready"] == ("False", "DownloadingWeights")
    assert plan.requeue_after_seconds == decide_model.BUSY_LOOK_SECONDS


def test_a_model_at_rest_fetches_ahead() -> None:
    of = fetched(replicas=0)
    assert weights.judge(seen(of), of).plan is not None
    assert decide_model.find(seen(of), of).reason == "DownloadingWeights"


def test_what_the_status_remembers_is_not_fetched_again() -> None:
    of = fetched(weights=HERE)
    found = weights.judge(seen(of), of)
    assert (found.ready, found.plan, found.finding) == (True, None, None)
    assert replicas(seen(of), of) == 1
    assert not weights.wants_job(seen(of), of)


@pytest.mark.parametrize(
    "change",
    [{"sha256": "cd" * 32}, {"cache": "another"}, {"cache": "/var/lib/weights"}],
    ids=["digest", "claim", "node"],
)
def test_what_it_remembers_of_something_else_does_not_count(change: dict[str, str]) -> None:
    of = fetched(weights={**HERE, **change})
    assert weights.judge(seen(of), of).plan is not None


def test_the_job_is_owned_restricted_and_has_no_token() -> None:
    of = fetched()
    plan = weights.judge(seen(of), of).plan
    assert plan is not None
    assert plan.job is not None
    assert plan.policy is not None
    body = dict(plan.job)
    assert body["metadata"]["name"] == "headrace-qwen"
    assert body["metadata"]["ownerReferences"][0]["uid"] == "model-uid"
    template = body["spec"]["template"]
    spec = template["spec"]
    (container,) = spec["containers"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["restartPolicy"] == "Never"
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    volumes = {each["name"]: each for each in spec["volumes"]}
    assert set(volumes) == {"cache", "redis", "tmp"}
    assert volumes["redis"]["secret"]["items"] == [{"key": "weights-url", "path": "weights-url"}]
    assert volumes["cache"]["persistentVolumeClaim"] == {"claimName": "weights"}
    labels = template["metadata"]["labels"]
    runners = next(each for each in children.build(seen(of), of) if each["kind"] == "Deployment")
    assert not runners["spec"]["selector"]["matchLabels"].items() <= labels.items(), "no runner's selector takes it"
    assert plan.policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    assert plan.policy["spec"]["ingress"] == []


def test_the_job_reaches_its_source_and_no_api_server() -> None:
    inside = settings(allowed_hosts=("minio.models.svc:9000",))
    of = fetched()
    plan = weights.judge(seen(of, runner=inside), of).plan
    assert plan is not None
    assert plan.policy is not None
    rules = plan.policy["spec"]["egress"]
    ports = {port["port"] for rule in rules for port in rule["ports"]}
    assert ports == {53, 6379, 443, 9000}
    public = [rule for rule in rules if rule["ports"] == [{"protocol": "TCP", "port": 443}]]
    assert all("ipBlock" in peer for rule in public for peer in rule["to"])


def test_a_secret_in_the_source_reaches_no_environment() -> None:
    """Its name does; a dollar sign would be read by the kubelet."""
    credentials = {"secretKeyRef": {"name": "hub", "key": "token"}}
    source = {"http": {"url": "https://models.example.com/$(HOME)", "credentials": credentials}, "sha256": SHA256}
    of = fetched(source)
    allowed = CredentialsView(True, "models.example.com")
    plan = weights.judge(seen(of, credentials=allowed), of).plan
    assert plan is not None
    assert plan.job is not None
    (container,) = plan.job["spec"]["template"]["spec"]["containers"]
    environment = {each["name"]: each.get("value", "") for each in container["env"]}
    assert "$" not in json.dumps(environment)
    assert json.loads(environment["HEADRACE_WEIGHTS_SOURCE"]) == source
    assert {"name": "source", "mountPath": weights_job.SECRET, "readOnly": True} in container["volumeMounts"]


@pytest.mark.parametrize(
    ("view", "reason", "says"),
    [
        (None, "CredentialsNotFound", "does not exist"),
        (CredentialsView(False), "CredentialsNotFound", "does not exist"),
        (CredentialsView(True), "HostNotAllowed", "kubectl annotate secret hub"),
        (CredentialsView(True, "other.example.com"), "HostNotAllowed", "models.example.com"),
        (CredentialsView(True, "not a host"), "HostNotAllowed", "models.example.com"),
    ],
    ids=["unseen", "absent", "without a word", "another host", "nonsense"],
)
def test_a_secret_needs_its_owners_word(view: CredentialsView | None, reason: str, says: str) -> None:
    credentials = {"secretKeyRef": {"name": "hub", "key": "token"}}
    of = fetched({"http": {**HTTP["http"], "credentials": credentials}, "sha256": SHA256})
    found = weights.judge(seen(of, credentials=view), of)
    assert found.plan is None
    assert found.finding is not None
    assert found.finding.reason == reason
    assert says in found.finding.message


@pytest.mark.parametrize(
    ("source", "host"),
    [
        (
            {"huggingFace": {"repo": "a/b", "file": "c", "credentials": {"secretKeyRef": {"name": "h", "key": "t"}}}},
            "huggingface.co",
        ),
        ({"s3": {"bucket": "abc", "key": "k", "credentials": {"secretName": "h"}}}, "s3.us-east-1.amazonaws.com"),
        (
            {"s3": {"bucket": "abc", "key": "k", "endpoint": "https://s.example", "credentials": {"secretName": "h"}}},
            "s.example",
        ),
    ],
    ids=["Hugging Face", "AWS", "another store"],
)
def test_which_host_a_secret_has_to_name(source: dict[str, Any], host: str) -> None:
    of = fetched({**source, "sha256": SHA256})
    assert of.spec.local is not None
    assert of.spec.local.source.secret_name == "h"
    assert weights.judge(seen(of, credentials=CredentialsView(True, "elsewhere.example")), of).plan is None
    assert weights.judge(seen(of, credentials=CredentialsView(True, host)), of).plan is not None


@pytest.mark.parametrize("url", ["http://models.example.com/m", "https://10.0.0.1/m", "https://169.254.169.254/m"])
def test_a_host_inside_needs_the_admins_word(url: str) -> None:
    of = fetched({"http": {"url": url}, "sha256": SHA256})
    found = weights.judge(seen(of), of)
    assert found.plan is None
    assert found.finding is not None
    assert found.finding.reason == "HostNotAllowed"


def test_without_a_place_nothing_is_made() -> None:
    of = fetched(cache=None)
    s = seen(of, deployment=None)
    found = weights.judge(s, of)
    assert (found.ready, found.plan) == (False, None)
    assert found.finding is not None
    assert (found.finding.reason, found.finding.stalled) == ("CacheNotConfigured", True)
    assert children.build(s, of) == []


def test_a_missing_claim_is_said_and_no_job_made() -> None:
    of = fetched()
    found = weights.judge(seen(of, claim_missing=True), of)
    assert found.plan is None
    assert found.finding is not None
    assert found.finding.reason == "ClaimNotFound"


def test_progress_is_in_the_status_and_holds_still_within_a_percent() -> None:
    of = fetched()
    told = replace(report("Downloading"), fetch=FetchView(437_123, 1_000_000, 12_345, 45))
    finding = decide_model.find(seen(of, job=job(of), job_pods=[going()], reports={"w": told}), of)
    assert finding.fetched is not None
    assert (finding.fetched.percent, finding.fetched.bytes_per_second, finding.fetched.eta_seconds) == (43, 12_000, 45)
    load = {"stage": "Downloading", "percent": 43, "bytesPerSecond": 11_000, "etaSeconds": 99}
    of = fetched(load=load)
    finding = decide_model.find(seen(of, job=job(of), job_pods=[going()], reports={"w": told}), of)
    assert finding.fetched is not None
    assert (finding.fetched.bytes_per_second, finding.fetched.eta_seconds) == (11_000, 99)


@pytest.mark.parametrize(
    ("pods", "reason", "says"),
    [
        ([], "DownloadingWeights", "being created"),
        ([going(scheduled=False, scheduling_message="0/1 nodes")], "Unschedulable", "0/1 nodes"),
        ([going()], "DownloadingWeights", "at work"),
        ([ended("SourceUnreachable", "x is silent")], "DownloadingWeights", "SourceUnreachable: x is silent"),
    ],
    ids=["no pod", "no node", "silent", "between two"],
)
def test_what_is_told_while_it_goes_on(pods: list[PodView], reason: str, says: str) -> None:
    of = fetched()
    finding = decide_model.find(seen(of, job=job(of), job_pods=pods), of)
    assert finding.reason == reason
    assert says in finding.message
    assert not finding.stalled


def test_a_job_that_gets_no_pod_says_so_after_a_minute() -> None:
    of = fetched()
    late = replace(job(of), created_ms=NOW_MS - 61 * SECOND)
    assert decide_model.find(seen(of, job=late), of).reason == "PodRefused"


def test_verified_weights_are_recorded_and_runners_start() -> None:
    of = fetched()
    done = replace(job(of), complete=True, ended_ms=NOW_MS - SECOND)
    s = seen(of, job=done, job_pods=[ended("WeightsVerified", size_bytes=99, phase="Succeeded")])
    plan = decide_model.decide(s)
    assert plan.weights is None
    assert plan.weights_ready is True
    expected = {"sha256": SHA256, "cache": "weights", "sizeBytes": 99, "since": timestamp(NOW_MS - SECOND)}
    assert (plan.status or {})["weights"] == expected
    assert replicas(s, of) == 1


@pytest.mark.parametrize("reason", ["WrongDigest", "WeightsNotFound", "InvalidModelFile", "HostNotAllowed"])
def test_what_another_try_would_not_change_stands_still(reason: str) -> None:
    of = fetched()
    failed = replace(job(of), failed=True, ended_ms=NOW_MS - 86_400 * SECOND)
    plan = decide_model.decide(seen(of, job=failed, job_pods=[ended(reason, "the words")]))
    assert plan.weights is None
    found = conditions_of(plan.status)
    assert (found["Ready"], found["Stalled"]) == (("False", reason), ("True", reason))
    assert "kubectl delete job headrace-qwen" in str(plan.status)


@pytest.mark.parametrize("reason", ["DiskFull", "SourceUnreachable", "CredentialsRefused", "CredentialsNotFound"])
@pytest.mark.parametrize(("tries", "pause_seconds"), [(0, 600), (1, 1200), (2, 2400), (3, 3600), (50, 3600)])
def test_what_may_pass_is_tried_again_ever_more_rarely(reason: str, tries: int, pause_seconds: int) -> None:
    of = fetched()
    failed = replace(job(of), failed=True, tries=tries)
    waits = replace(failed, ended_ms=NOW_MS - pause_seconds * SECOND)
    found = weights.judge(seen(of, job=waits, job_pods=[ended(reason, "numbers")]), of)
    assert found.plan is None
    assert found.finding is not None
    assert (found.finding.reason, found.finding.stalled) == (reason, False)
    assert "numbers; tried again at" in found.finding.message
    due = replace(failed, ended_ms=NOW_MS - pause_seconds * SECOND - 1)
    plan = weights.judge(seen(of, job=due, job_pods=[ended(reason)]), of).plan
    assert plan is not None
    assert plan.job is not None
    assert plan.remove_uid == "job-uid"
    assert plan.job["metadata"]["annotations"][weights_job.ANNOTATION_WEIGHTS_TRIES] == str(tries + 1)


def test_words_that_a_pod_made_up_fit_the_api() -> None:
    of = fetched()
    failed = replace(job(of), failed=True, ended_ms=NOW_MS)
    liar = ContainerView("weights", last_words='{"reason": "a b", "message": 7}')
    found = weights.judge(seen(of, job=failed, job_pods=[replace(going(phase="Failed"), containers=(liar,))]), of)
    assert found.finding is not None
    assert found.finding.reason == "DownloadFailed"


def test_pods_of_another_job_say_nothing() -> None:
    of = fetched()
    failed = replace(job(of), failed=True, ended_ms=NOW_MS)
    other = replace(ended("WrongDigest"), owner_uid="former")
    found = weights.judge(seen(of, job=failed, job_pods=[other]), of)
    assert found.finding is not None
    assert found.finding.reason == "DownloadFailed"


@pytest.mark.parametrize(
    "change",
    [{"http": {"url": "https://elsewhere.example.com/m"}}, {"sha256": "cd" * 32}],
    ids=["url", "digest"],
)
def test_another_source_is_another_job(change: dict[str, Any]) -> None:
    former = job(fetched())
    of = fetched({**HTTP, **change})
    plan = weights.judge(seen(of, job=former), of).plan
    assert plan is not None
    assert (plan.remove_uid, plan.job is not None) == ("job-uid", True)


def test_the_same_bytes_from_elsewhere_do_not_roll_runners() -> None:
    moved = fetched(
        {**HTTP, "http": {"url": "https://elsewhere.example.com/m"}}, cache={**CACHE, "limitBytes": 1 << 30}
    )
    assert children.spec_hash(moved) == children.spec_hash(fetched())
    assert children.spec_hash(fetched({**HTTP, "sha256": "cd" * 32})) != children.spec_hash(fetched())


@pytest.mark.parametrize(
    ("ownership", "reason", "stalled"),
    [(Ownership.FOREIGN, "NameConflict", True), (Ownership.PREDECESSOR, "DownloadingWeights", False)],
)
def test_a_job_that_is_not_ours_is_left_alone(ownership: Ownership, reason: str, stalled: bool) -> None:
    of = fetched()
    found = weights.judge(seen(of, job=replace(job(of), ownership=ownership)), of)
    assert found.plan is None
    assert found.finding is not None
    assert (found.finding.reason, found.finding.stalled) == (reason, stalled)


LACKING = report("Failed", "ModelFileNotFound", "it does not exist")


def test_a_file_that_was_evicted_is_fetched_again_and_runners_wait() -> None:
    of = fetched(weights=HERE)
    old = replace(job(fetched()), complete=True, ended_ms=NOW_MS - 3_600_000)
    s = seen(of, pods=[pod()], reports={"pod-a": LACKING}, job=old)
    found = weights.judge(s, of)
    assert found.ready is False
    assert found.plan is not None
    assert found.plan.remove_uid == "job-uid"
    assert replicas(s, of) == 0
    again = replace(old, complete=True, ended_ms=NOW_MS)
    found = weights.judge(replace(s, job=again, job_pods=[ended("WeightsVerified", phase="Succeeded")]), of)
    assert found.ready is True
    assert found.fetched is not None
    assert found.fetched.since == timestamp(NOW_MS)


def test_an_engine_that_misses_what_has_just_been_verified_is_not_believed() -> None:
    of = fetched(weights={**HERE, "since": timestamp(NOW_MS - 59 * SECOND)})
    s = seen(of, pods=[pod()], reports={"pod-a": LACKING})
    assert weights.judge(s, of).ready is True
    assert decide_model.find(s, of).reason == "ModelFileNotFound"


def test_a_stranger_that_misses_a_file_is_not_heard() -> None:
    of = fetched(weights=HERE)
    assert weights.judge(seen(of, pods=[], reports={"nobody": LACKING}), of).ready is True


# The nodes' own files

NODE = settings(node_directory="/var/lib/weights", limit_bytes=1 << 40)


def test_a_node_directory_binds_runners_to_the_node_that_fetched() -> None:
    of = fetched(cache=None)
    done = replace(job(of, runner=NODE), complete=True, ended_ms=NOW_MS)
    verified = ended("WeightsVerified", node="node-7", phase="Succeeded")
    s = seen(of, runner=NODE, job=done, job_pods=[verified])
    found = weights.judge(s, of)
    assert found.fetched is not None
    assert (found.fetched.cache, found.fetched.node) == ("/var/lib/weights", "node-7")
    made = next(each for each in children.build(s, of) if each["kind"] == "Deployment")
    spec = made["spec"]["template"]["spec"]
    volume = next(each for each in spec["volumes"] if each["name"] == "model")
    assert volume["hostPath"] == {"path": "/var/lib/weights", "type": "Directory"}
    terms = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert terms == [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-7"]}]}]


def test_where_nobody_says_which_node_it_is_fetched_again() -> None:
    of = fetched(cache=None)
    done = replace(job(of, runner=NODE), complete=True, ended_ms=NOW_MS)
    plan = weights.judge(seen(of, runner=NODE, job=done), of).plan
    assert plan is not None
    assert plan.remove_uid == "job-uid"


@pytest.mark.parametrize(
    ("folders", "admitted"),
    [
        ((), False),
        (("/srv",), True),
        (("/srv/models",), True),
        (("/srv/mod",), False),
        (("/srv/models/m.gguf",), False),
    ],
    ids=["none", "above", "its folder", "a beginning", "itself"],
)
def test_a_nodes_file_needs_the_admins_word(folders: tuple[str, ...], admitted: bool) -> None:
    of = model(local={"source": {"hostPath": {"path": "/srv/models/m.gguf"}}})
    s = seen(of, runner=settings(host_paths=folders), deployment=None)
    found = weights.judge(s, of)
    assert found.ready is admitted
    if admitted:
        made = next(each for each in children.build(s, of) if each["kind"] == "Deployment")
        volumes = made["spec"]["template"]["spec"]["volumes"]
        assert {"name": "model", "hostPath": {"path": "/srv/models", "type": "Directory"}} in volumes
    else:
        assert children.build(s, of) == []
        assert found.finding is not None
        assert (found.finding.reason, found.finding.stalled) == ("HostPathNotAllowed", True)


def test_runners_on_a_nodes_file_that_is_not_admitted_any_more_stop() -> None:
    of = model(local={"source": {"hostPath": {"path": "/srv/models/m.gguf"}}})
    from headrace_operator.decide.snapshots import LiveChild

    live = [LiveChild("Deployment", "headrace-qwen", Ownership.OURS, "d")]
    assert replicas(seen(of, live=live), of) == 0


def test_an_image_is_mounted() -> None:
    source = {"image": {"reference": "r.example/m:q4", "path": "m.gguf"}, "sha256": SHA256}
    of = model(local={"source": source})
    made = next(each for each in children.build(seen(of), of) if each["kind"] == "Deployment")
    spec = made["spec"]["template"]["spec"]
    assert {"name": "model", "image": {"reference": "r.example/m:q4", "pullPolicy": "IfNotPresent"}} in spec["volumes"]
    engine = next(each for each in spec["containers"] if each["name"] == "engine")
    environment = {each["name"]: each.get("value") for each in engine["env"]}
    assert environment["HEADRACE_MODEL_PATH"] == "/models/m.gguf"
    assert environment["HEADRACE_MODEL_SHA256"] == SHA256


def test_a_cluster_that_drops_image_volumes_is_said_and_no_runner_starts_on_an_empty_directory() -> None:
    source = {"image": {"reference": "r.example/m:q4", "path": "m.gguf"}, "sha256": SHA256}
    of = model(local={"source": source})
    s = seen(of, deployment=replace(deployment(of), weights_dropped=True))
    assert decide_model.find(s, of).reason == "ImageVolumesUnavailable"
    assert replicas(s, of) == 0


def test_the_engine_looks_where_the_job_puts_it() -> None:
    of = fetched(weights=HERE)
    made = next(each for each in children.build(seen(of), of) if each["kind"] == "Deployment")
    engine = next(each for each in made["spec"]["template"]["spec"]["containers"] if each["name"] == "engine")
    environment = {each["name"]: each.get("value") for each in engine["env"]}
    assert environment["HEADRACE_MODEL_PATH"] == f"/models/{SHA256}/model.gguf"
    assert environment["HEADRACE_MODEL_SHA256"] == SHA256


def test_a_model_on_a_claim_has_nothing_to_do_with_it() -> None:
    of = model()
    found = weights.judge(seen(of), of)
    assert (found.ready, found.plan, found.fetched) == (True, None, None)
    secret = next(each for each in children.build(seen(of), of) if each["kind"] == "Secret")
    assert set(secret["data"]) == {"url"}
    assert str(MODEL) == "team-a/qwen"
