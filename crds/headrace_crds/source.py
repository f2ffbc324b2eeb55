"""``LLMModel.spec.local.source``: where weights come from, and ``spec.local.cache``: where fetched ones are kept."""

from posixpath import basename, dirname
from typing import Annotated, ClassVar, Final

from pydantic import Field

from headrace_crds.base import SHA256, ApiModel, Rule, exactly_one_of
from headrace_crds.inputs import OBJECT_NAME, KeyRef

PATH: Final = r"^([A-Za-z0-9_-][A-Za-z0-9._-]*/)*[A-Za-z0-9_-][A-Za-z0-9._-]*$"
NODE_PATH: Final = r"^(/[A-Za-z0-9_-][A-Za-z0-9._-]*){2,}$"
HTTP_URL: Final = r"^https?://[A-Za-z0-9.:\[\]-]+/[!-\"$-~]*$"
ENDPOINT: Final = r"^https?://[A-Za-z0-9.:\[\]-]+$"
REPOSITORY: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}$"
REVISION: Final = r"^[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?$"
BUCKET: Final = r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"
OBJECT_KEY: Final = r"^[!-~]([ -~]*[!-~])?$"
REGION: Final = r"^[a-z0-9-]+$"
IMAGE: Final = r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$"

CACHED_FILE: Final = "model.gguf"
"""Of a fetched file in the cache, in a folder that is called by its digest."""
DEFAULT_REGION: Final = "us-east-1"
S3_KEYS: Final = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
S3_SESSION_TOKEN: Final = "AWS_SESSION_TOKEN"  # noqa: S105


class ClaimSource(ApiModel):
    """A GGUF file on a PersistentVolumeClaim of the model's namespace."""

    claim_name: Annotated[str, Field(min_length=1, max_length=253, pattern=OBJECT_NAME)]
    """Name of the PersistentVolumeClaim. It is mounted read-only."""
    path: Annotated[str, Field(min_length=1, max_length=1024, pattern=PATH)] | None = None
    """The GGUF file's path inside the volume: relative, without hidden or parent segments. For weights in several files
    source.files names them instead."""


class SourceCredentials(ApiModel):
    """A token that the weights' server asks for."""

    secret_key_ref: KeyRef
    """A Secret of the model's namespace. Its annotation headrace.dev/allowed-hosts lists the hosts that the token may
    be sent to; without the annotation nothing is fetched. It goes to the host that is asked first, and to no host that
    this one redirects to."""


class HttpSource(ApiModel):
    """A GGUF file behind a URL."""

    url: Annotated[str, Field(min_length=1, max_length=2048, pattern=HTTP_URL)]
    """Where the file is. Redirects are followed. Addresses that are not public, and http without TLS, are for hosts
    that the chart's weights.allowedHosts names."""
    credentials: SourceCredentials | None = None
    """Sent in the header Authorization: the key's value as it is where it holds a space ("Basic …"), else as a Bearer
    token."""


class HuggingFaceSource(ApiModel):
    """A GGUF file in a repository of Hugging Face, or of the mirror that the chart names."""

    repo: Annotated[str, Field(max_length=193, pattern=REPOSITORY)]
    """Owner and name, such as unsloth/Qwen3-8B-GGUF."""
    file: Annotated[str, Field(min_length=1, max_length=512, pattern=PATH)]
    """The GGUF file's path inside the repository."""
    revision: Annotated[str, Field(min_length=1, max_length=128, pattern=REVISION)] = "main"
    """Branch, tag or commit."""
    credentials: SourceCredentials | None = None
    """A token of Hugging Face, for private and gated repositories."""


class S3Credentials(ApiModel):
    """Keys of an object store."""

    secret_name: Annotated[str, Field(min_length=1, max_length=253, pattern=OBJECT_NAME)]
    """A Secret of the model's namespace with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, where there is one,
    AWS_SESSION_TOKEN. Its annotation headrace.dev/allowed-hosts has to name the endpoint's host; without the annotation
    nothing is fetched. What is sent are signatures, never the keys."""


class S3Source(ApiModel):
    """A GGUF file in a bucket of S3 or of whatever speaks its protocol."""

    bucket: Annotated[str, Field(min_length=3, max_length=63, pattern=BUCKET)]
    """The bucket's name."""
    key: Annotated[str, Field(min_length=1, max_length=1024, pattern=OBJECT_KEY)]
    """The object's key."""
    endpoint: Annotated[str, Field(max_length=512, pattern=ENDPOINT)] | None = None
    """Where the store is, such as https://minio.example.com; buckets are asked for in the path. Absent: AWS in the
    region. Addresses that are not public, and http, are for hosts that the chart's weights.allowedHosts names."""
    region: Annotated[str, Field(min_length=1, max_length=32, pattern=REGION)] = DEFAULT_REGION
    """The region that requests are signed for."""
    credentials: S3Credentials | None = None
    """Absent: requests are not signed, for public buckets."""


class ImageSource(ApiModel):
    """A GGUF file in an OCI image or artifact that the kubelet mounts (image volumes, Kubernetes' ImageVolume)."""

    reference: Annotated[str, Field(min_length=1, max_length=512, pattern=IMAGE)]
    """The image, best by digest: registry.example.com/models/qwen3@sha256:…. Pulled with the pod's pull secrets."""
    path: Annotated[str, Field(min_length=1, max_length=1024, pattern=PATH)]
    """The GGUF file's path inside the image."""


class HostPathSource(ApiModel):
    """A GGUF file that lies on the nodes. Refused unless the chart's weights.hostPaths admits the path."""

    path: Annotated[str, Field(min_length=1, max_length=1024, pattern=NODE_PATH)]
    """The file's path on the node, absolute. Its folder is mounted read-only."""


class CacheClaim(ApiModel):
    """A volume that fetched weights are kept on."""

    claim_name: Annotated[str, Field(min_length=1, max_length=253, pattern=OBJECT_NAME)]
    """Name of a PersistentVolumeClaim of the model's namespace. Weights are written by one Job at a time and mounted
    read-only by runners."""


class WeightsCache(ApiModel):
    """Where fetched weights are kept. Models of a namespace may share it: a file is there once."""

    rules: ClassVar = (
        exactly_one_of("persistentVolumeClaim", message="cache needs persistentVolumeClaim: {claimName}"),
    )

    persistent_volume_claim: CacheClaim | None = None
    """A PersistentVolumeClaim."""
    limit_bytes: Annotated[int, Field(ge=1_048_576, le=1 << 53)] | None = None
    """What all files in it may take together. Beyond it those that were used longest ago go, never one that an engine
    has open. Absent: nothing is removed."""


class WeightsPart(ApiModel):
    """One file of a split GGUF."""

    path: Annotated[str, Field(min_length=1, max_length=1024, pattern=PATH)]
    """The file's path inside the volume."""
    sha256: Annotated[str, Field(max_length=64, pattern=SHA256)] | None = None
    """Digest of the file, 64 lower-case hex digits; checked before every load when given."""


_KINDS: Final = ("persistentVolumeClaim", "http", "huggingFace", "s3", "image", "hostPath")


class Source(ApiModel):
    """Where the weights come from."""

    rules: ClassVar = (
        exactly_one_of(
            *_KINDS,
            message="source needs persistentVolumeClaim: {claimName, path} with the GGUF file, or one of http, "
            "huggingFace, s3, image and hostPath in its place",
        ),
        Rule(
            "!has(self.persistentVolumeClaim) || has(self.persistentVolumeClaim.path) != has(self.files)",
            "source needs either persistentVolumeClaim.path, or files with all parts of a split GGUF",
        ),
        Rule(
            "!has(self.files) || !has(self.sha256)",
            "sha256 is of one file: give each of files its own",
            ".sha256",
        ),
        Rule(
            "!has(self.files) || has(self.persistentVolumeClaim)",
            "files goes with persistentVolumeClaim: other sources have one file",
            ".files",
        ),
        Rule(
            "has(self.sha256) || !(has(self.http) || has(self.huggingFace) || has(self.s3) || has(self.image))",
            "sha256 is needed for weights that come over a network: the file's digest, as sha256sum prints it",
            ".sha256",
        ),
    )

    persistent_volume_claim: ClaimSource | None = None
    """A GGUF file on a PersistentVolumeClaim."""
    http: HttpSource | None = None
    """A GGUF file behind a URL; a Job fetches it into the cache."""
    hugging_face: HuggingFaceSource | None = None
    """A GGUF file of Hugging Face; a Job fetches it into the cache."""
    s3: S3Source | None = None
    """A GGUF file in an object store; a Job fetches it into the cache."""
    image: ImageSource | None = None
    """A GGUF file in an OCI image, which the node's container runtime fetches and keeps."""
    host_path: HostPathSource | None = None
    """A GGUF file that is on the nodes already."""
    sha256: Annotated[str, Field(max_length=64, pattern=SHA256)] | None = None
    """Digest of the file, 64 lower-case hex digits; checked before every load when given. Needed for whatever comes
    over a network."""
    files: Annotated[list[WeightsPart], Field(min_length=2, max_length=64)] | None = None
    """All parts of a split GGUF in order, as llama.cpp's gguf-split makes them."""

    @property
    def fetched(self) -> bool:
        """A Job fetches them into a cache before a runner starts."""
        return self.http is not None or self.hugging_face is not None or self.s3 is not None

    @property
    def secret_name(self) -> str | None:
        """The Secret that fetching needs."""
        token = next((each.credentials for each in (self.http, self.hugging_face) if each is not None), None)
        if token is not None:
            return token.secret_key_ref.name
        keys = self.s3.credentials if self.s3 is not None else None
        return keys.secret_name if keys is not None else None

    @property
    def parts(self) -> list[WeightsPart]:
        """The weights' files in order, however many they are, by their paths on the mounted volume."""
        if self.files:
            return self.files
        path = self._path
        return [WeightsPart(path=path, sha256=self.sha256)] if path else []

    @property
    def node_folder(self) -> str | None:
        """What is mounted of the node."""
        return dirname(self.host_path.path) if self.host_path is not None else None

    @property
    def _path(self) -> str | None:
        if self.fetched:
            return f"{self.sha256}/{CACHED_FILE}"
        if self.image is not None:
            return self.image.path
        if self.host_path is not None:
            return basename(self.host_path.path)
        return self.persistent_volume_claim.path if self.persistent_volume_claim is not None else None
