"""``LLMModel``: a model that tasks can name, and where its runners get it from."""

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from headrace_crds.base import DECIMAL, SHA256, ApiModel, Conditions, ObjectMeta, Rule, Timestamp, exactly_one_of
from headrace_crds.cache import ResponseCache
from headrace_crds.fallback import ModelFallback
from headrace_crds.remote import Price, Remote
from headrace_crds.runner_template import RunnerTemplate
from headrace_crds.scaling import REPLICAS_MAX, Scaling, ScalingMode, ScalingStatus
from headrace_crds.sharing import Sharing
from headrace_crds.source import PATH, Source, WeightsCache

SCALE = r"^-?[0-9]{1,3}(\.[0-9]{1,6})?$"
RESOURCE_NAME = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"


class Adapter(ApiModel):
    """A LoRA adapter in a GGUF file, on the volume of the weights."""

    rules: ClassVar = (
        Rule(
            "!has(self.scale) || (double(self.scale) >= -100.0 && double(self.scale) <= 100.0)",
            'scale must be between -100 and 100, as a string such as "0.5"',
            ".scale",
        ),
    )

    path: Annotated[str, Field(min_length=1, max_length=1024, pattern=PATH)]
    """The file's path inside the volume."""
    sha256: Annotated[str, Field(max_length=64, pattern=SHA256)] | None = None
    """Digest of the file, 64 lower-case hex digits; checked before every load when given."""
    scale: Annotated[str, Field(max_length=12, pattern=SCALE)] = "1"
    """How strongly it is applied, a decimal as a string; "1" is as trained."""


class KvType(StrEnum):
    F32 = "F32"
    F16 = "F16"
    BF16 = "BF16"
    Q8_0 = "Q8_0"
    Q5_1 = "Q5_1"
    Q5_0 = "Q5_0"
    Q4_1 = "Q4_1"
    Q4_0 = "Q4_0"


class KvCache(ApiModel):
    """How keys and values of the context are stored."""

    key_type: KvType = KvType.F16
    """Type of the keys. Q8_0 halves their memory at hardly any loss."""
    value_type: KvType = KvType.F16
    """Type of the values; quantized ones need flash attention."""
    unified: bool = False
    """One pool of cells for all sequences: a beginning that prompts have in common (a system prompt, examples, a
    schema) is there once instead of being copied. But each token then looks at all cells in use, so that many long
    prompts with nothing in common are slower."""


class FlashAttention(StrEnum):
    AUTO = "Auto"
    ENABLED = "Enabled"
    DISABLED = "Disabled"


class Capability(StrEnum):
    CHAT = "Chat"
    COMPLETION = "Completion"
    EMBEDDING = "Embedding"


Capabilities = Annotated[
    list[Capability], Field(min_length=1, max_length=3, json_schema_extra={"x-kubernetes-list-type": "set"})
]


class Pooling(StrEnum):
    MEAN = "Mean"
    CLS = "CLS"
    LAST = "Last"


class Gpu(ApiModel):
    """GPUs that each runner pod holds exclusively. Leave it out to run on the CPU."""

    rules: ClassVar = (
        Rule(
            "!has(self.tensorSplit) || size(self.tensorSplit) == self.count",
            "tensorSplit needs one share for each of count GPUs",
            ".tensorSplit",
        ),
    )

    count: Annotated[int, Field(ge=1, le=16)] = 1
    """Number of GPUs per runner pod."""
    resource_name: Annotated[str, Field(max_length=253, pattern=RESOURCE_NAME)] = "nvidia.com/gpu"
    """Extended resource to ask for."""
    layers: Annotated[str, Field(max_length=4, pattern=r"^(All|[0-9]{1,4})$")] = "All"
    """Layers to offload: "All" or a number as a string."""
    tensor_split: Annotated[list[Annotated[int, Field(ge=0, le=1000)]], Field(min_length=1, max_length=16)] | None = (
        None
    )
    """Each GPU's share of the layers, such as [3, 1]; absent: as much as each has room for."""


class Local(ApiModel):
    """A GGUF model that runs in pods of this cluster with llama.cpp."""

    rules: ClassVar = (
        Rule(
            "!has(self.kvCache) || self.kvCache.valueType in ['F32', 'F16', 'BF16'] || "
            "!has(self.flashAttention) || self.flashAttention != 'Disabled'",
            "a quantized kvCache.valueType needs flashAttention Auto or Enabled",
            ".kvCache.valueType",
        ),
        Rule(
            "!has(self.cache) || has(self.source.http) || has(self.source.huggingFace) || has(self.source.s3)",
            "cache goes with source.http, source.huggingFace and source.s3: nothing else is fetched",
            ".cache",
        ),
        Rule(
            "!has(self.adapters) || !(has(self.source.http) || has(self.source.huggingFace) || has(self.source.s3))",
            "adapters lie on the volume of the weights: use source.persistentVolumeClaim or source.image",
            ".adapters",
        ),
    )

    source: Source
    """Where the weights come from."""
    cache: WeightsCache | None = None
    """Where weights are kept that are fetched over a network; absent: in the nodes' directory that the chart names."""
    context_tokens: Annotated[int, Field(ge=128, le=1048576)] = 4096
    """Context of one sequence in tokens: prompt and result together."""
    parallelism: Annotated[int, Field(ge=1, le=64)] = 1
    """Sequences that one runner pod generates at the same time; each has its own context."""
    gpu: Gpu | None = None
    """GPUs per runner pod; absent runs on the CPU."""
    adapters: Annotated[list[Adapter], Field(min_length=1, max_length=8)] | None = None
    """LoRA adapters that every task of this model gets; another choice of adapters is another LLMModel."""
    kv_cache: KvCache | None = None
    """How the context is stored; absent: keys and values in F16."""
    flash_attention: FlashAttention = FlashAttention.AUTO
    """Attention that does not store its scores: less memory, mostly faster. Auto lets llama.cpp decide."""
    memory_map: bool = True
    """Maps the weights into memory, so that pods of a node share them and a restart finds them there. False reads them:
    for volumes on which mapped reads are slow."""
    pooling: Pooling | None = None
    """How an embedding is made of its tokens'; absent: as the weights say, else Mean."""


class Defaults(ApiModel):
    """Sampling parameters for tasks that leave them out."""

    rules: ClassVar = (
        Rule(
            "!has(self.temperature) || double(self.temperature) <= 2.0",
            'temperature must be between 0 and 2, as a string such as "0.7"',
            ".temperature",
        ),
    )

    temperature: Annotated[str, Field(max_length=16, pattern=DECIMAL)] | None = None
    """Randomness from "0" to "2", a decimal as a string."""
    max_tokens: Annotated[int, Field(ge=1, le=131072)] = 512
    """Upper bound of generated tokens."""
    stop: Annotated[list[Annotated[str, Field(min_length=1, max_length=64)]], Field(max_length=8)] | None = None
    """Texts that end the generation."""


class LLMModelSpec(ApiModel):
    """Where a model comes from and how it is served."""

    rules: ClassVar = (
        exactly_one_of("local", "remote", message="spec needs either local: {source: …} or remote: {provider: …}"),
        Rule(
            "has(self.local) == has(oldSelf.local)",
            "a model stays local or remote: create another LLMModel and name it in fallback or in modelRef",
        ),
    )

    local: Local | None = None
    """A GGUF model that runs in pods of this cluster."""
    remote: Remote | None = None
    """A model behind somebody's API."""
    capabilities: Capabilities = Field(default=[Capability.CHAT, Capability.COMPLETION])
    """What the model is for: Chat and Completion generate text, Embedding turns texts into vectors. Each of the
    two has a context of its own, which takes memory."""
    defaults: Defaults | None = None
    """Sampling parameters for tasks that leave them out."""
    sharing: Sharing | None = None
    """Namespaces whose tasks the model serves; absent: its own."""
    fallback: ModelFallback | None = None
    """Where its tasks go when it cannot serve them; absent: they wait."""
    cache: ResponseCache | None = None
    """Keeps results of deterministic requests and gives them again; absent: every request is made."""
    price: Price | None = None
    """What its tokens cost, for the bill in LLMTask's usage and for LLMQuota's budgets; for a local model what its GPUs
    cost. It holds for attempts that are handed out from then on. Absent: tokens are counted, and cost nothing."""
    replicas: Annotated[int, Field(ge=0, le=REPLICAS_MAX)] = 1
    """Runner pods; kubectl scale, HPA and KEDA write it through /scale. At 0 the tasks stay queued. It means nothing
    where scaling.mode is Auto."""
    scaling: Scaling | None = None
    """Replicas by the work that waits, from zero and to zero; absent: spec.replicas."""
    runner_template: RunnerTemplate | None = None
    """Where the runner's pods may run, and labels for others."""

    @property
    def scales_itself(self) -> bool:
        return self.scaling is not None and self.scaling.mode is ScalingMode.AUTO


class ModelPhase(StrEnum):
    STARTING = "Starting"
    LOADING = "Loading"
    WAITING_FOR_GPU = "WaitingForGPU"
    SERVING = "Serving"
    PAUSED = "Paused"
    SCALED_TO_ZERO = "ScaledToZero"
    FAILED = "Failed"


class EngineInfo(ApiModel):
    """What the engine found in the weights."""

    architecture: Annotated[str, Field(max_length=64)]
    """Architecture as named in the GGUF, such as llama or qwen3."""
    context_tokens: Annotated[int, Field(ge=0)]
    """Context of one sequence as loaded."""
    quantization: Annotated[str, Field(max_length=64)] | None = None
    """Quantization of the weights, such as Q4_1."""
    parameters: Annotated[int, Field(ge=0)] | None = None
    """Number of parameters."""
    size_bytes: Annotated[int, Field(ge=0)]
    """Size of the weights."""
    sha256: Annotated[str, Field(max_length=64)] | None = None
    """Digest of the file as verified; absent when the spec gives none, and for weights in several files."""
    planned_bytes: Annotated[int, Field(ge=0)] | None = None
    """Memory that weights, contexts and computing were expected to take, in RAM and on GPUs together."""
    memory_bytes: Annotated[int, Field(ge=0)] | None = None
    """Memory that they take."""
    notes: Annotated[list[Annotated[str, Field(max_length=512)]], Field(max_length=16)] | None = None
    """What was assumed about this model, and what slows it down on this node."""


class Load(ApiModel):
    """Progress of getting ready to serve."""

    stage: Annotated[str, Field(max_length=32)]
    """Downloading, Scheduling, Starting, Verifying, Loading or Serving."""
    since: Timestamp | None = None
    """When this stage was entered."""
    percent: Annotated[int, Field(ge=0, le=100)] | None = None
    """How much of the weights has been fetched; written when it changes, and the two below with it."""
    bytes_per_second: Annotated[int, Field(ge=0)] | None = None
    """How fast they come, to two digits."""
    eta_seconds: Annotated[int, Field(ge=0)] | None = None
    """How long the rest takes at that pace, to two digits."""


class FetchedWeights(ApiModel):
    """Weights that a Job has fetched and verified."""

    sha256: Annotated[str, Field(max_length=64)]
    """Digest of the file."""
    cache: Annotated[str, Field(max_length=512)]
    """Where they are kept: a claim's name, or the directory on a node."""
    size_bytes: Annotated[int, Field(ge=0)] = 0
    """Size of the file."""
    node: Annotated[str, Field(max_length=253)] | None = None
    """The node whose directory has them; absent for a claim."""
    since: Timestamp
    """When they were found there last."""


class Breaker(StrEnum):
    CLOSED = "Closed"
    HALF_OPEN = "HalfOpen"
    OPEN = "Open"


class ProviderStatus(ApiModel):
    """How a remote model's provider answers."""

    breaker: Breaker
    """Closed: requests are made. Open: none is, until a while has passed. HalfOpen: one tries whether it goes again."""
    reason: Annotated[str, Field(max_length=64)] | None = None
    """Why no request is made, in one word; absent while there is no such reason."""
    message: Annotated[str, Field(max_length=1024)] | None = None
    """The same for people, with the remedy."""
    concurrency: Annotated[int, Field(ge=0)] | None = None
    """Requests that the provider is at present given at once, at most maxConcurrency. Written when it has doubled or
    halved, or is the most again: not with every step."""


class LLMModelStatus(ApiModel):
    """What the operator sees of the model's runners."""

    observed_generation: Annotated[int, Field(ge=0)] | None = None
    """metadata.generation that this status was derived from."""
    conditions: Conditions = Field(default_factory=list)
    """Ready: would serve on demand, also while scaled to zero. Available: a replica serves at this moment; False with
    the provider's reason while a remote model makes no requests. Placed=False tells a shortage of GPUs. Stalled: will
    not go on by itself."""
    phase: ModelPhase | None = None
    """Summary in one word, derived from the conditions."""
    replicas: Annotated[int, Field(ge=0)] | None = None
    """Runner pods that exist."""
    ready_replicas: Annotated[int, Field(ge=0)] | None = None
    """Runner pods that serve."""
    selector: Annotated[str, Field(max_length=1024)] | None = None
    """Label selector of the runner pods, for /scale."""
    load: Load | None = None
    """Progress of getting ready to serve; absent when there is none."""
    weights: FetchedWeights | None = None
    """The weights in the cache, once they are verified; absent where nothing is fetched."""
    engine: EngineInfo | None = None
    """What the engine found in the weights of this generation; absent for a remote model."""
    provider: ProviderStatus | None = None
    """How the provider answers, as a runner told last; absent for a local model."""
    scaling: ScalingStatus | None = None
    """What the planner decided, where spec.scaling.mode is Auto."""


class LLMModel(ApiModel):
    """A model that tasks of the namespace can name."""

    rules: ClassVar = (
        Rule(
            "self.metadata.name.size() <= 40 && !self.metadata.name.contains('.')",
            "metadata.name must be at most 40 characters without dots: runner objects are named after it",
        ),
        # A rule sees no metadata.namespace: one that names itself in full is passed over by the operator.
        Rule(
            "!has(self.spec.fallback) || !has(self.spec.fallback.models) || "
            "self.spec.fallback.models.all(m, m.name != self.metadata.name || has(m.__namespace__))",
            "spec.fallback.models names the model itself: remove it there",
            ".spec.fallback.models",
        ),
    )

    metadata: ObjectMeta = Field(default_factory=ObjectMeta)
    spec: LLMModelSpec
    status: LLMModelStatus | None = None

    @property
    def wanted_replicas(self) -> int:
        """What it is to have at present: the planner's decision where it scales itself, and 0 before the first."""
        if not self.spec.scales_itself:
            return self.spec.replicas
        return self.status.scaling.replicas if self.status is not None and self.status.scaling is not None else 0
