"""A provider as another distribution brings it along: chat completions as vLLM and its like stream them."""

import json
from collections.abc import Callable
from typing import Any

import httpx2

from headrace_crds.reasons import Reason
from headrace_runner.engine.embedding_request import Embed
from headrace_runner.engine.protocol import Delta, Generate, GenerationResult, Timings, Usage
from headrace_runner.providers.protocol import Fault, ProviderError, Setting


class LoopbackProvider:
    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._base = setting.remote.base_url

    async def start(self) -> None:
        if self._setting.extra_body:
            raise ValueError("spec.remote.extraBody: this provider takes none, remove it")

    async def generate(self, request: Generate, on_delta: Callable[[Delta], None]) -> GenerationResult:
        body: dict[str, Any] = {
            "model": self._setting.remote.model,
            "messages": [{"role": each.role, "content": each.content} for each in request.messages],
            "max_tokens": request.parameters.max_tokens,
            "stream": True,
        }
        text, tokens, usage = "", 0, Usage(0, 0, 0)
        try:
            async with self._setting.http.stream(
                "POST", f"{self._base}/chat/completions", json=body, headers=self._headers()
            ) as answer:
                self._judge(answer)
                async for line in answer.aiter_lines():
                    if not line.startswith("data: {"):
                        continue
                    chunk = json.loads(line.removeprefix("data: "))
                    if told := chunk.get("usage"):
                        usage = Usage(told["prompt_tokens"], 0, told["completion_tokens"])
                    for choice in chunk["choices"]:
                        added = choice["delta"]["content"]
                        text, tokens = text + added, tokens + 1
                        on_delta(Delta(request.id, added, tokens))
        except httpx2.TransportError as error:
            raise ProviderError(Fault.TRANSIENT, Reason.PROVIDER_UNREACHABLE, "no connection") from error
        return GenerationResult(request.id, text, "Stop", usage, Timings(0, 0, 0))

    async def embed(self, request: Embed) -> GenerationResult:
        raise ProviderError(Fault.TERMINAL, Reason.MODEL_NOT_CAPABLE, "it gives no vectors")

    async def check_health(self) -> None:
        try:
            self._judge(await self._setting.http.get(f"{self._base}/models", headers=self._headers()))
        except httpx2.TransportError as error:
            raise ProviderError(Fault.TRANSIENT, Reason.PROVIDER_UNREACHABLE, "no connection") from error

    async def aclose(self) -> None:
        pass

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._setting.credential()}"}

    def _judge(self, answer: httpx2.Response) -> None:
        match answer.status_code:
            case 401:
                raise ProviderError(Fault.UNAVAILABLE, Reason.CREDENTIALS_REFUSED, "the provider refuses the key")
            case 429:
                seconds = float(answer.headers["Retry-After"])
                raise ProviderError(
                    Fault.RATE_LIMITED, Reason.RATE_LIMITED, "too many requests", retry_after_seconds=seconds
                )
            case status if status != 200:
                raise ProviderError(Fault.TRANSIENT, Reason.PROVIDER_FAILED, f"status {status}")


def create(setting: Setting) -> LoopbackProvider:
    return LoopbackProvider(setting)
