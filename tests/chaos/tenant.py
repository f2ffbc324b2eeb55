"""Who submits tasks and takes them away: the users of a run.

A task is accepted when the API server or the facade has said so. Whoever got no answer asks again by the same name.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp

from tests.chaos.control_plane import ApiError
from tests.chaos.world import MODEL, World
from tests.stub_engine.script import Script

AGAIN_SECONDS: Final = 0.3
STARTING: Final = "failed to configure policy"
"""An API server that has just started refuses by policies whose parameters' kind it has not found yet."""


@dataclass
class Submission:
    """`accepted_uid` is empty until somebody said that it is accepted. `object_name`: where the facade chose it.
    `deleted`: it was withdrawn; `cancelled`: its cancellation was asked for; `unanswered`: requests to the facade that
    were sent and never answered. `inputs`: from when on the object that its input comes from named whom; where there
    are any, `script` is not in the task."""

    name: str
    script: Script
    by_facade: bool = False
    spec: dict[str, Any] = field(default_factory=dict)
    accepted_uid: str = ""
    object_name: str = ""
    cancelled: bool = False
    deleted: bool = False
    unanswered: int = 0
    inputs: list[tuple[float, str]] = field(default_factory=list)
    accepted: asyncio.Event = field(default_factory=asyncio.Event)


class Tenant:
    """All submissions of a run, by name."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.submissions: dict[str, Submission] = {}
        self._path = f"/apis/headrace.dev/v1alpha1/namespaces/{world.tenant}/llmtasks"

    async def submit(self, submission: Submission) -> Submission:
        """Returns when it is accepted."""
        self.submissions[submission.name] = submission
        send = self._by_facade if submission.by_facade else self._by_api
        while not await send(submission):  # noqa: ASYNC110  a user has no event to wait for
            await asyncio.sleep(AGAIN_SECONDS)
        submission.accepted.set()
        return submission

    async def _by_api(self, submission: Submission) -> bool:
        prompt = {} if "inputFrom" in submission.spec else {"prompt": submission.script.line()}
        body = {
            "apiVersion": "headrace.dev/v1alpha1",
            "kind": "LLMTask",
            "metadata": {"name": submission.name},
            "spec": {"modelRef": {"name": MODEL}, **prompt, **submission.spec},
        }
        api = self._world.api
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            try:
                made = await api.request("POST", self._path, body)
            except ApiError as error:
                if error.status != 409:
                    if error.status < 500 and error.status != 429 and STARTING not in str(error):
                        raise
                    return False
                # A lost answer: it is there.
                made = await api.request("GET", f"{self._path}/{submission.name}")
            submission.accepted_uid = made["metadata"]["uid"]
        return bool(submission.accepted_uid)

    async def _by_facade(self, submission: Submission) -> bool:
        world = self._world
        body = {
            "namespace": world.tenant,
            "model": MODEL,
            "prompt": submission.script.line(),
        }
        headers = {"Authorization": f"Bearer {world.token}", "Idempotency-Key": submission.name}
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            told: dict[str, Any] = {}
            try:
                async with world.http.post(f"{world.facade_url}/api/v1/tasks", json=body, headers=headers) as answer:
                    # An API server that has just started knows no roles for a moment.
                    if answer.status not in (200, 202, 403, 429) and answer.status < 500:
                        text = await answer.text()
                        if STARTING in text:
                            return False
                        raise RuntimeError(f"the facade answered {answer.status}: {text}")
                    told = await answer.json() if answer.status < 300 else {}
            except aiohttp.ClientConnectorError:
                return False
            except aiohttp.ClientConnectionError:
                submission.unanswered += 1
            if told:
                submission.object_name = told["name"]
                made = await world.api.request("GET", f"{self._path}/{submission.object_name}")
                submission.accepted_uid = made["metadata"]["uid"]
        return bool(submission.accepted_uid)

    async def delete(self, submission: Submission) -> None:
        """Withdraw it; asks until the API server has answered."""
        submission.deleted = True
        await self._insist("DELETE", submission)

    async def clear(self) -> None:
        """Take away every task there is, as who has read the results would."""
        while True:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                await self._world.api.request("DELETE", self._path)
                return
            await asyncio.sleep(AGAIN_SECONDS)

    async def patch(self, submission: Submission, spec: dict[str, Any]) -> None:
        """Change the spec; a task that is gone is left alone."""
        submission.cancelled |= bool(spec.get("cancel"))
        await self._insist("PATCH", submission, {"spec": spec}, type_="application/merge-patch+json")

    async def _insist(self, method: str, submission: Submission, *body: dict[str, Any], **options: str) -> None:
        """Asks until the API server has answered; a task that is gone is an answer."""
        path = f"{self._path}/{submission.object_name or submission.name}"
        while True:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                try:
                    await self._world.api.request(method, path, *body, **options)
                except ApiError as error:
                    if error.status == 404:
                        return
                    if error.status < 500:
                        raise
                else:
                    return
            await asyncio.sleep(AGAIN_SECONDS)

    async def all_finished(self, names: set[str], within_seconds: float) -> set[str]:
        """Wait until each of these has an outcome or is withdrawn; gives those that have not."""
        left = set(names)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_seconds):
                while left := {name for name in left if not self.finished(name)}:
                    self._world.changed.clear()
                    self._world.recorder.check()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(1):
                            await self._world.changed.wait()
        return {name for name in left if not self.finished(name)}

    def finished(self, name: str) -> bool:
        submission = self.submissions[name]
        latest = self._world.latest(submission.accepted_uid)
        return submission.deleted or (latest is not None and (latest.gone or latest.outcome is not None))

    def of(self, choose: Callable[[Submission], bool]) -> list[Submission]:
        return [submission for submission in self.submissions.values() if choose(submission)]
