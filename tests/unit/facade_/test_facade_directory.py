"""What the facade knows of the cluster, by lists and watches that end, are too old and stay away: in virtual time."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from typing import Any

import pytest

from headrace_bus import ModelKey
from headrace_crds.quota import QUOTA_NAME
from headrace_facade.caller import Caller
from headrace_facade.directory import STALE_S, START_S, Directory, open_directory
from headrace_facade.errors import FacadeError, Gone, Unavailable
from headrace_facade.mirror import LIST_AFTER, Mirror
from tests.virtual_time import VirtualLoop

TEAM = Caller("team", "bot")


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())


def now() -> float:
    return asyncio.get_running_loop().time()


def model(namespace: str, name: str, sharing: dict[str, Any] | None = None) -> dict[str, Any]:
    spec: dict[str, Any] = {"remote": {"provider": "OpenAI", "model": "m"}}
    if sharing is not None:
        spec["sharing"] = {"namespaces": sharing}
    return {"metadata": {"namespace": namespace, "name": name}, "spec": spec}


def label(namespace: str, **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": namespace, "labels": labels}}


class Account:
    """An API server: objects by plural, and per watch what its stream brings; `None` is silence for ever."""

    set_up = True

    def __init__(self, **objects: list[dict[str, Any]]) -> None:
        self.objects = objects
        self.asked: list[tuple[str, str]] = []
        self.events: dict[str, asyncio.Queue[dict[str, Any] | FacadeError | None]] = {}
        self.away: FacadeError | None = None

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> dict[str, Any]:
        plural, query = path.rpartition("/")[2], query or {}
        self.asked.append((plural, "list"))
        if self.away is not None:
            raise self.away
        first, limit = int(query.get("continue", "0")), int(query["limit"])
        items = self.objects.get(plural, [])
        more = {"continue": str(first + limit)} if first + limit < len(items) else {}
        return {"metadata": {"resourceVersion": "1", **more}, "items": items[first : first + limit]}

    async def watch(self, path: str, version: str) -> AsyncGenerator[dict[str, Any], None]:
        plural = path.rpartition("/")[2]
        self.asked.append((plural, version))
        if self.away is not None:
            raise self.away
        queue = self.events.setdefault(plural, asyncio.Queue())
        while (event := await queue.get()) is not None:
            if isinstance(event, FacadeError):
                raise event
            yield event

    def tell(self, plural: str, kind: str, body: dict[str, Any], version: str = "2") -> None:
        body = {**body, "metadata": {**body["metadata"], "resourceVersion": version}}
        self.events.setdefault(plural, asyncio.Queue()).put_nowait({"type": kind, "object": body})

    def end(self, plural: str, error: FacadeError | None = None) -> None:
        self.events[plural].put_nowait(error)


def opened(account: Account, watched: tuple[str, ...] = (), shared: tuple[str, ...] = ()) -> Any:
    return open_directory(account, watched, shared, now)  # type: ignore[arg-type] # what is asked of it


async def settled() -> None:
    await asyncio.sleep(0.001)


def names(directory: Directory, caller: Caller = TEAM) -> list[str]:
    return [f"{each.metadata.namespace}/{each.metadata.name}" for each in directory.models(caller)]


def test_what_happens_in_the_cluster_is_known() -> None:
    async def main() -> None:
        quota = {"metadata": {"namespace": "team", "name": QUOTA_NAME}, "spec": {"maxQueuedTasks": 3}}
        account = Account(llmmodels=[model("team", f"m{n:03}") for n in range(250)], llmquotas=[quota])
        async with opened(account) as directory:
            for asked in (
                lambda: directory.model(TEAM, "m000"),
                lambda: directory.models(TEAM),
                directory.check_synced,
            ):
                with pytest.raises(Unavailable):
                    asked()
            assert directory.condition() == "not read yet: llmmodels, llmquotas"
            await settled()
            assert directory.condition() == "ok"
            assert len(names(directory)) == 250
            assert directory.quota("team").spec.max_queued_tasks == 3
            assert directory.quota("other") is None
            account.tell("llmmodels", "ADDED", model("team", "new"))
            account.tell("llmmodels", "DELETED", model("team", "m000"))
            account.tell("llmmodels", "BOOKMARK", {"metadata": {}}, "77")
            await settled()
            assert directory.model(TEAM, "new") is not None
            assert directory.model(TEAM, "m000") is None
            account.end("llmmodels")
            await settled()
            assert account.asked[-1] == ("llmmodels", "77"), "goes on where the bookmark was"

    run(main)


def test_a_version_that_is_too_old_is_a_new_list() -> None:
    async def main() -> None:
        account = Account(llmmodels=[model("team", "a")])
        async with opened(account) as directory:
            await settled()
            account.objects["llmmodels"] = [model("team", "b")]
            account.end("llmmodels", Gone("old"))
            await settled()
            assert names(directory) == ["team/b"]

    run(main)


def test_while_the_api_server_is_away_what_was_read_is_told_with_its_age() -> None:
    async def main() -> None:
        account = Account(llmmodels=[model("team", "a")])
        async with opened(account) as directory:
            await settled()
            account.away = Unavailable("away")
            for plural in ("llmmodels", "llmquotas"):
                account.end(plural, account.away)
            await asyncio.sleep(STALE_S + 3_600)
            assert names(directory) == ["team/a"]
            assert directory.condition().startswith("37")
            assert "s old" in directory.condition()
            # Not in a tight loop, and not once an hour.
            assert 700 < len(account.asked) < 2_000
            account.away = None
            account.tell("llmmodels", "DELETED", model("team", "a"))
            account.tell("llmquotas", "BOOKMARK", {"metadata": {}})
            await asyncio.sleep(11)
            assert names(directory) == []
            assert directory.condition() == "ok"

    run(main)


def test_who_may_call_what() -> None:
    async def main() -> None:
        chosen = {"from": "Selector", "selector": {"matchExpressions": [{"key": "gold", "operator": "Exists"}]}}
        account = Account(
            llmmodels=[
                model("team", "own"),
                model("models", "all", {"from": "All"}),
                model("models", "gold", chosen),
                model("models", "same"),
                model("others", "all", {"from": "All"}),
            ],
            namespaces=[label("team"), label("rich", gold="yes"), label("models")],
        )
        async with opened(account, shared=("models",)) as directory:
            await settled()
            assert names(directory) == ["team/own", "models/all"]
            assert names(directory, Caller("rich", "x")) == ["models/all", "models/gold"]
            assert names(directory, Caller("nowhere", "x")) == []
            key = Caller("team", "key:k", frozenset({"models/all", "models/gold", "rich/own"}))
            assert names(directory, key) == ["models/all"], "a key's models narrow, and never widen"
            assert directory.model(key, "own") is None
            assert directory.model(key, "models/all") is not None
            assert directory.model(TEAM, "models/same") is None
            assert directory.model(TEAM, "a/b/c") is None
            assert directory.any_model(ModelKey("models", "same")) is not None
            account.tell("namespaces", "MODIFIED", label("team", gold="x"))
            await settled()
            assert names(directory) == ["team/own", "models/all", "models/gold"]

    run(main)


def test_where_nothing_is_shared_no_namespace_is_read() -> None:
    async def main() -> None:
        account = Account(llmmodels=[model("team", "own"), model("models", "all", {"from": "All"})])
        async with opened(account) as directory:
            await settled()
            assert names(directory) == ["team/own"]
            assert {plural for plural, _ in account.asked} == {"llmmodels", "llmquotas"}

    run(main)


def test_watched_namespaces_alone_are_read() -> None:
    async def main() -> None:
        async with opened(Account(llmmodels=[model("team", "own")]), watched=("team",)) as directory:
            await settled()
            assert names(directory) == ["team/own"]
            assert directory.model(TEAM, "elsewhere/own") is None
            assert directory.quota("elsewhere") is None

    run(main)


def test_memory_is_bounded_and_what_is_left_out_is_unknown_and_not_absent() -> None:
    async def main() -> None:
        account = Account(llmmodels=[model("team", f"m{n}") for n in range(5)])
        mirror = Mirror(account, "/llmmodels", lambda body: body, most=5, clock=now)  # type: ignore[arg-type]
        running = asyncio.create_task(mirror.run())
        await settled()
        assert mirror.get(("team", "none")) is None
        account.tell("llmmodels", "ADDED", model("team", "m5"))
        await settled()
        assert len(mirror.all()) == 5
        with pytest.raises(Unavailable):
            mirror.get(("team", "m5"))
        assert mirror.get(("team", "m0")) is not None
        running.cancel()

    run(main)


def test_an_object_that_cannot_be_read_hides_no_other() -> None:
    async def main() -> None:
        odd = {"metadata": {"namespace": "team", "name": "odd"}, "spec": {"local": 7}}
        async with opened(Account(llmmodels=[odd, model("team", "a")])) as directory:
            await settled()
            assert names(directory) == ["team/a"]

    run(main)


async def test_without_an_account_of_its_own_nothing_is_known() -> None:
    account = Account()
    account.set_up = False
    async with opened(account) as directory:
        with pytest.raises(Unavailable):
            directory.check_synced()
        assert "HEADRACE_KUBE_TOKEN_FILE" in directory.condition()


def test_a_pod_that_starts_waits_for_models_and_not_for_ever() -> None:
    async def main() -> None:
        account = Account(llmmodels=[model("team", "a")])
        account.away = Unavailable("away")
        async with opened(account) as directory:
            for seconds, ready in ((0.0, False), (START_S - 1, False), (2.0, True)):
                await asyncio.sleep(seconds)
                if ready:
                    directory.check_started()
                else:
                    with pytest.raises(Unavailable, match="not read yet"):
                        directory.check_started()
            with pytest.raises(Unavailable):
                directory.model(TEAM, "a")
        account.away = None
        async with opened(account) as directory:
            await settled()
            directory.check_started()

    run(main)


def test_a_watch_that_fails_again_and_again_is_a_new_list() -> None:
    async def main() -> None:
        account = Account(llmmodels=[model("team", "a")])
        async with opened(account) as directory:
            await settled()
            account.objects["llmmodels"] = [model("team", "b")]
            for _ in range(LIST_AFTER):
                account.end("llmmodels", Unavailable("an event that cannot be read"))
            await asyncio.sleep(10)
            assert names(directory) == ["team/b"]

    run(main)
