"""The bare side: OpenAI's own SDK over a plain client, streamed as ours is, nothing around it.

A line of JSON on stdin, {"count", "at_once"}, asks for so many calls. The answer is a line on stdout: the seconds that
they took together, the CPU seconds of this process and, of calls one at a time, when each began and ended (seconds of
the machine's monotonic clock).
"""

import asyncio
import gc
import json
import sys
import time

import httpx2
from openai import AsyncOpenAI
from payload import MAX_TOKENS, TEMPERATURE, prompt

GARBAGE_OBJECTS = 20_000
"""The runner's own setting (headrace_runner.main): the collector looks as seldom here."""


async def call(client: AsyncOpenAI, number: int) -> str:
    """One completion's text."""
    stream = await client.chat.completions.create(
        model="gpt-bench",
        messages=[{"role": "user", "content": prompt(number)}],
        max_completion_tokens=MAX_TOKENS,
        temperature=TEMPERATURE,
        stream=True,
        stream_options={"include_usage": True},
    )
    text, usage = [], None
    async for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text.append(choice.delta.content or "")
    assert usage is not None
    assert usage.completion_tokens > 0
    return "".join(text)


async def batch(client: AsyncOpenAI, count: int, at_once: int) -> dict[str, object]:
    numbers, spans = iter(range(count)), list[tuple[float, float]]()

    async def lane() -> None:
        for number in numbers:
            begun = time.monotonic()
            assert await call(client, number)
            spans.append((begun, time.monotonic()))

    begun, cpu = time.monotonic(), time.process_time()
    await asyncio.gather(*(lane() for _ in range(at_once)))
    seconds, cpu_seconds = time.monotonic() - begun, time.process_time() - cpu
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "spans": spans if at_once == 1 else []}


async def main() -> None:
    limits = httpx2.Limits(max_connections=256, max_keepalive_connections=256)
    async with httpx2.AsyncClient(limits=limits, trust_env=False) as http:
        client = AsyncOpenAI(api_key="sk-bench", base_url=sys.argv[1], http_client=http, max_retries=0)
        await batch(client, 64, 64)
        gc.freeze()
        gc.set_threshold(GARBAGE_OBJECTS)
        print(json.dumps({"ready": True}), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(await batch(client, **json.loads(line))), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
