"""Settings of a remote model's runner, its provider by name, and its key."""

import os
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from headrace_crds.model import Capability
from headrace_crds.reasons import Reason
from headrace_crds.remote import Remote
from headrace_runner.engine.client import Stage
from headrace_runner.providers import registry
from headrace_runner.providers.credential import MAX_BYTES, CredentialFile
from headrace_runner.providers.protocol import ENTRY_POINT_GROUP, Fault, ProviderError, Setting
from headrace_runner.providers.registry import ProviderNotFound, find
from headrace_runner.remote.call_gate import FreeGate
from headrace_runner.remote.making import remote_backend
from headrace_runner.remote.settings import RemoteSettings
from headrace_runner.settings import RunnerSettings, SettingsError
from headrace_runner.slots import PARKED_LIMIT, Slots

REQUIRED = {"HEADRACE_MODEL": "team/gpt", "HEADRACE_POD": "p-0"}
REMOTE = Remote.model_validate(
    {"provider": "OpenAICompatible", "model": "m", "baseURL": "https://llm.example.com/v1", "maxConcurrency": 300}
)


def read(**given: str) -> RunnerSettings:
    remote = given.pop("remote", REMOTE.model_dump_json(by_alias=True, exclude_none=True))
    return RunnerSettings.from_environment({**REQUIRED, "HEADRACE_REMOTE": remote, **given})


def test_a_remote_models_settings_are_read() -> None:
    settings = read(
        HEADRACE_CAPABILITIES="Chat, Embedding",
        HEADRACE_ALLOWED_HOSTS="llm.example.com,llm.example.com:8443",
        HEADRACE_EXEMPT_HOSTS="10.0.0.1:80",
        HEADRACE_CREDENTIAL_FILE="/keys/one",
    )
    remote = settings.remote
    assert remote is not None
    assert remote.remote == REMOTE
    assert remote.capabilities == {Capability.CHAT, Capability.EMBEDDING}
    assert [(str(each.host), each.port) for each in remote.allowed] == [
        ("llm.example.com", None),
        ("llm.example.com", 8443),
    ]
    assert [(str(each.host), each.port) for each in remote.exempt] == [("10.0.0.1", 80)]
    assert remote.credential_file == Path("/keys/one")
    # As many as the model's calls, whatever bounds a local engine.
    assert settings.parallelism == 300
    assert read(HEADRACE_PARALLELISM="7").parallelism == 7


def test_a_remote_model_has_defaults_and_a_local_one_has_none_of_it() -> None:
    remote = read().remote
    assert remote == RemoteSettings(REMOTE)
    assert remote.credential_file == Path("/etc/headrace/credentials/key")
    assert remote.capabilities == {Capability.CHAT, Capability.COMPLETION}
    assert RunnerSettings.from_environment(REQUIRED).remote is None


def test_extra_members_are_parsed() -> None:
    with_body = REMOTE.model_copy(update={"extra_body": '{"reasoning_effort": "low"}'})
    remote = read(remote=with_body.model_dump_json(by_alias=True, exclude_none=True)).remote
    assert remote is not None
    assert remote.extra_body == {"reasoning_effort": "low"}


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"remote": "{"}, "HEADRACE_REMOTE"),
        ({"remote": '{"provider": "OpenAI"}'}, "HEADRACE_REMOTE.*model: missing"),
        ({"remote": '{"provider": "sk-secret", "model": "m"}'}, "HEADRACE_REMOTE.*provider"),
        ({"remote": '{"provider": "OpenAI", "model": "m", "extraBody": "[1]"}'}, "extraBody"),
        ({"remote": '{"provider": "OpenAI", "model": "m", "extraBody": "{sk-secret"}'}, "extraBody"),
        ({"HEADRACE_CAPABILITIES": "Chat,sk-secret"}, "HEADRACE_CAPABILITIES.*Completion"),
        ({"HEADRACE_ALLOWED_HOSTS": "https://a.example"}, "HEADRACE_ALLOWED_HOSTS"),
        ({"HEADRACE_EXEMPT_HOSTS": "a.example:x"}, "HEADRACE_EXEMPT_HOSTS"),
        ({"HEADRACE_PARALLELISM": "1025"}, "HEADRACE_PARALLELISM"),
    ],
)
def test_a_wrong_setting_is_named_and_not_quoted(given: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError, match=named) as caught:
        read(**given)
    assert "sk-secret" not in str(caught.value)


def test_results_of_many_calls_do_not_fill_the_memory() -> None:
    slots = Slots(1024)
    for _ in range(PARKED_LIMIT):
        slots.take()
        slots.park()
    assert slots.free == 0


def plugin(folder: Path, name: str, target: str) -> None:
    info = folder / "their_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[headrace.providers]\n{name} = {target}\n")
    (folder / "their_plugin.py").write_text("def create(setting):\n    return setting.remote.model\n\nnothing = None\n")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "their_plugin", raising=False)
    return tmp_path


def test_another_distributions_provider_is_found(folder: Path) -> None:
    plugin(folder, "Theirs", "their_plugin:create")
    setting: Any = Setting(REMOTE, http=None, credential=str)  # type: ignore[arg-type]  # it calls nobody
    assert find("Theirs")(setting) == "m"  # type: ignore[comparison-overlap]  # a factory of this test


def test_a_builtin_name_cannot_be_taken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin(folder, "HTTP", "their_plugin:create")
    (folder / "ours.py").write_text("def create(setting):\n    return 'ours'\n")
    ours = EntryPoint("HTTP", "ours:create", ENTRY_POINT_GROUP)
    monkeypatch.setitem(registry.BUILT_IN, "HTTP", ours)
    assert find("HTTP").__module__ == "ours"


def test_an_unknown_provider_is_told_which_there_are(folder: Path) -> None:
    plugin(folder, "Theirs", "their_plugin:create")
    with pytest.raises(ProviderNotFound, match=r"'Nobody'.*Anthropic, HTTP, OpenAI, OpenAICompatible, Theirs"):
        find("Nobody")


@pytest.mark.parametrize("target", ["their_plugin:missing", "no_such_module:create", "their_plugin:nothing"])
def test_a_provider_that_cannot_be_loaded_is_named(folder: Path, target: str) -> None:
    plugin(folder, "Theirs", target)
    with pytest.raises(ProviderNotFound, match=f"Theirs .*{target}"):
        find("Theirs")


async def test_a_model_whose_provider_is_missing_says_so_and_closes() -> None:
    settings = RemoteSettings(REMOTE.model_copy(update={"provider": "Nobody"}))
    backend = remote_backend(settings, FreeGate())
    assert await backend._start()
    assert (backend.state().state, backend.state().reason) == (Stage.FAILED, Reason.PROVIDER_NOT_FOUND)
    await backend.aclose()


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return tmp_path / "key"


def test_a_key_is_read_without_its_newline_and_anew_when_it_changes(
    key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_file.write_text("sk-one\n")
    credential = CredentialFile(key_file)
    assert (credential(), credential()) == ("sk-one", "sk-one")
    # As the kubelet does it: another file takes its place.
    other = key_file.with_name("other")
    other.write_text("sk-two")
    other.replace(key_file)
    assert credential() == "sk-two"
    # What has not changed is not read again.
    monkeypatch.setattr(Path, "open", None)
    assert credential() == "sk-two"


def test_a_key_written_in_place_is_noticed(key_file: Path) -> None:
    key_file.write_text("sk-one")
    credential = CredentialFile(key_file)
    assert credential() == "sk-one"
    key_file.write_text("sk-two")
    os.utime(key_file, ns=(1, 1))
    assert credential() == "sk-two"


@pytest.mark.parametrize(
    "raw", ["", "\n", " \n", "sk-one\nsk-two", "sk-one\n\n", "sk-one\r\n", " sk-one", "sk-é", "sk-\x00", "x" * 20_000]
)
def test_what_is_no_key_is_refused_and_not_quoted(key_file: Path, raw: str) -> None:
    assert MAX_BYTES < 20_000
    key_file.write_bytes(raw.encode())
    with pytest.raises(ProviderError) as caught:
        CredentialFile(key_file)()
    assert (caught.value.fault, caught.value.reason) == (Fault.UNAVAILABLE, Reason.CREDENTIALS_REFUSED)
    assert "secretKeyRef" in caught.value.message
    assert "sk-" not in caught.value.message


def test_a_missing_key_is_told_and_found_when_it_comes(key_file: Path) -> None:
    credential = CredentialFile(key_file)
    with pytest.raises(ProviderError, match="CredentialsNotFound"):
        credential()
    key_file.write_text("sk-one")
    assert credential() == "sk-one"
