"""An event loop whose clock jumps to the next timer: hours of waiting in a test that waits for nothing.

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())

Only for what waits on timers and on itself: nothing real can answer meanwhile.
"""

import asyncio
import selectors
from collections.abc import Mapping
from typing import Any

_STEP_SECONDS = 1e-6


class _Jumping(selectors.BaseSelector):
    """Waits for no time at all and says for how long it would have."""

    def __init__(self) -> None:
        self._real = selectors.DefaultSelector()
        self.now = 1_000.0

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("nothing will ever happen: every task waits for another")
        # Not by less than a microsecond: who waits for a time that is all but there would do so for ever.
        self.now += max(_STEP_SECONDS, timeout) if timeout > 0 else 0.0
        return self._real.select(0)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now
