"""What one identity, one client that reads nothing, or one object of another version may do to the others."""

import asyncio
from typing import Any

import pytest

from headrace_facade import attended
from headrace_facade.calls.failures import TooManyCalls
from headrace_facade.calls.held import Held
from headrace_facade.errors import Unavailable
from headrace_facade.mirror import Mirror
from headrace_facade.openai_dialect import answers
from tests.fake_calls.played import PLAIN, STREAMED
from tests.fake_calls.service import CALLER, FakeCalls, FakeContext, Never, spoken
from tests.fake_calls.serving import application
from tests.virtual_time import VirtualLoop


def test_one_identity_leaves_room_for_others() -> None:
    held = Held(calls_limit=8, bytes_limit=400)
    for _ in range(4):
        held.enter("key:a")
    with pytest.raises(TooManyCalls, match="you have 4"):
        held.enter("key:a")
    for _ in range(4):
        held.enter("key:b")
    with pytest.raises(TooManyCalls, match="8 calls"):
        held.enter("key:c")
    held.take("key:a", 100)
    with pytest.raises(TooManyCalls, match="your calls"):
        held.take("key:a", 1)
    held.take("key:b", 100)
    held.leave("key:a", 100)
    held.enter("key:c")
    held.take("key:c", 100)


def test_what_all_hold_is_bounded() -> None:
    held = Held(calls_limit=100, bytes_limit=400)
    for name in "abcd":
        held.enter(name)
        held.take(name, 100)
    held.enter("e")
    with pytest.raises(TooManyCalls, match="holds as much"):
        held.take("e", 1)


class Told:
    def opening(self) -> list[str]:
        return []

    def delta(self, delta: Any) -> list[str]:
        return ["x" * 1000]

    def ended(self, result: Any) -> list[str]:
        return ["end"]

    def failed(self, error: Any) -> list[str]:
        return ["failed"]


@pytest.mark.parametrize("streams", [True, False], ids=["stream", "whole"])
def test_a_client_that_reads_nothing_is_hung_up_on(streams: bool) -> None:
    calls = FakeCalls(spoken("Hel", "lo"))

    async def main() -> float:
        answer: Any = (
            answers.EventStream(calls, CALLER, STREAMED, lambda call: Told())
            if streams
            else answers.WholeAnswer(calls, CALLER, PLAIN, lambda call, result: {"a": 1})
        )

        async def receive() -> dict[str, Any]:
            await asyncio.Event().wait()
            return {}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.body":
                await asyncio.sleep(3600)

        begun = asyncio.get_running_loop().time()
        await answer({}, receive, send)
        return asyncio.get_running_loop().time() - begun

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        seconds = runner.run(main())
    assert attended.SEND_SECONDS <= seconds < 2 * attended.SEND_SECONDS
    assert calls.left.is_set()


async def test_a_call_that_waits_holds_no_share_of_the_bodies() -> None:
    context = FakeContext(calls=FakeCalls([Never()]))
    app = application(context)
    body = b'{"model": "small", "messages": [{"role": "user", "content": "' + b"x" * 100_000 + b'"}]}'
    gone = asyncio.Event()
    received = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        if received:
            return received.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None: ...

    headers = [(b"authorization", b"Bearer hr_test_key"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "raw_path": b"", "query_string": b""}
    asking = asyncio.ensure_future(
        app({**scope, "headers": headers, "http_version": "1.1", "scheme": "http", "server": None}, receive, send)
    )
    await asyncio.wait_for(context.calls.entered.wait(), 10)
    assert context.bodies.held_bytes == 0
    gone.set()
    await asking
    assert context.bodies.held_bytes == 0


def test_what_cannot_be_read_is_unknown_and_not_absent() -> None:
    def parse(body: dict[str, Any]) -> int:
        return int(body["spec"])

    mirror: Mirror[int] = Mirror(None, "/q", parse)  # type: ignore[arg-type]
    metadata = {"namespace": "t", "name": "default", "resourceVersion": "1"}
    mirror._applied({"type": "ADDED", "object": {"metadata": metadata, "spec": "1"}})
    assert mirror.get(("t", "default")) == 1
    mirror._applied({"type": "MODIFIED", "object": {"metadata": metadata, "spec": "many"}})
    with pytest.raises(Unavailable, match="another version"):
        mirror.get(("t", "default"))
    mirror._applied({"type": "DELETED", "object": {"metadata": metadata, "spec": "many"}})
    assert mirror.get(("t", "default")) is None
