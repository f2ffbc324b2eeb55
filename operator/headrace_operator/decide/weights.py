"""Whether a model's weights are where its runners look, and what is done about it.

no cache, host, Secret ─► a reason, and nothing is started
no Job ─► Job ─► Downloading ─► verified: written into the status, runners may start
            └──► failed ─► DiskFull, SourceUnreachable, …: another Job after a pause that grows up to an hour
                      └──► WrongDigest, …: Stalled until the model is changed or the Job deleted

A claim's own file, an image and a node's file are where they are; of the last two it is said why not.
"""

from dataclasses import dataclass
from typing import Any, Final

from headrace_crds.model import FetchedWeights, LLMModel, Local
from headrace_crds.names import runner_name
from headrace_crds.outcome import timestamp
from headrace_crds.reasons import Reason
from headrace_crds.weights import WeightsEnd, read_end
from headrace_operator.decide import placement, untrusted, weights_access, weights_job
from headrace_operator.decide.clocks import milliseconds
from headrace_operator.decide.placement import Fetched, Finding, Rank
from headrace_operator.decide.plans import WeightsPlan
from headrace_operator.decide.snapshots import FetchView, JobView, ModelSnapshot, Ownership, PodView, WeightsSettings
from headrace_operator.decide.weights_access import SourceAccess

AGAIN: Final = frozenset(
    {
        Reason.DISK_FULL,
        Reason.SOURCE_UNREACHABLE,
        Reason.DOWNLOAD_FAILED,
        Reason.CREDENTIALS_REFUSED,
        Reason.CREDENTIALS_NOT_FOUND,
    }
)
"""Reasons that may pass without a change of the model."""
PAUSE_SECONDS: Final = 600
PAUSE_LIMIT_SECONDS: Final = 3600
LOST_AFTER_MS: Final = 60_000
"""An engine that misses a file which was verified less than this ago is not believed: that would go in a circle."""
POD_AFTER_MS: Final = 60_000
_STAGE: Final = "Downloading"


@dataclass(frozen=True, slots=True)
class Weights:
    """`ready`: runners may be started. `finding` speaks for the model until then."""

    ready: bool
    finding: Finding | None = None
    fetched: FetchedWeights | None = None
    plan: WeightsPlan | None = None


def judge(s: ModelSnapshot, model: LLMModel) -> Weights:
    """What there is and what is to be done."""
    local = model.spec.local
    if local is None:
        return Weights(True)
    if local.source.fetched:
        return _fetched(s, model, local)
    node = local.source.host_path
    if node is not None and not mountable(model, s.runner.weights):
        message = f"the chart's weights.hostPaths admits no {node.path!r}: have an admin add its folder there"
        finding = Finding(Rank.NONE, Reason.HOST_PATH_NOT_ALLOWED, message, stalled=True)
        return Weights(False, finding)
    if local.source.image is not None and s.deployment is not None and s.deployment.weights_dropped:
        message = (
            "the cluster has no image volumes: turn on Kubernetes' ImageVolume (1.33 or later), or use another source"
        )
        return Weights(False, Finding(Rank.NONE, Reason.IMAGE_VOLUMES_UNAVAILABLE, message, stalled=True))
    return Weights(True)


def mountable(model: LLMModel, settings: WeightsSettings) -> bool:
    """False: not even a pod template may name what the model names, or it names nothing."""
    local = model.spec.local
    if local is None:
        return True
    if local.source.fetched:
        return bool(cache_name(local, settings.node_directory))
    node = local.source.host_path
    return node is None or any(node.path.startswith(f"{folder.rstrip('/')}/") for folder in settings.host_paths)


def wants_job(s: ModelSnapshot, model: LLMModel) -> bool:
    """The Job has to be looked at: the weights are not known to be there."""
    local = model.spec.local
    if local is None or not local.source.fetched:
        return False
    return known(model, s.runner.weights.node_directory) is None or missed(s, model)


def known(model: LLMModel, directory: str) -> FetchedWeights | None:
    """What the status says of the weights that the spec names, in the cache that it names."""
    local = model.spec.local
    seen = model.status.weights if model.status is not None else None
    if local is None or seen is None:
        return None
    same = seen.sha256 == local.source.sha256 and seen.cache == cache_name(local, directory)
    return seen if same and local.source.fetched else None


def cache_name(local: Local, directory: str) -> str:
    """Of the claim, else the node directory; empty where there is neither."""
    claim = local.cache.persistent_volume_claim if local.cache is not None else None
    return claim.claim_name if claim is not None else directory


def missed(s: ModelSnapshot, model: LLMModel) -> bool:
    """A runner's engine does not find the file: it was evicted, or the volume is another one."""
    seen = known(model, s.runner.weights.node_directory)
    since_ms = milliseconds(seen.since) or 0 if seen is not None else 0
    running = {pod.name for pod in s.pods if not pod.terminating}
    lacking = any(
        name in running and (report.state, report.reason) == ("Failed", Reason.MODEL_FILE_NOT_FOUND)
        for name, report in s.reports.items()
    )
    return lacking and s.now_ms - since_ms > LOST_AFTER_MS


def _fetched(s: ModelSnapshot, model: LLMModel, local: Local) -> Weights:
    seen = known(model, s.runner.weights.node_directory)
    lost = missed(s, model)
    if seen is not None and not lost:
        return Weights(True, fetched=seen)
    if not mountable(model, s.runner.weights):
        message = "weights that are fetched need a place: set spec.local.cache, or the chart's weights.cache"
        finding = Finding(Rank.NONE, Reason.CACHE_NOT_CONFIGURED, message, stalled=True)
        return Weights(False, finding)
    access = weights_access.of(model, local.source, s.runner.weights, s.credentials)
    if access.refusal is not None:
        return Weights(False, access.refusal)
    if s.claim_missing and local.cache is not None:
        message = f"PersistentVolumeClaim {cache_name(local, '')!r} does not exist: create it, weights are kept there"
        return Weights(False, Finding(Rank.NONE, Reason.CLAIM_NOT_FOUND, message, _STAGE))
    return _by_job(s, model, local, access, lost=seen if lost else None)


def _by_job(
    s: ModelSnapshot, model: LLMModel, local: Local, access: SourceAccess, *, lost: FetchedWeights | None
) -> Weights:
    job = s.job
    if job is None:
        return _begun(s, model, local, access, tries=0)
    if job.ownership is Ownership.FOREIGN:
        name = runner_name(model.metadata.name)
        message = f"Job {name!r} exists and is not this model's: rename the model or delete that object"
        return Weights(False, Finding(Rank.NONE, Reason.NAME_CONFLICT, message, stalled=True))
    if job.deleting or job.ownership is not Ownership.OURS:
        return Weights(False, _busy("the former Job is going", job.created_ms))
    since_ms = milliseconds(lost.since) or 0 if lost is not None else 0
    stale = lost is not None and job.complete and job.ended_ms <= since_ms
    if job.made_of != weights_job.made_of(model, local, access, s.runner) or stale:
        return _begun(s, model, local, access, tries=0, remove_uid=job.uid)
    pods = [pod for pod in s.job_pods if pod.owner_uid == job.uid]
    end = _end(pods)
    if job.complete:
        return _verified(s, model, local, job, end) or _begun(s, model, local, access, tries=0, remove_uid=job.uid)
    if job.failed:
        return _failed(s, model, local, access, job, end)
    return Weights(False, _under_way(s, model, job, pods, end))


def _begun(
    s: ModelSnapshot, model: LLMModel, local: Local, access: SourceAccess, *, tries: int, remove_uid: str = ""
) -> Weights:
    manifest = weights_job.job(model, local, access, s.runner, tries=tries)
    plan = WeightsPlan(remove_uid, weights_job.policy(model, access, s.runner), manifest)
    return Weights(False, _busy("the Job that fetches the weights is being made", s.now_ms), plan=plan)


def _verified(s: ModelSnapshot, model: LLMModel, local: Local, job: JobView, end: WeightsEnd | None) -> Weights | None:
    """None: the Job is over, and nothing says on which node."""
    on_node = local.cache is None
    node = untrusted.dns_name(end.node) if end is not None and end.node else ""
    if on_node and not node:
        return None
    fetched = FetchedWeights(
        sha256=local.source.sha256 or "",
        cache=cache_name(local, s.runner.weights.node_directory),
        size_bytes=end.size_bytes if end is not None else 0,
        node=node if on_node else None,
        since=timestamp(job.ended_ms or s.now_ms),
    )
    return Weights(True, fetched=fetched)


def _failed(
    s: ModelSnapshot, model: LLMModel, local: Local, access: SourceAccess, job: JobView, end: WeightsEnd | None
) -> Weights:
    reason = untrusted.reason(end.reason) if end is not None else Reason.DOWNLOAD_FAILED
    text = untrusted.message(end.message) if end is not None else "no pod of the Job says why: look at its events"
    if reason not in AGAIN:
        how = f"kubectl delete job {runner_name(model.metadata.name)} tries it again"
        message = f"{text}; {how}"[: untrusted.MESSAGE_LIMIT]
        return Weights(False, Finding(Rank.FAILED, reason, message, _STAGE, job.ended_ms, stalled=True))
    pause_seconds = min(PAUSE_SECONDS * 2 ** min(job.tries, 10), PAUSE_LIMIT_SECONDS)
    if s.now_ms - job.ended_ms > pause_seconds * 1000:
        return _begun(s, model, local, access, tries=job.tries + 1, remove_uid=job.uid)
    message = f"{text}; tried again at {timestamp(job.ended_ms + pause_seconds * 1000)}"[: untrusted.MESSAGE_LIMIT]
    return Weights(False, Finding(Rank.HELD_UP, reason, message, _STAGE, job.ended_ms))


def _under_way(s: ModelSnapshot, model: LLMModel, job: JobView, pods: list[PodView], end: WeightsEnd | None) -> Finding:
    going = [pod for pod in pods if pod.phase not in ("Failed", "Succeeded") and not pod.terminating]
    if not going:
        if end is not None:
            message = untrusted.message(f"{end.reason}: {end.message}")
            return _busy(
                f"a pod of the Job ended ({message}); another follows"[: untrusted.MESSAGE_LIMIT], job.created_ms
            )
        if s.now_ms - job.created_ms > POD_AFTER_MS:
            message = f"the Job has no pod: kubectl describe job {runner_name(model.metadata.name)} tells why"
            return Finding(Rank.HELD_UP, Reason.POD_REFUSED, message, _STAGE, job.created_ms)
        return _busy("the Job's pod is being created", job.created_ms)
    pod = going[-1]
    report = s.reports.get(pod.name)
    if report is None or pod.scheduled is not True:
        found = placement.examine(pod, None, gpu=None, now_ms=s.now_ms)
        if found.reason not in (Reason.STARTING, Reason.RUNNER_SILENT):
            return found
        # Without a report it may be at work all the same: Redis may be away.
        return _busy("the Job that fetches the weights is at work", job.created_ms)
    words = {"Waiting": "another model fetches the same file", "Verifying": "the fetched file is being verified"}
    return _busy(
        words.get(report.state, "the weights are being fetched"), job.created_ms, _written(model, report.fetch)
    )


def _busy(message: str, since_ms: int, fetched: Fetched | None = None) -> Finding:
    return Finding(Rank.LOADING, Reason.DOWNLOADING_WEIGHTS, message, _STAGE, since_ms, fetched=fetched)


def _end(pods: list[PodView]) -> WeightsEnd | None:
    """What the pod said that ended last; words of one that was verified count before any other's."""
    said = [
        read_end(container.last_words)
        for pod in sorted(pods, key=lambda each: each.created_ms)
        for container in pod.containers
        if container.last_words
    ]
    ends = [end for end in said if end is not None]
    verified = [end for end in ends if end.reason == Reason.WEIGHTS_VERIFIED]
    ends = verified or ends
    return ends[-1] if ends else None


def _written(model: LLMModel, seen: FetchView | None) -> Fetched | None:
    """As it is to be in the status: pace and rest change with the percentage, or every look would be a write."""
    if seen is None or not seen.total_bytes:
        return None
    percent = min(100, seen.done_bytes * 100 // seen.total_bytes)
    before = model.status.load if model.status is not None else None
    if before is not None and (before.stage, before.percent) == (_STAGE, percent) and before.bytes_per_second:
        return Fetched(percent, before.bytes_per_second, before.eta_seconds)
    return Fetched(percent, _two_digits(seen.bytes_per_second), _two_digits(seen.eta_seconds))


def _two_digits(number: int | None) -> int | None:
    if number is None:
        return None
    step: int = 10 ** max(0, len(str(number)) - 2)
    return number // step * step


def node_affinity(fetched: FetchedWeights | None) -> dict[str, Any] | None:
    """Pods go where the node directory has the file."""
    if fetched is None or fetched.node is None:
        return None
    terms = [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [fetched.node]}]}]
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}
