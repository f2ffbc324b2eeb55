"""The file of stub engines and stub providers, read as it grows: which generation began, and how it ended."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

BROUGHT_TO_AN_END = ("end", "fail")


@dataclass(slots=True)
class Execution:
    """One generation. Times are CLOCK_MONOTONIC in seconds; `ending` None: it runs, or its engine was killed. `pod` is
    the engine's, or a provider's name; `model` what was served there, empty where the file does not say.
    """

    uid: str
    attempt: int
    name: str
    pod: str
    pid: int
    began: float
    ended: float | None = None
    ending: str | None = None
    model: str = ""


class Journal:
    """`executions` by name, in the order of their starts; `refused` counts answers of providers that began none, by
    provider and status.
    """

    def __init__(self, path: Path) -> None:
        path.touch()
        self._file = path.open("rb")
        self._rest = b""
        self._dead: set[int] = set()
        self.executions: dict[str, Execution] = {}
        self.refused: Counter[tuple[str, int]] = Counter()

    def read(self) -> None:
        """Take what was appended."""
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        for line in lines:
            said = json.loads(line)
            if said["event"] == "start":
                began = Execution(*(said[name] for name in ("uid", "attempt", "execution", "pod", "pid", "at")))
                began.model = said.get("model", "")
                self.executions[began.name] = began
            elif said["event"] == "refused":
                self.refused[said["pod"], said["status"]] += 1
            else:
                execution = self.executions[said["execution"]]
                execution.ended, execution.ending = said["at"], said["event"]

    def running(self, pods: set[str] | None = None) -> list[Execution]:
        """What runs: on these pods, or on all. A killed engine wrote no end, and runs nothing."""
        self.read()
        found = [item for item in self.executions.values() if item.ending is None and item.pid not in self._dead]
        self._dead |= {pid for pid in {item.pid for item in found} if not _generates(pid)}
        return [item for item in found if item.pid not in self._dead and (pods is None or item.pod in pods)]

    def close(self) -> None:
        self._file.close()


def _generates(pid: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"stub_engine" in command or b"stub_provider" in command
