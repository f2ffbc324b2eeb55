"""Provider ``Echo``, for an API of one endpoint, POST {baseURL}/complete.

It takes {"model", "prompt", "limit"} and gives {"text", "cut", "tokens": {"in", "out"}}.
Everything that a provider is to do is here: read the spec, refuse what the API has no place for, send one request
through the given client, tell the text, and say how a failure is meant. It never tries again and never waits: queue,
retries and limits are the runner's.
"""

import time
from collections.abc import Callable

import httpx2

from headrace_crds.reasons import Reason
from headrace_runner.engine.embedding_request import Embed
from headrace_runner.engine.protocol import Delta, Generate, GenerationResult, Parameters, Timings, Usage
from headrace_runner.providers.protocol import Fault, Provider, ProviderError, Setting
from headrace_runner.providers.transport_errors import fault_of

FAULTS = {
    401: (Fault.UNAVAILABLE, Reason.CREDENTIALS_REFUSED, "the API refuses the key: put a valid one into the Secret"),
    404: (Fault.UNAVAILABLE, Reason.REMOTE_MODEL_NOT_FOUND, "the API does not know the model: correct remote.model"),
    429: (Fault.RATE_LIMITED, Reason.RATE_LIMITED, "the API wants fewer requests"),
    503: (Fault.OVERLOADED, Reason.PROVIDER_OVERLOADED, "the API has no room"),
}


def create(setting: Setting) -> Provider:
    """The factory that the entry point names."""
    return Echo(setting)


class Echo:
    """One per runner; ``generate`` is called by many tasks at once, so nothing of a call is kept in it."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._base_url = (setting.remote.base_url or "").rstrip("/")

    async def start(self) -> None:
        """Raises ValueError with the remedy: the model is then not Ready, and its condition says why."""
        if not self._base_url:
            raise ValueError("spec.remote.baseURL is needed with provider Echo")
        if self._setting.extra_body:
            raise ValueError("spec.remote.extraBody: provider Echo has no further members")

    async def generate(self, request: Generate, on_delta: Callable[[Delta], None]) -> GenerationResult:
        """One call. Raises ProviderError."""
        body = {
            "model": self._setting.remote.model,
            "prompt": prompt_of(request),
            "limit": request.parameters.max_tokens,
        }
        # The key is read for every request: a Secret that changes needs no restart.
        headers = {"Authorization": f"Bearer {self._setting.credential()}"}
        asked = time.monotonic()
        try:
            response = await self._setting.http.post(f"{self._base_url}/complete", json=body, headers=headers)
        except httpx2.HTTPError as error:
            raise (fault_of(error) or error) from error
        if response.status_code != 200:
            raise refusal(response.status_code)
        try:
            answer = response.json()
            text, cut, tokens = answer["text"], answer["cut"], answer["tokens"]
            usage = Usage(int(tokens["in"]), 0, int(tokens["out"]))
            if not isinstance(text, str):
                raise TypeError
        except (ValueError, LookupError, TypeError):
            raise ProviderError(Fault.TRANSIENT, Reason.PROVIDER_ANSWER_INVALID, "the answer is not Echo's") from None
        # Always: what a cancelled call had said is kept. An API that streams tells each piece as it comes.
        on_delta(Delta(request.id, text, usage.completion_tokens))
        timings = Timings(0, round((time.monotonic() - asked) * 1000), 0)
        return GenerationResult(request.id, text, "Length" if cut else "Stop", usage, timings)

    async def embed(self, request: Embed) -> GenerationResult:
        """Raises ProviderError."""
        raise ProviderError(Fault.TERMINAL, Reason.MODEL_NOT_CAPABLE, "provider Echo makes no embeddings")

    async def check_health(self) -> None:
        """Nothing that costs tokens. Raises ProviderError."""
        try:
            response = await self._setting.http.head(self._base_url)
        except httpx2.HTTPError as error:
            raise (fault_of(error) or error) from error
        if response.status_code >= 500:
            raise refusal(response.status_code)

    async def aclose(self) -> None:
        """The client is not ours to close."""


def prompt_of(request: Generate) -> str:
    """The one text that the API takes. What it has no place for is refused, not dropped. Raises ProviderError."""
    turns = [message.content for message in request.messages] or [request.prompt or ""]
    shaped = request.json_schema or request.grammar or request.regex or request.choice
    if len(turns) > 1 or request.tools or shaped:
        message = "provider Echo takes one user message, without tools and without output"
        raise ProviderError(Fault.TERMINAL, Reason.MODEL_NOT_CAPABLE, message)
    if request.parameters != Parameters(max_tokens=request.parameters.max_tokens):
        message = "provider Echo takes no parameter but maxTokens: remove the others from the task"
        raise ProviderError(Fault.TERMINAL, Reason.INVALID_PARAMETERS, message)
    return turns[0]


def refusal(status: int) -> ProviderError:
    """What a status means for the next call; of the API's own words nothing is passed on."""
    if status in FAULTS:
        return ProviderError(*FAULTS[status], status=status)
    if status >= 500:
        return ProviderError(Fault.TRANSIENT, Reason.PROVIDER_FAILED, f"the API failed (HTTP {status})", status=status)
    message = f"the API refuses the request (HTTP {status})"
    return ProviderError(Fault.TERMINAL, Reason.INVALID_PARAMETERS, message, status=status)
