"""A chat API that is as lean as it can be: OpenAI's streamed answers over HTTP/1.1, on connections that are kept.

Each delta leaves in a write of its own, spread over the latency as tokens would come. Texts are drawn beforehand from a
seed. Requests are not judged, but for the limit of requests per minute where there is one. On stdout: the port. What it
saw is at GET /seen, as JSON; times are seconds of the machine's monotonic clock.
"""

import argparse
import asyncio
import collections
import json
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any, Final

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "contract" / "bus"))
from providers_limits import FixedWindow, Limit, SlidingWindow, TokenBucket  # noqa: E402

POLICIES: Final[dict[str, type[TokenBucket] | type[FixedWindow] | type[SlidingWindow]]] = {
    "token_bucket": TokenBucket,
    "fixed_window": FixedWindow,
    "sliding_window": SlidingWindow,
}
_SEED: Final = 20261130
_ANSWERS: Final = 16
_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n"
    b"x-ratelimit-limit-requests: 10000\r\nx-ratelimit-remaining-requests: 9999\r\nx-ratelimit-reset-requests: 6ms\r\n"
    b"x-request-id: req_bench\r\n\r\n"
)
_REFUSAL: Final = (
    b'{"error":{"message":"Rate limit reached","type":"requests","param":null,"code":"rate_limit_exceeded"}}'
)


def _event(chunk: dict[str, Any]) -> bytes:
    common = {
        "id": "chatcmpl-D3benchbenchbenchbenchbench",
        "object": "chat.completion.chunk",
        "created": 1796000000,
        "model": "gpt-bench-2026-01-01",
        "service_tier": "default",
        "system_fingerprint": "fp_bench00000",
    }
    return _chunked(b"data: " + json.dumps({**common, **chunk}, separators=(",", ":")).encode() + b"\n\n")


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _choice(delta: dict[str, str], finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return {"choices": [choice], "usage": None, "obfuscation": "x" * 12}


def answers(deltas: int) -> list[tuple[list[bytes], bytes]]:
    """Each: a write per delta, and the one that ends it."""
    chance = random.Random(_SEED)
    made = []
    for _ in range(_ANSWERS):
        words = ["".join(chance.choices("abcdefghijklmnop", k=chance.randint(2, 8))) for _ in range(deltas)]
        writes = [_event(_choice({"content": f"{word} "})) for word in words]
        writes[0] = _event(_choice({"role": "assistant", "content": ""})) + writes[0]
        usage = {
            "prompt_tokens": 128,
            "completion_tokens": deltas,
            "total_tokens": 128 + deltas,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        }
        end = _event(_choice({}, "stop")) + _event({"choices": [], "usage": usage})
        made.append((writes, end + _chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n"))
    return made


def _whole(writes: list[bytes]) -> bytes:
    """The same answer to who asks for no stream."""
    chunks = [json.loads(line[6:]) for each in writes for line in each.split(b"\n") if line.startswith(b"data: {")]
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    usage = {"prompt_tokens": 128, "completion_tokens": len(writes), "total_tokens": 128 + len(writes)}
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    document = {**chunks[0], "object": "chat.completion", "choices": [choice], "usage": usage}
    body = json.dumps(document, separators=(",", ":")).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % len(body) + body


class Stub:
    """What all connections share."""

    def __init__(self, latency_seconds: float, first_seconds: float, deltas: int, limit: Limit | None) -> None:
        self.latency_seconds = latency_seconds
        self.limit = limit
        self.answers = answers(deltas)
        self.whole = [_whole(writes) for writes, _ in self.answers]
        step = (latency_seconds - first_seconds) / deltas
        self.at = [first_seconds + step * number for number in range(deltas)]
        self.served = self.refused = self.connections = self.under_way = self.most = 0
        self.last: collections.deque[tuple[float, float]] = collections.deque(maxlen=1)
        """When the newest answered request had come, and when its answer was written."""

    def seen(self) -> bytes:
        """Figures since the start, and of the newest answer its times."""
        names = ("served", "refused", "connections", "most")
        return json.dumps({**{name: getattr(self, name) for name in names}, "last": [*self.last]}).encode()


class Connection(asyncio.Protocol):
    """One client's; requests come one after the other."""

    def __init__(self, stub: Stub) -> None:
        self._stub = stub
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._timers: list[asyncio.TimerHandle] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._stub.connections += 1

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in self._timers:
            timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head_end = self._received.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = bytes(self._received[:head_end]).lower()
        start = head.find(b"content-length:")
        size_bytes = int(head[start + 15 :].split(b"\r\n", 1)[0]) if start >= 0 else 0
        end = head_end + 4 + size_bytes
        if len(self._received) < end:
            return
        streams = b'"stream":true' in bytes(self._received[head_end + 4 : end]).replace(b" ", b"")
        del self._received[:end]
        if head.startswith(b"post"):
            self._complete(streams=streams)
        else:
            path = head.split(b" ", 2)[1]
            body = self._stub.seen() if path == b"/seen" else b'{"id":"gpt-bench","object":"model","owned_by":"b"}'
            self._json(b"200 OK", body)

    def _json(self, status: bytes, body: bytes, more: bytes = b"") -> None:
        head = b"HTTP/1.1 %s\r\ncontent-type: application/json\r\n%scontent-length: %d\r\n\r\n"
        self._transport.write(head % (status, more, len(body)) + body)

    def _complete(self, *, streams: bool) -> None:
        stub, now = self._stub, time.monotonic()
        if stub.limit is not None and not stub.limit.allows(now):
            stub.refused += 1
            self._json(b"429 Too Many Requests", _REFUSAL, b"retry-after: 1\r\n")
            return
        writes, end = stub.answers[stub.served % _ANSWERS]
        stub.served += 1
        stub.under_way += 1
        stub.most = max(stub.most, stub.under_way)
        begun = self._loop.time()
        if not streams:
            whole = stub.whole[(stub.served - 1) % _ANSWERS]
            self._timers = [self._loop.call_at(begun + stub.latency_seconds, self._end, now, whole)]
            return
        self._timers = [
            self._loop.call_at(begun + at, self._transport.write, _HEAD + piece if number == 0 else piece)
            for number, (at, piece) in enumerate(zip(stub.at, writes, strict=True))
        ]
        self._timers.append(self._loop.call_at(begun + stub.latency_seconds, self._end, now, end))

    def _end(self, came: float, end: bytes) -> None:
        self._stub.under_way -= 1
        self._transport.write(end)
        self._stub.last.append((came, time.monotonic()))


async def serve(arguments: argparse.Namespace) -> None:
    limit = POLICIES[arguments.policy](arguments.per_minute) if arguments.policy else None
    stub = Stub(arguments.latency_ms / 1000, arguments.first_ms / 1000, arguments.deltas, limit)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(stub), "127.0.0.1", 0, backlog=512)
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    print(server.sockets[0].getsockname()[1], flush=True)
    await stopped.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency-ms", type=float, default=500.0, help="from the whole request to the answer's end")
    parser.add_argument("--first-ms", type=float, default=150.0, help="to the first delta")
    parser.add_argument("--deltas", type=int, default=32)
    parser.add_argument("--policy", choices=POLICIES)
    parser.add_argument("--per-minute", type=int, default=600)
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
