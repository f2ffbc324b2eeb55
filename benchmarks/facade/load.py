"""Clients of a chat API on connections that are kept: raw HTTP/1.1, so that the load costs less than what it measures.

A line of JSON in: {"port", "path", "headers", "body", "concurrency", "requests", "stream", "gaps"}; one out:
{"seconds", "millis": [of every request], "gaps": [milliseconds between pieces, where asked for], "wrong": answers that
were not 200 or without their text}. Ends with its input.
"""

import asyncio
import json
import sys
import time
from typing import Any


class Client(asyncio.Protocol):
    """One connection; asks again until nothing is left."""

    def __init__(self, job: "Job") -> None:
        self._job = job
        self._received = bytearray()
        self._asked_at = self._came_at = 0.0
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        if not self._job.left:
            self._transport.close()
            if not self.over.done():
                self.over.set_result(None)
            return
        self._job.left -= 1
        self._received.clear()
        self._asked_at = time.perf_counter()
        self._transport.write(self._job.request)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        if self._job.gaps is not None and self._received:
            self._job.gaps.append((now - self._came_at) * 1000)
        self._came_at = now
        self._received += data
        if not self._is_whole():
            return
        self._job.millis.append((time.perf_counter() - self._asked_at) * 1000)
        if not self._received.startswith(b"HTTP/1.1 200") or self._job.marker not in self._received:
            self._job.wrong += 1
            self._job.sample = bytes(self._received[:600]).decode(errors="replace")
        self._ask()

    def _is_whole(self) -> bool:
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = bytes(self._received[:end]).lower()
        at = head.find(b"content-length:")
        if at >= 0:
            return len(self._received) >= end + 4 + int(head[at + 15 :].split(b"\r\n", 1)[0])
        return self._received.endswith(b"0\r\n\r\n")

    def connection_lost(self, error: Exception | None) -> None:
        if not self.over.done():
            self._job.wrong += 1
            self.over.set_result(None)


class Job:
    def __init__(self, told: dict[str, Any]) -> None:
        body = json.dumps(told["body"]).encode()
        head = [f"POST {told['path']} HTTP/1.1", f"host: 127.0.0.1:{told['port']}", "content-type: application/json"]
        head += [f"{name}: {value}" for name, value in told["headers"].items()]
        head += [f"content-length: {len(body)}", "", ""]
        self.request = "\r\n".join(head).encode() + body
        self.marker = b"[DONE]" if told["stream"] else b'"finish_reason":"stop"'
        self.port, self.left = told["port"], told["requests"]
        self.millis: list[float] = []
        self.wrong = 0
        self.sample = ""
        self.gaps: list[float] | None = [] if told.get("gaps") else None

    async def run(self, concurrency: int) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        begun = time.perf_counter()
        clients = []
        for number in range(concurrency):
            if self.gaps is not None and number % 20 == 19:
                # Thousands at once are a queue of connections, and not what is measured.
                await asyncio.sleep(0.12)
            _, client = await loop.create_connection(lambda: Client(self), "127.0.0.1", self.port)
            clients.append(client.over)
        await asyncio.wait(clients)
        seconds = time.perf_counter() - begun
        told = {"seconds": seconds, "millis": self.millis, "wrong": self.wrong, "sample": self.sample}
        return told if self.gaps is None else {**told, "gaps": sorted(self.gaps)}


def main() -> None:
    for line in sys.stdin:
        told = json.loads(line)
        print(json.dumps(asyncio.run(Job(told).run(told["concurrency"]))), flush=True)


if __name__ == "__main__":
    main()
