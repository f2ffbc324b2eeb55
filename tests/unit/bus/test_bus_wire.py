"""The wire: one write for what is called together, replies to whom they belong, failure for all at once."""

import asyncio
from typing import Any

import pytest
from redis import exceptions as vendor

from headrace_bus.wire import Wire


class Peer:
    """A connection that answers what it was sent in order, when it is let."""

    def __init__(self) -> None:
        self.batches: list[list[bytes]] = []
        self.replies: asyncio.Queue[Any] = asyncio.Queue()
        self.connected = 0
        self.ended = False

    async def connect(self) -> None:
        self.connected += 1

    async def send_packed_command(self, batch: list[bytes], **options: Any) -> None:
        # What a RESP array of bulk strings holds.
        self.batches.append([b" ".join(each.split(b"\r\n")[2::2]) for each in batch])

    async def read_response(self, **options: Any) -> Any:
        reply = await self.replies.get()
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def disconnect(self, nowait: bool = False) -> None:
        self.ended = True


@pytest.fixture
def peers() -> list[Peer]:
    return []


@pytest.fixture
async def wire(peers: list[Peer]):
    def make() -> Any:
        peers.append(Peer())
        return peers[-1]

    wire = Wire(make, reply_within_s=5)
    yield wire
    await wire.aclose()


async def begun(wire: Wire, *calls: tuple[Any, ...]) -> list[asyncio.Task[Any]]:
    tasks = [asyncio.create_task(wire.call(*call)) for call in calls]
    for _ in range(10):
        await asyncio.sleep(0)
    return tasks


async def test_calls_of_one_turn_leave_in_one_write_on_one_connection(wire: Wire, peers: list[Peer]) -> None:
    tasks = await begun(wire, ("A", 1), ("B", 2), ("C", 3))
    (peer,) = peers
    assert (peer.connected, peer.batches) == (1, [[b"A 1", b"B 2", b"C 3"]])
    for reply in (b"a", vendor.ResponseError("no"), b"c"):
        peer.replies.put_nowait(reply)
    assert await tasks[0] == b"a"
    with pytest.raises(vendor.ResponseError, match="no"):
        await tasks[1]
    assert await tasks[2] == b"c"


async def test_calls_that_replies_cause_leave_while_later_replies_are_read(wire: Wire, peers: list[Peer]) -> None:
    async def twice(number: int) -> None:
        await wire.call("FIRST", number)
        await wire.call("SECOND", number)

    tasks = [asyncio.create_task(twice(number)) for number in range(64)]
    for _ in range(10):
        await asyncio.sleep(0)
    (peer,) = peers
    sent_after = []
    # All are there to be read at once.
    for number in range(64):
        peer.replies.put_nowait(number)
    while not peer.replies.empty():
        await asyncio.sleep(0)
        sent_after.append((sum(map(len, peer.batches)), peer.replies.qsize()))
    assert any(sent > 64 and unread > 32 for sent, unread in sent_after)
    for number in range(64):
        peer.replies.put_nowait(number)
    await asyncio.gather(*tasks)


async def test_a_cancelled_call_keeps_its_place_in_the_replies(wire: Wire, peers: list[Peer]) -> None:
    first, second = await begun(wire, ("A",), ("B",))
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    peers[0].replies.put_nowait(b"a")
    peers[0].replies.put_nowait(b"b")
    assert await second == b"b"


async def test_a_broken_connection_fails_every_call_and_the_next_one_connects_again(
    wire: Wire, peers: list[Peer]
) -> None:
    tasks = await begun(wire, ("A",), ("B",))
    peers[0].replies.put_nowait(vendor.ConnectionError("gone"))
    for task in tasks:
        with pytest.raises(vendor.ConnectionError, match="gone"):
            await task
    assert peers[0].ended
    (again,) = await begun(wire, ("A",))
    peers[1].replies.put_nowait(b"a")
    assert await again == b"a"


async def test_a_connection_that_ends_while_idle_is_not_used_again(wire: Wire, peers: list[Peer]) -> None:
    (task,) = await begun(wire, ("A",))
    peers[0].replies.put_nowait(b"a")
    await task
    peers[0].replies.put_nowait(vendor.ConnectionError("timeout 300"))
    await begun(wire)
    (task,) = await begun(wire, ("B",))
    assert peers[0].batches == [[b"A"]]
    peers[1].replies.put_nowait(b"b")
    assert await task == b"b"


async def test_a_reply_that_nobody_asked_for_ends_the_connection(wire: Wire, peers: list[Peer]) -> None:
    (task,) = await begun(wire, ("A",))
    peers[0].replies.put_nowait(b"a")
    peers[0].replies.put_nowait(b"b")
    await task
    await begun(wire)
    assert peers[0].ended


async def test_silence_breaks_the_connection(peers: list[Peer]) -> None:
    def make() -> Any:
        peers.append(Peer())
        return peers[-1]

    wire = Wire(make, reply_within_s=0.01)
    for number in range(2):
        with pytest.raises(vendor.TimeoutError):
            await wire.call("A")
        assert peers[number].ended
    await wire.aclose()


async def test_a_write_that_nobody_reads_breaks_the_connection(peers: list[Peer]) -> None:
    class Full(Peer):
        async def send_packed_command(self, batch: list[bytes], **options: Any) -> None:
            await asyncio.Event().wait()

    def make() -> Any:
        peers.append(Full())
        return peers[-1]

    wire = Wire(make, reply_within_s=0.01)
    with pytest.raises(vendor.TimeoutError):
        await wire.call("A")
    assert peers[0].ended
    await wire.aclose()


async def test_closing_fails_what_waits(wire: Wire) -> None:
    (task,) = await begun(wire, ("A",))
    await wire.aclose()
    with pytest.raises(vendor.ConnectionError, match="closed"):
        await task
    with pytest.raises(vendor.ConnectionError, match="closed"):
        await wire.call("B")
