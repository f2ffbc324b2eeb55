"""One Redis per test session, emptied before every test; a bus on it, and a plain client to look behind it."""

import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from redis.asyncio import Redis

from headrace_bus import Bus, Envelope, ModelKey, WorkClass

# Test folders are no packages; the fixture's module lies one above.
sys.path.insert(0, str(Path(__file__).parents[1]))
from redis_server import RedisServer, redis_server


@pytest.fixture(scope="session")
def shared_server() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
async def redis(shared_server: RedisServer) -> AsyncIterator[Redis]:
    """What the bus does not show."""
    async with Redis.from_url(shared_server.url, decode_responses=True) as client:
        await client.flushall()
        for user in await client.acl_users():
            if user != "default":
                await client.acl_deluser(user)
        yield client


@pytest.fixture
async def bus(shared_server: RedisServer, redis: Redis) -> AsyncIterator[Bus]:
    async with Bus.connect(shared_server.url) as bus:
        yield bus


@pytest.fixture
def model() -> ModelKey:
    return ModelKey("platform", "qwen3-8b")


class Envelopes:
    """Makes envelopes with uids of their own and creation times in the order of making."""

    def __init__(self) -> None:
        self._numbers = count(1)

    def __call__(self, **fields: object) -> Envelope:
        number = next(self._numbers)
        envelope = Envelope(
            uid=f"uid-{number}",
            kind=WorkClass.TASK,
            namespace="team-a",
            name=f"task-{number}",
            attempt=1,
            created_ms=1_700_000_000_000 + number,
            priority=0,
            cost_tokens=100,
            payload={"prompt": "hello"},
        )
        return replace(envelope, **fields)  # type: ignore[arg-type]


@pytest.fixture
def envelopes() -> Envelopes:
    return Envelopes()
