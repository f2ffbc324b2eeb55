"""Ctrl-C in ``headrace run``: the first one ends what generates with its text so far, the second one all."""

import asyncio
import contextlib
import signal
from collections.abc import Iterator

from headrace_runner.curb import Curb
from headrace_runner.cut import Halt


class ControlC:
    """``pressed`` says that nothing more is to begin."""

    def __init__(self) -> None:
        self.pressed = False
        self._curbs: set[Curb] = set()

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Hear it, in the task that is to be ended: cancelled where there is nothing to end gently, or nothing left."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("only a task can be ended")
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._press, task)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGINT)

    @contextlib.contextmanager
    def curb(self) -> Iterator[Curb]:
        """The curb of one execution."""
        curb = Curb()
        self._curbs.add(curb)
        try:
            yield curb
        finally:
            self._curbs.discard(curb)

    def _press(self, task: asyncio.Task[None]) -> None:
        if self.pressed or not self._curbs:
            task.cancel()
        self.pressed = True
        for curb in self._curbs:
            curb.ask(Halt.CANCEL)
