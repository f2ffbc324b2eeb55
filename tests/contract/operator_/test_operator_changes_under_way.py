"""Models change and operators freeze while tasks run; nothing is lost, charged or done twice."""

import asyncio
import signal
import time

from cluster_world import CHILD_KINDS, MODEL, RUNNER, Cluster, Operator, StartOperator, until
from redis.asyncio import Redis

from headrace_bus import Bus, EntryState, ModelKey
from headrace_operator.decide.children import redis_user
from headrace_operator.refs import ModelRef


async def in_state(bus: Bus, key: ModelKey, uid: str, state: EntryState, attempt: int) -> bool:
    entry = await bus.inspect(key, uid)
    return entry is not None and (entry.state, entry.attempt) == (state, attempt)


async def test_another_spec_rolls_the_runner_and_leaves_the_tasks_alone(
    operator: Operator, cluster: Cluster, bus: Bus, key: ModelKey
) -> None:
    cluster.model()
    uid = cluster.task("running")
    await until(lambda: in_state(bus, key, uid, EntryState.QUEUED, 1))
    (delivery,) = await bus.claim(key, worker="pod-a", count=1, lease_ms=60_000)

    async def generation() -> str:
        found = cluster.get("deployment", RUNNER)
        return found["spec"]["template"]["metadata"]["annotations"]["headrace.dev/spec-generation"] if found else ""

    async def is_generation(number: str) -> bool:
        return await generation() == number

    await until(lambda: is_generation("1"))
    cluster.patch("llmmodel", MODEL, {"spec": {"local": {"parallelism": 3}}})
    await until(lambda: is_generation("2"))
    assert await in_state(bus, key, uid, EntryState.LEASED, 1)
    assert await bus.renew(key, [delivery.token], lease_ms=60_000) == [True]
    assert cluster.status("running")["attempt"] == 1


async def test_pods_of_a_deleted_account_are_replaced_and_their_tasks_go_on(
    start: StartOperator, cluster: Cluster, bus: Bus, key: ModelKey
) -> None:
    operator = start(HEADRACE_SWEEP_SECONDS="1")
    await until(operator.leads)
    cluster.model()
    uid = cluster.task("running")
    await until(lambda: in_state(bus, key, uid, EntryState.QUEUED, 1))
    await bus.claim(key, worker="pod-a", count=1, lease_ms=60_000)

    async def pods_are_of(account: str) -> bool:
        found = cluster.get("deployment", RUNNER)
        annotations = found["spec"]["template"]["metadata"]["annotations"] if found else {}
        return annotations.get("headrace.dev/service-account-uid") == account

    async def account_uid() -> str:
        found = cluster.get("serviceaccount", RUNNER)
        return found["metadata"]["uid"] if found else ""

    before = await until(account_uid)
    await until(lambda: pods_are_of(before))
    cluster.delete("serviceaccount", RUNNER)

    async def another() -> str:
        return "" if await account_uid() == before else await account_uid()

    after = await until(another, 30)
    await until(lambda: pods_are_of(after))
    found = cluster.get("deployment", RUNNER)
    assert found is not None
    assert found["metadata"]["generation"] == 2, "rolled once"
    assert await in_state(bus, key, uid, EntryState.LEASED, 1)


async def test_scaled_to_zero_while_running_the_task_waits_for_the_next_runner_uncharged(
    operator: Operator, cluster: Cluster, bus: Bus, key: ModelKey
) -> None:
    cluster.model()
    uid = cluster.task("patient")
    await until(lambda: in_state(bus, key, uid, EntryState.QUEUED, 1))
    (delivery,) = await bus.claim(key, worker="pod-a", count=1, lease_ms=60_000)
    cluster.patch("llmmodel", MODEL, {"spec": {"replicas": 0}})
    await bus.release(key, delivery.token, "RunnerStopped")
    await until(lambda: in_state(bus, key, uid, EntryState.QUEUED, 2))

    async def told(reason: str) -> bool:
        return cluster.status("patient").get("reason") == reason

    await until(lambda: told("ModelScaledToZero"))
    cluster.patch("llmmodel", MODEL, {"spec": {"replicas": 1}})
    await until(lambda: told("ModelLoading"))
    (again,) = await bus.claim(key, worker="pod-b", count=1, lease_ms=60_000)
    assert again.token.attempt == 2
    status = cluster.status("patient")
    assert (status["attempt"], status["retries"]) == (2, 0)
    assert [record["outcome"] for record in status["attempts"]] == ["Released"]


async def test_a_model_made_again_while_no_operator_ran_gets_an_empty_queue_and_new_credentials(
    operator: Operator, cluster: Cluster, bus: Bus, key: ModelKey, redis: Redis
) -> None:
    cluster.model()
    uid = cluster.task("leased")
    await until(lambda: in_state(bus, key, uid, EntryState.QUEUED, 1))
    user = redis_user(ModelRef(*key))

    async def password() -> list[str]:
        found = await redis.acl_getuser(user)
        return list(found["passwords"]) if found else []

    before = await until(password)
    (delivery,) = await bus.claim(key, worker="pod-a", count=1, lease_ms=60_000)
    operator.kill()
    cluster.delete("llmmodel", MODEL)
    # Creation times are whole seconds.
    created_after = time.time() + 1.1
    while time.time() < created_after:  # noqa: ASYNC110  the API server's clock has no event
        await asyncio.sleep(0.1)
    cluster.collect()
    cluster.model()
    operator.start()
    await until(lambda: in_state(bus, key, uid, EntryState.QUEUED, 2))
    assert await bus.renew(key, [delivery.token], lease_ms=1_000) == [False]
    assert await password() != before
    status = cluster.status("leased")
    assert (status["attempt"], status["retries"], status["attempts"][0]["outcome"]) == (2, 0, "Released")


async def test_a_frozen_leader_that_wakes_up_repeats_nothing(
    start: StartOperator, cluster: Cluster, bus: Bus, key: ModelKey
) -> None:
    first = start("operator-a")
    await until(first.leads)
    second = start("operator-b")
    await until(second.ready)
    cluster.model()
    uids = {f"task-{n}": cluster.task(f"task-{n}") for n in range(5)}
    for uid in uids.values():
        await until(lambda uid=uid: in_state(bus, key, uid, EntryState.QUEUED, 1))
    tokens = [d.token for d in await bus.claim(key, worker="pod-a", count=5, lease_ms=60_000)]
    assert first.process is not None
    first.process.send_signal(signal.SIGSTOP)
    # What the frozen one has to do when it wakes up, the other does meanwhile.
    for token in tokens:
        await bus.release(key, token, "RunnerStopped")
    await until(second.leads)
    for uid in uids.values():
        await until(lambda uid=uid: in_state(bus, key, uid, EntryState.QUEUED, 2))
    first.process.send_signal(signal.SIGCONT)

    async def ended() -> bool:
        return first.process is not None and first.process.poll() is not None

    await until(ended)
    for name, uid in uids.items():
        status = cluster.status(name)
        assert (status["attempt"], status["retries"], len(status["attempts"])) == (2, 0, 1)
        assert await in_state(bus, key, uid, EntryState.QUEUED, 2)
    assert await second.leads()


async def test_a_child_that_somebody_deleted_comes_back_with_the_next_sweep(
    operator: Operator, cluster: Cluster
) -> None:
    cluster.model()

    async def complete() -> bool:
        return all(cluster.get(kind, RUNNER) is not None for kind in CHILD_KINDS)

    await until(complete)
    for kind in ("rolebinding", "serviceaccount", "secret", "networkpolicy"):
        cluster.delete(kind, RUNNER)
        await until(complete)


async def test_an_edit_after_the_end_is_observed(operator: Operator, cluster: Cluster, bus: Bus, key: ModelKey) -> None:
    cluster.model()
    uid = cluster.task("done")
    await until(lambda: in_state(bus, key, uid, EntryState.QUEUED, 1))
    (delivery,) = await bus.claim(key, worker="pod-a", count=1, lease_ms=60_000)
    cluster.commit("done", 1)
    await bus.complete(key, delivery.token)
    cluster.patch("llmtask", "done", {"spec": {"priority": 7}})

    async def observed() -> bool:
        return cluster.status("done").get("observedGeneration") == 2

    await until(observed)
    assert cluster.status("done")["outcome"] == "Complete"


async def test_two_hundred_tasks_at_once_are_queued_soon(
    operator: Operator, cluster: Cluster, bus: Bus, key: ModelKey
) -> None:
    cluster.model()
    for n in range(200):
        cluster.task(f"task-{n}")
    made = time.monotonic()

    async def all_queued() -> bool:
        return (await bus.stats(key)).queued == 200

    # A machine that others use as well needs minutes for what takes seconds.
    await until(all_queued, within_seconds=180)
    print(f"200 tasks: the last is queued {time.monotonic() - made:.1f} s after it was made")
