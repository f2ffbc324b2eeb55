"""``LLMModel.spec.remote``: a model that somebody else serves over HTTP."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, ClassVar, Final

from pydantic import Field

from headrace_crds.base import DECIMAL, ApiModel, Rule
from headrace_crds.inputs import KeyRef

BASE_URL = r"^https?://[A-Za-z0-9.:\[\]-]+(/[A-Za-z0-9._~/-]*)?$"
POINTER = r"^(/[^\s]*)?$"
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

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9-]+$")]
    """Its name."""
    value: Annotated[str, Field(max_length=1024, pattern=r"^[\x20-\x7e]*$")]
    """Its value; {{credential}} in it is the key."""


class HttpResponse(ApiModel):
    """Where the answer is, as JSON Pointers (RFC 6901) into the response; with style Stream into each event."""

    text: Annotated[str, Field(max_length=256, pattern=POINTER)]
    """The generated text; with style Stream what an event adds to it."""
    finish_reason: Annotated[str, Field(max_length=256, pattern=POINTER)] | None = None
    """Why it ended; one of lengthValues means that it was cut off."""
    length_values: Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=8)] = Field(
        default=["length", "max_tokens"]
    )
    """Values of finishReason that mean: cut off by the bound on tokens."""
    prompt_tokens: Annotated[str, Field(max_length=256, pattern=POINTER)] | None = None
    """Tokens of the input."""
    completion_tokens: Annotated[str, Field(max_length=256, pattern=POINTER)] | None = None
    """Tokens of the result."""
    error: Annotated[str, Field(max_length=256, pattern=POINTER)] | None = None
    """What went wrong; anything there but null makes the response a failure, whatever its status."""


class HttpPoll(ApiModel):
    """How a job is followed that the first request began."""

    url: Annotated[str, Field(max_length=256, pattern=POINTER)]
    """JSON Pointer into the first response: a path, or a URL of the same host, to GET until the job is over."""
    status: Annotated[str, Field(max_length=256, pattern=POINTER)]
    """JSON Pointer into each further response: how far the job is."""
    done_values: Annotated[list[Annotated[str, Field(max_length=64)]], Field(min_length=1, max_length=8)]
    """Values of status that mean: there is a result."""
    failed_values: Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=8)] | None = None
    """Values of status that mean: there will be none."""
    interval_millis: Annotated[int, Field(ge=100, le=60_000)] = 1000
    """From one look to the next."""


class HttpApi(ApiModel):
    """A plain HTTP API: what to send, and where the answer is."""

    rules: ClassVar = (
        Rule("(self.style == 'Poll') == has(self.poll)", "poll goes with style Poll, and only with it", ".poll"),
        Rule("self.method != 'GET' || !has(self.body)", "a GET has no body: remove it or set method: POST", ".body"),
    )

    method: HttpMethod = HttpMethod.POST
    """Of the request that carries the input."""
    path: Annotated[str, Field(max_length=1024, pattern=r"^(/[^\s#]*)?$")] = ""
    """Appended to baseURL; with a query if need be. Placeholders are put in as in body, percent-encoded."""
    headers: Annotated[list[HttpHeader], Field(max_length=16)] | None = None
    """Headers of every request."""
    body: Annotated[str, Field(min_length=2, max_length=16_384)] | None = None
    """The request as JSON text. A string in it that is one placeholder becomes its value, as in
    {"input": "{{prompt}}", "max": "{{parameters.maxTokens}}"}; within a longer string its text. Placeholders: prompt
    (the last user message), system, messages (role and content), model, output.jsonSchema, and parameters with the
    names of LLMTask's. A member whose placeholder has no value is left out."""
    style: HttpStyle = HttpStyle.SYNC
    """Sync: the response is the answer. Stream: it is a stream of server-sent events. Poll: it names a job."""
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
    proxy_url: Annotated[str, Field(max_length=1024, pattern=BASE_URL)] | None = Field(None, alias="proxyURL")
    """HTTP proxy to go through; one that the chart's remote.allowedHosts names."""
    extra_body: Annotated[str, Field(min_length=2, max_length=4096)] | None = None
    """Further members of every request, a JSON object as text. Only members that the provider's page in the
    documentation lists; others are refused."""
    http: HttpApi | None = None
    """What to send and where the answer is, with provider HTTP."""


class Price(ApiModel):
    """What tokens cost, for the bill in LLMTask's usage."""

    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "USD"
    """ISO 4217."""
    input_per_million_tokens: Annotated[str, Field(max_length=16, pattern=DECIMAL)]
    """Per million tokens of input, a decimal as a string."""
    cached_input_per_million_tokens: Annotated[str, Field(max_length=16, pattern=DECIMAL)] | None = None
    """Of those that the provider had cached; absent: as the others."""
    output_per_million_tokens: Annotated[str, Field(max_length=16, pattern=DECIMAL)]
    """Per million tokens of the result, those of reasoning included."""
