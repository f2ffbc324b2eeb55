"""Who a caller is: what is kept and for how long, what is asked once, and what is told when nothing can be asked."""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from starlette.datastructures import Headers

from headrace_crds.api_keys import SECRET_TYPE, key_digest, new_key, secret_name
from headrace_facade.errors import FacadeError, Forbidden, Invalid, NotFound, Unauthenticated, Unavailable
from headrace_facade.identity import Callers
from headrace_facade.identity.callers import KEY_REFUSED
from headrace_facade.identity.credential import credential_of
from headrace_facade.identity.kept import Kept
from headrace_facade.identity.keys import KEY_KEPT_S, ApiKeys, facts_of
from headrace_facade.identity.tokens import REFUSAL_KEPT_S, RIGHT_KEPT_S, TOKEN_KEPT_S, ClusterTokens
from tests.virtual_time import VirtualLoop

API = "https://kubernetes.default.svc"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
ACCOUNT = "system:serviceaccount:team:bot"


def jwt(**claims: Any) -> str:
    return f"e30.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.sig"


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Account:
    """An API server's answers, and how often it was asked; an error in place of an answer is raised."""

    def __init__(self) -> None:
        self.users: dict[str, dict[str, Any]] = {}
        self.rights: set[tuple[str, str]] = set()
        self.secrets: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self.away: FacadeError | None = None

    def audiences(self) -> list[str]:
        return [API]

    async def review(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        await self._answering(body["kind"])
        spec = body["spec"]
        if body["kind"] == "TokenReview":
            assert spec["audiences"] == ["headrace.dev", API]
            return {"status": self.users.get(spec["token"], {"error": "no", "user": {}})}
        attributes = spec["resourceAttributes"]
        assert (attributes["verb"], attributes["group"], attributes["resource"]) == (
            "create",
            "headrace.dev",
            "llmtasks",
        )
        return {"status": {"allowed": (spec["user"], attributes["namespace"]) in self.rights}}

    async def get(self, path: str) -> dict[str, Any]:
        await self._answering("Secret")
        assert path.startswith("/api/v1/namespaces/keys/secrets/")
        found = self.secrets.get(path.rpartition("/")[2])
        if found is None:
            raise NotFound("none")
        return found

    async def _answering(self, what: str) -> None:
        self.asked.append(what)
        await asyncio.sleep(0)
        if self.away is not None:
            raise self.away

    def knows(self, token: str, name: str = ACCOUNT, *, audiences: list[str] | None = None) -> None:
        given = [API] if audiences is None else audiences
        self.users[token] = {"authenticated": True, "user": {"username": name, "uid": "u"}, "audiences": given}

    def add_key(self, **data: str) -> str:
        key_id, key = new_key()
        self.secrets[secret_name(key_id)] = secret(sha256=key_digest(key), **{"namespace": "team", **data})
        return key


def secret(kind: str = SECRET_TYPE, **data: str) -> dict[str, Any]:
    return {"type": kind, "data": {name: base64.b64encode(text.encode()).decode() for name, text in data.items()}}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def account() -> Account:
    return Account()


@pytest.fixture
def callers(account: Account, clock: Clock) -> Callers:
    tokens = ClusterTokens(account, lambda: 0.0)  # type: ignore[arg-type] # what is asked of it
    keys = ApiKeys(account, "keys")  # type: ignore[arg-type] # likewise
    return Callers(tokens, keys, "default", clock, lambda: NOW + timedelta(seconds=clock.now - 1_000))


def bearer(token: str) -> Headers:
    return Headers({"Authorization": f"Bearer {token}"})


async def test_a_token_is_reviewed_once_a_minute_and_its_right_twice(
    callers: Callers, account: Account, clock: Clock
) -> None:
    account.knows("t")
    account.rights.add((ACCOUNT, "team"))
    for now, asked in ((0.0, 2), (RIGHT_KEPT_S - 1, 2), (RIGHT_KEPT_S, 3), (TOKEN_KEPT_S - 1, 3), (TOKEN_KEPT_S, 5)):
        clock.now = 1_000 + now
        caller = await callers.authenticate(bearer("t"))
        assert (caller.namespace, caller.name, caller.token) == ("team", ACCOUNT, "t")
        assert len(account.asked) == asked, now


async def test_a_token_is_not_kept_longer_than_it_lasts(callers: Callers, account: Account, clock: Clock) -> None:
    token = jwt(exp=10)
    account.knows(token)
    account.rights.add((ACCOUNT, "team"))
    await callers.authenticate(bearer(token))
    del account.users[token]
    clock.now += 9
    await callers.authenticate(bearer(token))
    clock.now += 1
    with pytest.raises(Unauthenticated):
        await callers.authenticate(bearer(token))


@pytest.mark.parametrize("kind", ["token", "right", "key"])
async def test_what_was_refused_is_asked_again_soon(
    kind: str, callers: Callers, account: Account, clock: Clock
) -> None:
    key = account.add_key()
    kept, account.secrets = account.secrets, {}
    if kind == "right":
        account.knows("t")
    headers = bearer(key if kind == "key" else "t")
    for _ in range(2):
        with pytest.raises(Forbidden if kind == "right" else Unauthenticated):
            await callers.authenticate(headers)
    asked = len(account.asked)
    assert asked == (2 if kind == "right" else 1)
    account.knows("t")
    account.rights.add((ACCOUNT, "team"))
    account.secrets = kept
    clock.now += max(REFUSAL_KEPT_S, KEY_KEPT_S)
    await callers.authenticate(headers)
    assert len(account.asked) > asked


async def test_nothing_that_has_run_out_is_an_answer(callers: Callers, account: Account, clock: Clock) -> None:
    account.knows("t")
    account.rights.add((ACCOUNT, "team"))
    key = account.add_key()
    for headers in (bearer("t"), bearer(key)):
        await callers.authenticate(headers)
    account.away = Unavailable("away")
    clock.now += KEY_KEPT_S - 1
    for headers in (bearer("t"), bearer(key)):
        await callers.authenticate(headers)
    clock.now += TOKEN_KEPT_S
    for headers in (bearer("t"), bearer(key), bearer("unknown")):
        with pytest.raises(Unavailable):
            await callers.authenticate(headers)
    account.away = None
    await callers.authenticate(bearer("t"))


async def test_who_is_whose_tenant(callers: Callers, account: Account) -> None:
    account.knows("person", "jane@example.com", audiences=[])
    account.knows("ours", audiences=["headrace.dev"])
    account.knows("other", audiences=["vault"])
    account.rights |= {("jane@example.com", "default"), ("jane@example.com", "x"), (ACCOUNT, "team")}
    assert (await callers.authenticate(bearer("person"))).namespace == "default"
    assert (await callers.authenticate(bearer("person"), namespace="x")).namespace == "x"
    assert (await callers.authenticate(bearer("ours"))).token is None
    with pytest.raises(Unauthenticated):
        await callers.authenticate(bearer("other"))
    with pytest.raises(Forbidden, match="'y'"):
        await callers.authenticate(bearer("person"), namespace="y")
    with pytest.raises(Invalid):
        await callers.authenticate(bearer("person"), namespace="../x")


async def test_a_server_that_does_not_say_authenticated_authenticates_nobody(
    callers: Callers, account: Account
) -> None:
    account.users["t"] = {"user": {"username": ACCOUNT}, "audiences": [API]}
    account.users["u"] = {"authenticated": True, "user": {}, "audiences": [API]}
    account.rights.add((ACCOUNT, "team"))
    for token in ("t", "u"):
        with pytest.raises(Unauthenticated):
            await callers.authenticate(bearer(token))


async def test_a_key_ends_on_its_hour_also_while_it_is_kept(callers: Callers, account: Account, clock: Clock) -> None:
    key = account.add_key(expires=(NOW + timedelta(seconds=2)).isoformat(), models="a/b, c/d")
    caller = await callers.authenticate(bearer(key))
    assert (caller.namespace, caller.models, caller.token) == ("team", {"a/b", "c/d"}, None)
    clock.now += 2
    with pytest.raises(Unauthenticated, match=KEY_REFUSED):
        await callers.authenticate(bearer(key))
    assert account.asked == ["Secret"]


async def test_a_revoked_key_is_refused_within_five_seconds(callers: Callers, account: Account, clock: Clock) -> None:
    key = account.add_key()
    await callers.authenticate(bearer(key))
    account.secrets.clear()
    clock.now += 5
    with pytest.raises(Unauthenticated):
        await callers.authenticate(bearer(key))


KEY_ID, KEY = new_key()
DIGEST = bytes.fromhex(key_digest(KEY))
GOOD = {"sha256": key_digest(KEY), "namespace": "team"}


@pytest.mark.parametrize(
    "found",
    [
        {},
        secret("Opaque", **GOOD),
        secret(**{**GOOD, "sha256": key_digest("another")}),
        secret(**{**GOOD, "sha256": ""}),
        secret(**{**GOOD, "namespace": "no/where"}),
        secret(sha256=key_digest(KEY)),
        secret(**GOOD, expires="soon"),
        secret(**GOOD, expires="2026-01-01T00:00:00"),
        secret(**GOOD, models=""),
        secret(**GOOD, models="m"),
        secret(**GOOD, models=" , "),
        {"type": SECRET_TYPE, "data": {**secret(**GOOD)["data"], "expires": "%%%"}},
    ],
)
def test_what_cannot_be_read_admits_nobody(found: dict[str, Any]) -> None:
    assert facts_of(KEY_ID, secret(**GOOD), DIGEST) is not None
    assert facts_of(KEY_ID, found, DIGEST) is None


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("authorization", "Basic eDp5")],
        [("authorization", "Bearer ")],
        [("authorization", "Bearer a b")],
        [("x-api-key", "ä")],
        [("x-api-key", "")],
        [("x-api-key", "a" * 20_000)],
        [("x-api-key", "a"), ("authorization", "Bearer b")],
        [("authorization", "Bearer a"), ("authorization", "Bearer b")],
    ],
    ids=["none", "basic", "empty", "space", "letters", "empty key", "long", "differ", "two"],
)
def test_what_identifies_nobody(headers: list[tuple[str, str]]) -> None:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    with pytest.raises(Unauthenticated):
        credential_of(Headers(raw=raw))


def test_the_same_twice_is_one_and_is_never_shown() -> None:
    found = credential_of(Headers({"authorization": "bearer  secret", "x-api-key": "secret"}))
    assert found.text == "secret"
    assert not found.is_key
    assert "secret" not in repr(found)


def counted(answers: list[int], value: int | None, wait: asyncio.Event | None = None) -> Callable[[], Awaitable[Any]]:
    async def ask() -> int | None:
        answers.append(1)
        if wait is not None:
            await wait.wait()
        return value

    return ask


async def test_many_who_ask_at_once_ask_once_and_one_who_leaves_takes_nothing_away() -> None:
    kept: Kept[int] = Kept(10, 10, clock=lambda: 0.0)
    asked: list[int] = []
    answer = asyncio.Event()
    waiting = [asyncio.create_task(kept.get(b"k", counted(asked, 7, answer))) for _ in range(50)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    answer.set()
    assert await asyncio.gather(*waiting[1:]) == [7] * 49
    assert len(asked) == 1
    assert waiting[0].cancelled()


async def test_a_failure_is_told_to_all_and_not_kept() -> None:
    kept: Kept[int] = Kept(10, 10, clock=lambda: 0.0)

    async def fails() -> int:
        raise Unavailable("away")

    told = await asyncio.gather(*(kept.get(b"k", fails) for _ in range(3)), return_exceptions=True)
    assert [type(each) for each in told] == [Unavailable] * 3
    assert len(kept) == 0
    assert await kept.get(b"k", counted([], 1)) == 1


async def test_a_flood_of_wrong_tokens_is_bounded_and_forgets_no_right_one() -> None:
    kept: Kept[int] = Kept(60, 60, entries=100, questions=4, clock=lambda: 0.0)
    good: list[int] = []
    await kept.get(b"good", counted(good, 1))
    under_way, most = 0, 0

    async def refuses() -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1

    for first in range(0, 1_000, 50):
        await asyncio.gather(*(kept.get(f"bad-{n}".encode(), refuses) for n in range(first, first + 50)))
    await asyncio.sleep(0)
    assert most == 4
    assert len(kept) == 101
    assert await kept.get(b"good", counted(good, 1)) == 1
    assert len(good) == 1
    for n in range(200):
        await kept.get(f"good-{n}".encode(), counted([], 1))
    assert len(kept) == 200


def test_a_server_that_hangs_makes_nobody_wait_for_the_others() -> None:
    async def main() -> None:
        kept: Kept[int] = Kept(60, 60, entries=10, questions=2)

        async def hangs() -> int:
            await asyncio.sleep(10)
            raise Unavailable("late")

        began = asyncio.get_running_loop().time()
        told = await asyncio.gather(*(kept.get(f"{n}".encode(), hangs) for n in range(20)), return_exceptions=True)
        assert [type(each) for each in told] == [Unavailable] * 20
        assert asyncio.get_running_loop().time() - began < 11
        await asyncio.sleep(0)
        assert len(kept) == 0
        assert await kept.get(b"k", counted([], 1)) == 1

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())
