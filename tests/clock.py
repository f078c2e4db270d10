"""An event loop whose clock stands still while anything can run, and jumps to the next timer otherwise."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any


class JumpingClock(asyncio.SelectorEventLoop):
    """Runs hours of waiting in no time; `time()` is the seconds that would have passed."""

    def __init__(self) -> None:
        super().__init__(_Selector(self))
        self.now_s = 0.0

    def time(self) -> float:
        return self.now_s


class _Selector(selectors.DefaultSelector):
    def __init__(self, loop: JumpingClock) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0 if timeout is not None else None)
        if not ready and timeout:
            self._loop.now_s += timeout
        return ready


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """Return what `work` returns, run on a jumping clock."""
    with asyncio.Runner(loop_factory=JumpingClock) as runner:
        return runner.run(work)
