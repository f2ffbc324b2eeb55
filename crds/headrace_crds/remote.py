"""``LLMModel.spec.remote``: a model that somebody else serves over HTTP."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, ClassVar, Final

from pydantic import Field

from headrace_crds.base import CURRENCY, DECIMAL, ApiModel, Rule
from headrace_crds.inputs import OBJECT_NAME, KeyRef

BASE_URL = r"^https?://[A-Za-z0-9.:\[\]-]+(/[A-Za-z0-9._~/-]*)?$"
POINTER = r"^(/([^~\s]|~[01])*)?$"
POINTER_INTO = r"^/([^~\s]|~[01])*$"
"""Not the whole response."""
MAX_CONCURRENCY_LIMIT = 1024
DEFAULT_BASE_URLS: Final[Mapping[str, str]] = {
    "OpenAI": "https://api.openai.com/v1",
    "Anthropic": "https://api.anthropic.com",
}
"""Where the API of a provider is whose model names no baseURL."""


class Credentials(ApiModel):
    """Where the provider's key comes from."""

    secret_key_ref: KeyRef
    """A Secret of the model's namespace. Its annotation headrace.dev/allowed-hosts lists the hosts that the key may be
    sent to, separated by commas; without the annotation the model is refused. The key is read anew for every request,
    so a changed Secret needs no restart."""


class ClientCertificate(ApiModel):
    """What the runner shows a provider that asks for a certificate (mTLS)."""

    secret_name: Annotated[str, Field(min_length=1, max_length=253, pattern=OBJECT_NAME)]
    """A Secret of the model's namespace with tls.crt and tls.key in PEM, the key without a password, as those of type
    kubernetes.io/tls. Its annotation headrace.dev/allowed-hosts has to name the host of baseURL, which is then the only
    host that is asked; without the annotation the model is refused. A changed Secret needs no restart."""


class RateLimits(ApiModel):
    """What may be asked of the provider, over all runner pods of the model together."""

    requests_per_minute: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Requests per minute."""
    tokens_per_minute: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = None
    """Tokens per minute: those of the input, and at most those that the result may have."""


class HttpMethod(StrEnum):
    POST = "POST"
    PUT = "PUT"
    GET = "GET"


class HttpStyle(StrEnum):
    SYNC = "Sync"
    STREAM = "Stream"
    POLL = "Poll"


class HttpHeader(ApiModel):
    """One header of every request."""

    rules: ClassVar = (
        Rule(
            "!self.name.matches('(?i)^(host|content-length|content-encoding|transfer-encoding|connection|keep-alive|te"
            "|trailer|upgrade|expect|accept-encoding|proxy-.*)$')",
            "the client itself sets this header: remove it",
            ".name",
        ),
    )

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9-]+$")]
    """Its name."""
    value: Annotated[str, Field(max_length=1024, pattern=r"^[\x20-\x7e]*$")]
    """Its value, in which {{credential}} is the key and {{model}} the model's name; no other placeholders."""


class HttpResponse(ApiModel):
    """Where the answer is, as JSON Pointers (RFC 6901) into the response: of style Stream into each event, of style
    Poll into the finished job. In a name ~1 stands for / and ~0 for ~; an element of an array is named by its index."""

    text: Annotated[str, Field(max_length=256, pattern=POINTER)]
    """The generated text; with style Stream what an event adds to it, and events without it add nothing. It must be a
    string. Empty only where the response, or the event, is itself a JSON string."""
    finish_reason: Annotated[str, Field(max_length=256, pattern=POINTER_INTO)] | None = None
    """Why it ended; one of lengthValues means that it was cut off. With style Stream an end without it, and without
    [DONE], is taken for a broken stream."""
    length_values: Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=8)] = Field(
        default=["length", "max_tokens"]
    )
    """Values of finishReason that mean: cut off by the bound on tokens."""
    prompt_tokens: Annotated[str, Field(max_length=256, pattern=POINTER_INTO)] | None = None
    """Tokens of the input, an integer; with style Stream the last event that has it counts. Absent: counted as 0."""
    completion_tokens: Annotated[str, Field(max_length=256, pattern=POINTER_INTO)] | None = None
    """Tokens of the result, likewise."""
    error: Annotated[str, Field(max_length=256, pattern=POINTER_INTO)] | None = None
    """What went wrong: a text, or an object with a text as message. Anything there but null makes the response a
    failure, whatever its status; at most 200 characters of the text go into the task's status."""


class HttpPoll(ApiModel):
    """How a job is followed that the first request began."""

    rules: ClassVar = (
        Rule(
            "!has(self.failedValues) || !self.failedValues.exists(v, v in self.doneValues)",
            "a value of status is either done or failed: remove it from one of the lists",
            ".failedValues",
        ),
    )

    url: Annotated[str, Field(max_length=256, pattern=POINTER)]
    """JSON Pointer into the first response: a path, or a URL of baseURL's scheme, host and port, to GET until the job
    is over. The GETs have the same headers."""
    status: Annotated[str, Field(max_length=256, pattern=POINTER_INTO)]
    """JSON Pointer into each further response: how far the job is. A string, a number, or true and false."""
    done_values: Annotated[list[Annotated[str, Field(max_length=64)]], Field(min_length=1, max_length=8)]
    """Values of status that mean: there is a result, which response finds in the same document."""
    failed_values: Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=8)] | None = None
    """Values of status that mean: there will be none. The attempt is charged and made again. All other values mean: not
    yet, until the task's attemptTimeoutSeconds end it."""
    interval_millis: Annotated[int, Field(ge=100, le=60_000)] = 1000
    """From one look to the next; longer after a failed one, up to a minute, or as the provider's Retry-After says."""


class HttpApi(ApiModel):
    """A plain HTTP API: what to send, and where the answer is."""

    rules: ClassVar = (
        Rule("(self.style == 'Poll') == has(self.poll)", "poll goes with style Poll, and only with it", ".poll"),
        Rule("self.method != 'GET' || !has(self.body)", "a GET has no body: remove it or set method: POST", ".body"),
        Rule(
            "[has(self.body) ? self.body : '', has(self.path) ? self.path : '']"
            ".exists(t, t.contains('{{prompt}}') || t.contains('{{messages}}'))",
            "body or path needs {{prompt}} or {{messages}}: there is no place for the input",
            ".body",
        ),
        Rule(
            "![has(self.body) ? self.body : '', has(self.path) ? self.path : '']"
            ".exists(t, t.contains('{{credential}}'))",
            "{{credential}} is for headers only: bodies and paths end up in logs",
            ".body",
        ),
    )

    method: HttpMethod = HttpMethod.POST
    """Of the request that carries the input."""
    path: Annotated[str, Field(max_length=1024, pattern=r"^([/?][^\s#]*)?$")] = ""
    """Appended to baseURL; with a query if need be. Placeholders are put in as in body, percent-encoded; a member of
    the query whose placeholder has no value is left out."""
    headers: Annotated[list[HttpHeader], Field(max_length=16)] | None = None
    """Headers of every request, those for the key among them: nothing else sends it."""
    body: Annotated[str, Field(min_length=2, max_length=16_384)] | None = None
    """The request as JSON text, an object or an array. A string in it that is one placeholder becomes its value, as in
    {"input": "{{prompt}}", "max": "{{parameters.maxTokens}}"}; within a longer string its text. A member or element
    whose placeholder has no value is left out. Placeholders: prompt (the one user message; without messages in it the
    template takes no longer conversation), system, messages (role and content; those of role system only where system
    is not in it), model, output.jsonSchema (an API that has it is taken to enforce it), and parameters with the names
    of LLMTask's, as in parameters.topP. A task whose parameter has no place is refused, but for maxTokens."""
    style: HttpStyle = HttpStyle.SYNC
    """Sync: the response is the answer. Stream: it is a stream of server-sent events, or of lines of JSON
    (application/x-ndjson). Poll: it names a job."""
    response: HttpResponse
    """Where the answer is."""
    poll: HttpPoll | None = None
    """How the job is followed, with style Poll."""


class Remote(ApiModel):
    """A model behind an API: OpenAI, Anthropic, whatever is compatible with OpenAI's, or any HTTP API."""

    rules: ClassVar = (
        Rule(
            "self.provider in ['OpenAI', 'Anthropic'] || has(self.baseURL)",
            "baseURL is needed: where the API is, such as https://llm.example.com/v1",
            ".baseURL",
        ),
        Rule("(self.provider == 'HTTP') == has(self.http)", "http goes with provider HTTP, and only with it", ".http"),
        Rule(
            "!(self.provider in ['OpenAI', 'Anthropic']) || has(self.credentials)",
            "credentials are needed: {secretKeyRef: {name, key}} with the provider's key",
            ".credentials",
        ),
        Rule(
            "!has(self.http) || has(self.credentials) == "
            "(has(self.http.headers) && self.http.headers.exists(h, h.value.contains('{{credential}}')))",
            "credentials and {{credential}} in a value of http.headers go together: one without the other",
            ".credentials",
        ),
        Rule(
            "!has(self.http) || !has(self.extraBody)",
            "extraBody has no meaning with provider HTTP: write its members into http.body",
            ".extraBody",
        ),
        Rule(
            "!has(self.clientCertificate) || !has(self.baseURL) || self.baseURL.startsWith('https://')",
            "a client certificate is shown in TLS alone: write https in baseURL",
            ".clientCertificate",
        ),
    )

    provider: Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[A-Z][A-Za-z0-9]*$")]
    """OpenAI, Anthropic, OpenAICompatible (vLLM, llama-server, LM Studio, Ollama, …), HTTP, or a provider that the
    runner image brings along."""
    model: Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\s]+$")]
    """The model's name at the provider."""
    base_url: Annotated[str, Field(max_length=1024, pattern=BASE_URL)] | None = Field(None, alias="baseURL")
    """Where the API is, without a trailing endpoint: https://api.example.com/v1. Absent: the provider's own. Addresses
    that are not public, and http without TLS, are for hosts that the chart's remote.allowedHosts names."""
    credentials: Credentials | None = None
    """The provider's key."""
    max_concurrency: Annotated[int, Field(ge=1, le=MAX_CONCURRENCY_LIMIT)] = 32
    """Requests under way at the same time, over all runner pods of the model."""
    limits: RateLimits | None = None
    """What may be asked per minute."""
    ca_bundle: Annotated[str, Field(max_length=65_536)] | None = None
    """Certificates in PEM that are trusted besides none other; absent: the usual authorities."""
    client_certificate: ClientCertificate | None = None
    """Shown to the provider where it asks for one, and to no proxy."""
    proxy_url: Annotated[str, Field(max_length=1024, pattern=BASE_URL)] | None = Field(None, alias="proxyURL")
    """HTTP proxy to go through; one that the chart's remote.allowedHosts names."""
    extra_body: Annotated[str, Field(min_length=2, max_length=4096)] | None = None
    """Further members of every request, a JSON object as text. Only members that the provider's page in the
    documentation lists; others are refused."""
    http: HttpApi | None = None
    """What to send and where the answer is, with provider HTTP."""


class Price(ApiModel):
    """What tokens cost, for the bill in LLMTask's usage."""

    currency: Annotated[str, Field(max_length=3, pattern=CURRENCY)] = "USD"
    """ISO 4217."""
    input_per_million_tokens: Annotated[str, Field(max_length=16, pattern=DECIMAL)]
    """Per million tokens of input, a decimal as a string."""
    cached_input_per_million_tokens: Annotated[str, Field(max_length=16, pattern=DECIMAL)] | None = None
    """Of those that the provider had cached; absent: as the others."""
    output_per_million_tokens: Annotated[str, Field(max_length=16, pattern=DECIMAL)]
    """Per million tokens of the result, those of reasoning included."""
