"""Exit codes and messages of the commands, as far as no engine is needed."""

import io
import json
from pathlib import Path

import pytest

from headrace_cli.local_task import Finished
from headrace_cli.main import main
from headrace_cli.printing import render
from headrace_crds import Outcome
from tests.unit.cli.manifest_cases import model, task

VALID = json.dumps(task("").manifest())
INVALID = json.dumps(task("", promt="x").manifest())
ELSEWHERE = json.dumps(task("", modelRef={"name": "m", "namespace": "elsewhere"}).manifest())
INPUT = {"configMapKeyRef": {"name": "long", "key": "text"}}
FROM_CONFIG_MAP = json.dumps(task("", prompt=..., inputFrom=INPUT).manifest())
MODEL = json.dumps(model("", called="m").manifest())
REMOTE = json.dumps(
    {
        "apiVersion": "headrace.dev/v1alpha1",
        "kind": "LLMModel",
        "metadata": {"name": "m"},
        "spec": {"remote": {"provider": "HTTPish", "model": "x", "baseURL": "https://llm.example.com"}},
    }
)


@pytest.fixture
def headrace(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> "Headrace":
    return Headrace(monkeypatch, capsys)


class Headrace:
    """Calls the command; gives exit code, stdout and stderr."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *args: object, stdin: str = "") -> tuple[int, str, str]:
        self._monkeypatch.setattr("sys.argv", ["headrace", *map(str, args)])
        self._monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        code = main()
        captured = self._capsys.readouterr()
        return code, captured.out, captured.err


def test_validate_says_what_is_valid(headrace: Headrace, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(VALID)
    code, out, err = headrace("validate", "-f", tmp_path / "a.yaml")
    assert (code, err) == (0, "")
    assert "LLMTask/case is valid" in out


def test_validate_reads_folders_and_stdin(headrace: Headrace, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/a.yml").write_text(VALID)
    (tmp_path / "b.json").write_text(MODEL)
    (tmp_path / "notes.txt").write_text("no manifest")
    code, out, _ = headrace("validate", "-f", tmp_path, "-f", "-", stdin=VALID.replace("case", "piped"))
    assert code == 0
    assert len(out.splitlines()) == 3
    assert "stdin:1: LLMTask/piped is valid" in out


def test_validate_fails_on_a_mistake(headrace: Headrace) -> None:
    code, out, err = headrace("validate", "-f", "-", stdin=INVALID)
    assert (code, out) == (2, "")
    assert "spec.promt: unknown field: did you mean prompt?" in err
    assert "1 mistake" in err


@pytest.mark.parametrize("text", ["", "\n", "# a comment\n", "---\n---\n"])
def test_an_empty_input_is_no_manifest(headrace: Headrace, text: str) -> None:
    assert headrace("validate", "-q", "-f", "-", stdin=text) == (2, "", "no manifest\n")


def test_a_task_above_the_quota_beside_it(headrace: Headrace) -> None:
    def judged(priority: int, **metadata: str) -> tuple[int, str, str]:
        above = task("", priority=priority).manifest()
        above["metadata"] |= metadata
        quota = {**above, "kind": "LLMQuota", "metadata": {"name": "default"}, "spec": {"priorityCeiling": 5}}
        return headrace("validate", "-q", "-f", "-", stdin=f"{json.dumps(above)}\n---\n{json.dumps(quota)}")

    code, _, err = judged(6)
    assert code == 2
    assert "spec.priority: 6 is above the priorityCeiling of default's LLMQuota: at most 5" in err
    assert judged(5) == (0, "", "")
    assert judged(6, namespace="elsewhere") == (0, "", "")


def test_quiet_prints_mistakes_only(headrace: Headrace) -> None:
    assert headrace("validate", "-q", "-f", "-", stdin=VALID + "\n---\n{apiVersion: v1, kind: Pod}\n") == (0, "", "")


@pytest.mark.parametrize("command", ["validate", "run"])
def test_what_cannot_be_read_is_named(headrace: Headrace, tmp_path: Path, command: str) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert headrace(command, "-f", tmp_path / "none.yaml")[::2] == (
        2,
        f"{tmp_path}/none.yaml: No such file or directory\n",
    )
    assert "not UTF-8" in headrace(command, "-f", tmp_path / "binary.yaml")[2]
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no manifest" in headrace(command, "-f", empty)[2]


@pytest.mark.parametrize(
    ("manifests", "says"),
    [
        (INVALID, "unknown field"),
        (MODEL, "nothing to run"),
        (VALID, "no such LLMModel"),
        (f"{ELSEWHERE}\n---\n{MODEL}", "no such LLMModel"),
        (f"{FROM_CONFIG_MAP}\n---\n{MODEL}", "put the text into spec.prompt"),
        (f"{VALID}\n---\n{MODEL.replace('metadata', 'metadata')}", "--weights FILE"),
        (f"{VALID}\n---\n{REMOTE}", "LLMModel m is remote: `headrace run` executes local models alone"),
    ],
)
def test_run_refuses_what_it_cannot_execute(headrace: Headrace, manifests: str, says: str) -> None:
    code, out, err = headrace("run", "-f", "-", stdin=manifests)
    assert (code, out) == (2, "")
    assert says in err


def test_run_names_the_file_that_is_missing(headrace: Headrace, tmp_path: Path) -> None:
    both = f"{VALID}\n---\n{MODEL}"
    code, _, err = headrace("run", "-f", "-", "--weights", tmp_path / "no.gguf", stdin=both)
    assert code == 2
    assert f"no file {tmp_path}/no.gguf" in err
    code, _, err = headrace("run", "-f", "-", "--model-dir", tmp_path, stdin=both)
    assert code == 2
    assert f"no file {tmp_path}/a/b.gguf nor {tmp_path}/models/a/b.gguf" in err


def test_version(headrace: Headrace) -> None:
    code, out, _ = headrace("version")
    assert code == 0
    assert out.strip()


def finished(name: str, text: str | None) -> Finished:
    outcome = Outcome.COMPLETE if text is not None else Outcome.FAILED
    return Finished(name, outcome, "InvalidOutput: why", text, {"metadata": {"name": name}, "status": {"text": text}})


def test_printing() -> None:
    one, two = finished("one", "a\nb"), finished("two", None)
    assert render([one], "text") == "a\nb\n"
    assert render([one, two], "text") == "one: Complete\na\nb\n\ntwo: Failed\nInvalidOutput: why\n\n"
    assert json.loads(render([one], "json"))["metadata"]["name"] == "one"
    assert [each["metadata"]["name"] for each in json.loads(render([one, two], "json"))] == ["one", "two"]
    assert render([one, two], "yaml").count("---\n") == 1
    assert "text: |-\n" in render([one], "yaml")
