"""The command as a user types it, with a kubeconfig of the test's namespace."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from headrace_cli.main import main
from tests.contract.conftest import Kubectl


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


Headrace = Callable[..., Ended]


@pytest.fixture
def kubeconfig_file(kubectl: Kubectl, namespace: str, tmp_path: Path) -> Path:
    """The administrator's, whose context names the test's namespace."""
    config = yaml.safe_load(Path(kubectl.kubeconfig).read_text(encoding="utf-8"))
    config["contexts"][0]["context"]["namespace"] = namespace
    file = tmp_path / "kubeconfig"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    return file


@pytest.fixture
def headrace(kubeconfig_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Headrace:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig_file))

    def called(*args: str) -> Ended:
        monkeypatch.setattr("sys.argv", ["headrace", *args])
        code = main()
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return called
