"""A real Redis with the configuration and the users that the chart gives its own."""

import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from headrace_bus import FACADE_ACL, OPERATOR_ACL, ModelKey
from headrace_bus.acl import acl_rules
from tests.contract.chart.conftest import Helm, named

pytestmark = pytest.mark.contract


@contextmanager
def served(helm: Helm, folder: Path, timeout_s: int = 300) -> Iterator[tuple[int, dict[str, str]]]:
    """A real Redis with the chart's own configuration and users. Yields its port and the Secret."""
    rendered = helm.render()
    config = named(rendered, "ConfigMap", "headrace-redis")["data"]["redis.conf"]
    secret: dict[str, str] = named(rendered, "Secret", "headrace-redis")["stringData"]
    port = 20000 + int(time.time() * 1000) % 20000
    config = config.replace("/etc/redis/", f"{folder}/").replace("dir /data", f"dir {folder}")
    config = config.replace("port 6379", f"port {port}").replace("bind * -::*", "bind 127.0.0.1")
    assert "\ntimeout 300\n" in config
    config = config.replace("\ntimeout 300\n", f"\ntimeout {timeout_s}\n")
    (folder / "redis.conf").write_text(config, encoding="utf-8")
    (folder / "users.acl").write_text(secret["users.acl"], encoding="utf-8")
    log = (folder / "log").open("wb")
    with log, subprocess.Popen(["redis-server", str(folder / "redis.conf")], stdout=log, stderr=log) as server:
        try:
            deadline = time.monotonic() + 10
            while b"Ready to accept" not in (folder / "log").read_bytes():
                assert server.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.02)
            yield port, secret
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def own_redis(helm: Helm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, dict[str, str]]]:
    with served(helm, tmp_path_factory.mktemp("redis")) as it:
        yield it


def test_redis_starts_with_the_charts_configuration(own_redis: tuple[int, dict[str, str]]) -> None:
    port, secret = own_redis
    url = secret["operator-url"].split("@")[0] + f"@127.0.0.1:{port}/0"
    with redis.Redis.from_url(url) as operator:
        memory = operator.info("memory")
        assert memory["maxmemory_policy"] == "noeviction"
        assert memory["maxmemory"] == 256 * 1024 * 1024
        rules = acl_rules(ModelKey("ns", "model"))
        operator.execute_command("ACL", "SETUSER", "ns/model", "reset", "on", ">" + "x" * 20, *rules)
        with pytest.raises(redis.exceptions.NoPermissionError):
            operator.execute_command("CONFIG", "SET", "maxmemory", "0")
        with pytest.raises(redis.exceptions.NoPermissionError):
            operator.set("other", "1")
    with redis.Redis(port=port, username="ns/model", password="x" * 20) as runner:
        runner.set("headrace:{ns/model}:seq", "1")
        with pytest.raises(redis.exceptions.NoPermissionError):
            runner.set("headrace:{ns/other}:seq", "1")


def test_the_facades_user_moves_calls_and_reads_no_prompt(own_redis: tuple[int, dict[str, str]]) -> None:
    port, secret = own_redis
    url = secret["facade-url"].split("@")[0] + f"@127.0.0.1:{port}/0"
    with redis.Redis.from_url(url) as facade:
        assert facade.zcard("headrace:{ns/model}:queued") == 0
        refused: list[tuple[str, ...]] = [
            ("HSET", "headrace:{ns/model}:weights", "ns", "9"),
            ("SET", "headrace:{ns/model}:result:u", "1"),
            ("SET", "headrace:{ns/model}:report:w", "1"),
            ("GET", "headrace:{ns/model}:envelope:u"),
            ("GET", "headrace:{ns/model}:parked:u"),
            ("GET", "headrace:rate:{aa}:full"),
            ("SADD", "headrace:models", "ns/model"),
            ("EVAL", "return 1", "0"),
            ("KEYS", "*"),
        ]
        for command in refused:
            with pytest.raises(redis.exceptions.NoPermissionError):
                facade.execute_command(*command)
        assert facade.hset("headrace:rate:{aa}:full", "requests", "1") == 1


def test_redis_ends_idle_connections_and_not_those_that_wait(helm: Helm, tmp_path: Path) -> None:
    """At one second instead of 300: a blocked reader and a subscriber stay, and a pool connects again by itself."""
    with served(helm, tmp_path, timeout_s=1) as (port, secret):
        url = secret["operator-url"].split("@")[0] + f"@127.0.0.1:{port}/0"
        with (
            redis.Redis.from_url(url) as operator,
            redis.Redis.from_url(url) as reader,
            redis.Redis.from_url(url) as watcher,
            watcher.pubsub() as subscription,
            redis.Redis.from_url(url, single_connection_client=True, retry=None) as idle,
            ThreadPoolExecutor(1) as pool,
        ):
            subscription.psubscribe("headrace:wake:*")
            subscription.get_message(timeout=5)
            before = idle.info("clients")
            assert before["maxclients"] == 2000
            blocked = pool.submit(reader.blpop, ["headrace:{a/b}:wake"], 20)
            deadline = time.monotonic() + 15
            # The rest: this one, the blocked reader and the subscriber.
            while (left := operator.info("clients")["connected_clients"]) > 3:
                assert time.monotonic() < deadline, left
                time.sleep(0.1)
            with pytest.raises(redis.exceptions.ConnectionError):
                idle.connection.read_response()
            operator.publish("headrace:wake:a/b", "x")
            message = subscription.get_message(timeout=5)
            assert message is not None
            assert message["data"] == b"x"
            operator.rpush("headrace:{a/b}:wake", "y")
            assert blocked.result(5) == (b"headrace:{a/b}:wake", b"y")
            # Its connection was idle since then, and closed.
            deadline = time.monotonic() + 15
            while operator.info("clients")["connected_clients"] > 2:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            assert reader.ping()


def test_redis_admits_nobody_without_a_password_but_the_probe(own_redis: tuple[int, dict[str, str]]) -> None:
    port, _ = own_redis
    with redis.Redis(port=port) as stranger, pytest.raises(redis.exceptions.AuthenticationError):
        stranger.ping()
    with redis.Redis(port=port, username="health", password="health") as probe:
        assert probe.ping()
        with pytest.raises(redis.exceptions.NoPermissionError):
            probe.get("headrace:models")


def test_the_probe_asks_what_redis_answers(helm: Helm, own_redis: tuple[int, dict[str, str]]) -> None:
    port, _ = own_redis
    pod = named(helm.render(), "StatefulSet", "headrace-redis")["spec"]["template"]["spec"]
    command = pod["containers"][0]["readinessProbe"]["exec"]["command"]
    here = [word.replace("redis-cli", f"redis-cli -p {port}") for word in command]
    assert subprocess.run(here, check=False).returncode == 0
    gone = [word.replace("redis-cli", "redis-cli -p 1") for word in command]
    assert subprocess.run(gone, check=False, stderr=subprocess.DEVNULL).returncode != 0


def test_redis_users_have_the_buses_rules(helm: Helm) -> None:
    users = named(helm.render(), "Secret", "headrace-redis")["stringData"]["users.acl"].splitlines()
    rules = {line.split()[1]: line.split()[2:] for line in users}
    assert rules["operator"][2:] == list(OPERATOR_ACL)
    # A selector is one rule of several words.
    assert rules["facade"][2:] == " ".join(FACADE_ACL).split()
    assert set(rules) == {"default", "health", "operator", "facade"}
    assert rules["default"][0] == "off"
