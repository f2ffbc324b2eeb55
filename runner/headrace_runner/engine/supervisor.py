"""PID 1 of the engine container: cages itself, starts the engine child, tells the runner how it fares.

A crash of the engine is an event here and not a CrashLoopBackOff: the child is started again with back-off while the
container, its volume and its place on the node stay. Imports no model code: it must outlive whatever that does.
Composition root of the ``headrace-engine`` command.
"""

import contextlib
import json
import os
import resource
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any, Final

from headrace_runner.engine.backoff import Backoff
from headrace_runner.engine.failures import (
    MAX_REPORT_BYTES,
    RECYCLED_EXIT,
    REFUSED_EXIT,
    REPORT_FD_VARIABLE,
    EngineRefusal,
)
from headrace_runner.engine.heartbeat import Pulse
from headrace_runner.engine.seccomp import SandboxUnavailable, install_filter
from headrace_runner.engine.settings import PLAIN_KERNELS_VARIABLE, EngineSettings
from headrace_runner.engine.state import EngineModel, EngineState, Stage, write_state

# What a kernel that does not fit the CPU dies of, in llama.cpp or in a driver.
_FAULTS: Final = (signal.SIGILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGABRT)
_CHILD_MODULE: Final = "headrace_runner.engine.child"
_CORE_FILTER: Final = Path("/proc/self/coredump_filter")
_MEMORY_EVENTS: Final = Path("/sys/fs/cgroup/memory.events")


def main() -> int:
    """Run until SIGTERM or SIGINT; gives the exit code."""
    state_path = Path(os.environ.get("HEADRACE_ENGINE_STATE", "/run/headrace/engine.json"))
    try:
        settings = EngineSettings.from_environment(os.environ)
    except ValueError as error:
        return _refuse(state_path, EngineRefusal("InvalidSettings", str(error)))
    # A core file would hold prompts. The limit does not bind nodes whose kernel pipes cores to a program; the filter,
    # inherited like it, leaves nothing of the memory in them.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        _CORE_FILTER.write_text("0")
    try:
        install_filter()
    except SandboxUnavailable as error:
        # Nothing that a model file can take over may run with a network.
        if settings.sandbox == "Required":
            return _refuse(state_path, EngineRefusal("SandboxUnavailable", str(error)))
        _log("engine runs without sandbox", cause=str(error))
        return Supervisor(settings, sandboxed=False).run()
    return Supervisor(settings, sandboxed=True).run()


class Supervisor:
    """Keeps one child running; ``run`` returns after a signal to stop."""

    def __init__(self, settings: EngineSettings, *, sandboxed: bool) -> None:
        self._settings = settings
        self._state = EngineState(sandboxed=sandboxed)
        self._child: int | None = None
        self._exit_status = 0
        self._refusal: EngineRefusal | None = None
        self._stage = Stage.STARTING
        self._serving_since: float | None = None
        self._stopping = False
        self._backoff = Backoff()
        # Why the next child does without the kernels that were built for this very CPU; empty: it does not.
        self._plain_because = ""
        self._oom_kills = 0
        self._pulse = Pulse(settings.stall_seconds)
        self._stalled = False
        self._spawned = 0.0
        self._wake, self._wake_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> int:
        """Start the child, again and again."""
        signal.set_wakeup_fd(self._wake_writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        self._write(Stage.STARTING)
        while not self._stopping:
            self._run_child()
            if not self._stopping:
                self._sleep(self._judge())
        return 0

    def _stop(self, number: int, _frame: object) -> None:
        # Every signal is handed on: the child drains at the first and stops at the second.
        self._stopping = True
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child, number)

    def _run_child(self) -> None:
        self._refusal, self._stage, self._serving_since = None, Stage.STARTING, None
        self._pulse, self._stalled = Pulse(self._settings.stall_seconds), False
        reports, child_end = os.pipe2(os.O_CLOEXEC)
        os.set_inheritable(child_end, True)
        # ggml would start a debugger to print where it aborted, which the filter forbids anyway.
        environment = {**os.environ, REPORT_FD_VARIABLE: str(child_end), "GGML_NO_BACKTRACE": "1"}
        environment[PLAIN_KERNELS_VARIABLE] = self._plain_because
        command = [sys.executable, "-P", "-m", _CHILD_MODULE]
        self._oom_kills = _oom_kills()
        self._spawned = time.monotonic()
        self._child = os.posix_spawn(
            sys.executable,
            command,
            environment,
            # Python blocks nothing, but a shell above may ignore SIGINT, and ignoring is inherited.
            setsigdef=[signal.SIGTERM, signal.SIGINT, signal.SIGCHLD],
        )
        os.close(child_end)
        if self._stopping:
            os.kill(self._child, signal.SIGTERM)  # the signal came before there was a child
        try:
            self._watch(reports)
        finally:
            os.close(reports)
            # After a crash the socket still lies there; nobody should try it.
            self._settings.socket_path.unlink(missing_ok=True)

    def _watch(self, reports: int) -> None:
        """Read reports until the child is reaped."""
        buffer = b""
        sources = [self._wake, reports]
        while self._child is not None:
            ready, _, _ = select.select(sources, [], [], self._pulse.left_seconds(time.monotonic()))
            if not ready:
                self._end_stalled()
            elif reports in ready:
                chunk = os.read(reports, MAX_REPORT_BYTES)
                if not chunk:
                    sources.remove(reports)
                *lines, buffer = (buffer + chunk).split(b"\n")
                for line in lines:
                    self._take_report(line)
                # The child may be in the hands of a model file: it gets no memory of ours.
                buffer = buffer[-MAX_REPORT_BYTES:]
            elif self._wake in ready:
                # Reports first: a child that says why and exits must not be taken for a crash.
                self._drain_wakeups()
                self._reap()

    def _end_stalled(self) -> None:
        """A step does not end: a driver or a defect holds it. Runners learn it by the end of their connections."""
        self._stalled = True
        self._pulse.beat(False, 0.0)
        message = f"the engine gave no sign of life for {self._settings.stall_seconds} s while sequences ran"
        # Now and not when it is reaped: a process that hangs in the kernel does not die of a signal either.
        self._write(Stage.RESTARTING, reason="EngineStalled", message=message, engine=None)
        _log("engine stalled", stall_seconds=self._settings.stall_seconds)
        if self._child is not None:
            os.kill(self._child, signal.SIGKILL)

    def _take_report(self, line: bytes) -> None:
        try:
            report = json.loads(line)
            if "refusal" in report:
                refusal = report["refusal"]
                self._refusal = EngineRefusal(str(refusal["reason"])[:64], str(refusal["message"])[:4096])
                return
            if "beat" in report:
                if not self._stalled:
                    self._pulse.beat(report["beat"] is True, time.monotonic())
                return
            self._stage = Stage(report["stage"])
            percent = report.get("percent")
            engine = None if report.get("engine") is None else EngineModel.from_json(report["engine"])
        except (ValueError, KeyError, TypeError, RecursionError, AttributeError):
            _log("engine child sent a broken report")
            return
        if self._stage is Stage.SERVING:
            self._serving_since = time.monotonic()
            self._write(Stage.SERVING, reason="", message="", engine=engine)
            _log(
                "engine serves",
                start_seconds=round(self._serving_since - self._spawned, 2),
                restarts=self._state.restarts,
            )
        elif self._state.state is not Stage.FAILED:
            # What failed is tried again and again; it shows as Failed until it serves.
            self._write(self._stage, percent=percent if isinstance(percent, int) and 0 <= percent <= 100 else None)

    def _judge(self) -> float:
        """Write down why the child ended; gives the seconds to wait before the next."""
        code = os.waitstatus_to_exitcode(self._exit_status)
        if code == RECYCLED_EXIT and self._serving_since is not None:
            message = "the engine's memory has grown beyond its limit; the next one starts"
            self._write(Stage.RESTARTING, reason="EngineRecycled", message=message, engine=None)
            _log("engine recycled", served_seconds=round(time.monotonic() - self._serving_since, 1))
            return 0.0
        if self._refusal is not None and code == REFUSED_EXIT:
            self._write(Stage.FAILED, reason=self._refusal.reason, message=self._refusal.message, engine=None)
            _log("engine refused to serve", reason=self._refusal.reason)
        else:
            served = self._serving_since is not None
            reason, message = "EngineCrashed", self._describe_death()
            if self._stalled:
                reason, message = "EngineStalled", self._state.message
            restarts = self._state.restarts + 1
            state = Stage.RESTARTING if served else Stage.FAILED
            if not served and -code in _FAULTS:
                # Kernels may not fit this CPU. Where that was not it, the next try is a usual one again.
                self._plain_because = "" if self._plain_because else message
                if self._plain_because:
                    self._write(Stage.STARTING, reason=reason, message=message, restarts=restarts, engine=None)
                    _log("engine child died, the next does without the fastest kernels", cause=message)
                    return 0.0
            self._write(state, reason=reason, message=message, restarts=restarts, engine=None)
            _log("engine child died", cause=message, restarts=restarts)
        served_seconds = 0.0 if self._serving_since is None else time.monotonic() - self._serving_since
        return self._backoff.next_seconds(served_seconds)

    def _describe_death(self) -> str:
        code = os.waitstatus_to_exitcode(self._exit_status)
        how = f"died by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
        cause = ""
        if -code == signal.SIGKILL and _oom_kills() > self._oom_kills:
            cause = "; the container's memory limit was hit"
        file = self._settings.model_path.name
        return f"the engine {how} while {self._stage} ({file}){cause}"

    def _sleep(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self._stopping and (left := deadline - time.monotonic()) > 0:
            if select.select([self._wake], [], [], left)[0]:
                self._drain_wakeups()
                self._reap()

    def _drain_wakeups(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._wake, 512):
                pass

    def _reap(self) -> None:
        """Collect every child that ended: PID 1 inherits the orphans of the container."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self._child:
                    self._child, self._exit_status = None, status

    def _write(self, state: Stage, **changes: Any) -> None:
        self._state = self._state.enter(state, **changes)
        write_state(self._settings.state_path, self._state)


def _refuse(state_path: Path, refusal: EngineRefusal) -> int:
    _log("engine refused to start", reason=refusal.reason, cause=refusal.message)
    with contextlib.suppress(OSError):
        write_state(state_path, EngineState().enter(Stage.FAILED, reason=refusal.reason, message=refusal.message))
    return 1


def _oom_kills() -> int:
    try:
        lines = _MEMORY_EVENTS.read_text().splitlines()
        return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
    except (OSError, ValueError, IndexError):
        return 0


def _log(message: str, **data: object) -> None:
    # No logging library: this process starts the engine as soon as it can and says little.
    sys.stderr.write(json.dumps({"event": message, **data}) + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
