"""Who is told that a budget has no room, until when, and that remote models are not for them."""

from typing import Any

import pytest

from headrace_bus import ModelKey
from headrace_crds.model import LLMModel
from headrace_crds.quota import LLMQuota
from headrace_facade.allowance import needs_model, refused
from headrace_facade.bounds import Bounds
from headrace_facade.errors import BudgetExhausted, FacadeError, Forbidden, RemoteNotAllowed
from headrace_facade.queues import Queues
from headrace_facade.room import Room

NOW_S = 1_800_000_000.0  # 2027-01-15T08:00:00Z
LOCAL = {"local": {"source": {"persistentVolumeClaim": {"claimName": "c", "path": "m.gguf"}}}}
REMOTE = {"remote": {"provider": "OpenAICompatible", "model": "m", "baseURL": "https://llm.example.com/v1"}}
PRICE = {"inputPerMillionTokens": "1", "outputPerMillionTokens": "1"}
# 5 tokens of input, 8 for the message, 37 of the result.
MADE = {
    "metadata": {"name": "t"},
    "spec": {"modelRef": {"name": "m"}, "prompt": "x" * 15, "parameters": {"maxTokens": 37}},
}


def model(**spec: Any) -> LLMModel:
    return LLMModel.model_validate({"metadata": {"name": "m", "namespace": "ns"}, "spec": spec})


def quota(*spent: int, resets: str = "2027-01-15T08:00:30Z", currency: str = "USD", **spec: Any) -> LLMQuota:
    status = None
    if spent:
        tokens, micros = spent
        told = {"window": "Hourly", "currency": currency, "tokensSpent": tokens, "costMicrosSpent": micros}
        status = {"budgets": [{**told, "tokensReserved": 9_999, "costMicrosReserved": 9_999, "resetTime": resets}]}
    return LLMQuota.model_validate({"metadata": {"name": "default"}, "spec": spec, "status": status})


def hourly(**bounds: Any) -> dict[str, Any]:
    return {"budgets": [{"window": "Hourly", **bounds}]}


FREE, PRICED, FAR = model(**LOCAL), model(**LOCAL, price=PRICE), model(**REMOTE, price={**PRICE, "currency": "EUR"})


@pytest.mark.parametrize(
    ("asked", "about", "full"),
    [
        (quota(50, 0, **hourly(tokens=100)), FREE, False),
        (quota(51, 0, **hourly(tokens=100)), FREE, True),
        (quota(51, 0, **hourly(tokens=100)), None, False),
        (quota(100, 0, **hourly(tokens=100)), None, True),
        (quota(0, 50, **hourly(costMicros=100)), PRICED, False),
        (quota(0, 51, **hourly(costMicros=100)), PRICED, True),
        (quota(0, 100, **hourly(costMicros=100)), FREE, False),
        (quota(0, 100, **hourly(costMicros=100)), FAR, False),
        (quota(0, 100, currency="EUR", **hourly(costMicros=100, currency="EUR")), FAR, True),
        # Of another budget, of none, of a window that is over.
        (quota(0, 100, currency="EUR", **hourly(costMicros=100)), PRICED, False),
        (quota(**hourly(tokens=1)), FREE, False),
        (quota(99, 99, resets="2027-01-15T08:00:00Z", **hourly(tokens=1)), FREE, False),
        (quota(99, 99, resets="soon", **hourly(tokens=1)), FREE, False),
    ],
)
def test_a_budget_refuses_what_does_not_fit_beside_what_is_spent(
    asked: LLMQuota, about: LLMModel | None, full: bool
) -> None:
    told = refused("ns", asked, about, MADE, NOW_S)
    assert (told is not None) == full
    if told is not None:
        assert isinstance(told, BudgetExhausted)
        assert (told.status, told.headers) == (429, {"Retry-After": "30"})
        assert "2027-01-15T08:00:30Z" in told.message


def test_remote_models_are_forbidden_where_the_quota_says_so() -> None:
    told = refused("ns", quota(remoteModels=False), FAR, MADE, NOW_S)
    assert isinstance(told, RemoteNotAllowed)
    assert told.status == 403
    for asked, about in ((quota(remoteModels=False), FREE), (quota(remoteModels=False), None), (quota(), FAR)):
        assert refused("ns", asked, about, MADE, NOW_S) is None
    assert [needs_model(each) for each in (quota(), quota(remoteModels=True), quota(remoteModels=False))] == [
        False,
        False,
        True,
    ]
    assert needs_model(quota(**hourly(tokens=1)))


def test_a_task_that_does_not_read_is_left_to_the_api_server() -> None:
    assert refused("ns", quota(1, 1, **hourly(tokens=100)), FREE, {"spec": {}}, NOW_S) is None


class Kube:
    """Counts what is asked."""

    def __init__(self, answer: LLMModel | FacadeError, asked: LLMQuota) -> None:
        self.models = 0
        self._answer, self._quota = answer, asked

    async def get_quota(self, namespace: str, token: str) -> dict[str, Any]:
        return self._quota.dump()

    async def get_model(self, namespace: str, name: str, token: str) -> dict[str, Any]:
        self.models += 1
        if isinstance(self._answer, FacadeError):
            raise self._answer
        return self._answer.dump()


async def test_the_model_is_read_only_where_it_decides() -> None:
    full = quota(100, 0, resets="9000-01-01T00:00:00Z", **hourly(tokens=100))
    for answer, asked, refusal, reads in (
        (FAR, quota(maxQueuedTasks=5), None, 0),
        (FAR, quota(remoteModels=False), RemoteNotAllowed, 1),
        (Forbidden("no"), quota(remoteModels=False), None, 1),
        (Forbidden("no"), full, BudgetExhausted, 1),
    ):
        kube = Kube(answer, asked)
        room = Room(kube, Queues(None), Bounds())  # type: ignore[arg-type]  # stands in for the client
        told = await room.refusal("ns", ModelKey("ns", "m"), "alice", MADE)
        assert (None if told is None else type(told)) is refusal
        assert kube.models == reads
