"""What a provider's refusal means for the attempt."""

import pytest

from headrace_crds.outcome import text_result
from headrace_crds.reasons import Reason
from headrace_crds.result import Usage
from headrace_crds.task import Outcome
from headrace_runner.engine.protocol import Usage as EngineUsage
from headrace_runner.remote.refused import Consequence, ProviderRefused
from headrace_runner.verdict import GivenBack, Setback, Verdict, also_spent, of_error


@pytest.mark.parametrize("reason", [Reason.RATE_LIMITED, Reason.PROVIDER_OVERLOADED, Reason.CIRCUIT_OPEN])
def test_a_pause_gives_the_attempt_back(reason: Reason) -> None:
    assert of_error(ProviderRefused(Consequence.RELEASED, reason, "later")) == GivenBack(reason)


def test_a_transient_fault_is_a_setback() -> None:
    refused = ProviderRefused(Consequence.SETBACK, Reason.PROVIDER_UNREACHABLE, "no route")
    assert of_error(refused) == Setback(Reason.PROVIDER_UNREACHABLE, "no route", retryable=True)


def test_a_terminal_fault_fails_the_task_with_what_it_cost() -> None:
    refused = ProviderRefused(Consequence.FAILED, Reason.CONTENT_REFUSED, "refused", EngineUsage(5, 2, 1))
    ending = of_error(refused)
    assert isinstance(ending, Verdict)
    assert (ending.outcome, ending.reason, ending.message) == (Outcome.FAILED, Reason.CONTENT_REFUSED, "refused")
    assert ending.usage == Usage(prompt_tokens=5, cached_tokens=2, completion_tokens=1)
    bare = of_error(ProviderRefused(Consequence.FAILED, Reason.CONTENT_REFUSED, "refused"))
    assert isinstance(bare, Verdict)
    assert bare.usage is None


def test_another_try_in_vain_is_paid_for(verdict: Verdict) -> None:
    spent = Usage(prompt_tokens=5, cached_tokens=2, completion_tokens=1)
    assert also_spent(verdict, spent).usage == Usage(prompt_tokens=8, cached_tokens=2, completion_tokens=2)
    assert also_spent(verdict, None) == verdict
    assert text_result("hi", "Stop", None) == also_spent(verdict, spent).result
