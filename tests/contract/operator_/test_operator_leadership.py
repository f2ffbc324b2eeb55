"""Two replicas, one Lease."""

from cluster_world import Cluster, Operator, StartOperator, until

from headrace_bus import Bus, EntryState, ModelKey


def holder(cluster: Cluster) -> str:
    lease = cluster.get("lease", "headrace-operator")
    return str((lease or {}).get("spec", {}).get("holderIdentity", ""))


async def test_one_leads_and_the_other_takes_over_when_it_is_killed(
    start: StartOperator, cluster: Cluster, bus: Bus, key: ModelKey
) -> None:
    first = start("operator-a")
    await until(first.leads)
    second = start("operator-b")
    await until(second.ready)
    assert holder(cluster) == "operator-a"
    assert not await second.leads()

    first.kill()
    await until(second.leads)
    assert holder(cluster) == "operator-b"
    cluster.model()
    uid = cluster.task("served-by-the-second")

    async def queued() -> bool:
        entry = await bus.inspect(key, uid)
        return entry is not None and entry.state is EntryState.QUEUED

    await until(queued)


async def test_a_leader_that_stops_gives_the_lease_back(start: StartOperator, cluster: Cluster) -> None:
    # So long that taking over without a release would miss the deadline.
    first = start("operator-a", HEADRACE_ELECTION_LEASE_SECONDS="60")
    await until(first.leads)
    assert first.stop() == 0
    assert holder(cluster) == ""
    second = start("operator-b", HEADRACE_ELECTION_LEASE_SECONDS="60")
    await until(second.leads)


async def test_a_deposed_leader_ends(operator: Operator, cluster: Cluster) -> None:
    thief = {"spec": {"holderIdentity": "thief", "leaseDurationSeconds": 3600}}
    cluster.patch("lease", "headrace-operator", thief)
    assert operator.process is not None

    async def ended() -> bool:
        return operator.process is not None and operator.process.poll() is not None

    await until(ended)
    assert operator.process.returncode == 1
    assert holder(cluster) == "thief", "a lost lease is not given back"


async def test_an_api_server_that_refuses_everything_ends_the_process(start: StartOperator, cluster: Cluster) -> None:
    """A watcher that cannot go on must not leave a process that looks alive."""
    operator = start()
    await until(operator.leads)
    cluster.delete("rolebinding", "operator")

    async def ended() -> bool:
        return operator.process is not None and operator.process.poll() is not None

    await until(ended, within_seconds=60)
    assert operator.process is not None
    assert operator.process.returncode == 1
