"""The simulator's server within a test, whose failures the test schedules."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from promptopt.protocol import Asked
from promptopt.server import ServerOptions, SimulatedService, serve_until
from promptopt.types import Example, Response


class Scheduled(SimulatedService):
    """A service that fails as `schedule` says of the n-th call, from 1; None = it answers.

    Args:
        n_asked: calls that arrived.
        n_failed: by kind of fault.
    """

    def __init__(
        self,
        schedule: Callable[[int], str | None] = lambda n: None,
        examples: tuple[Example, ...] = (),
        options: ServerOptions | None = None,
    ) -> None:
        super().__init__(options or ServerOptions(), examples)
        self.schedule = schedule
        self.n_asked = 0
        self.n_failed: Counter[str] = Counter()
        self.answers: list[Response] = []

    def fault(self) -> str | None:
        self.n_asked += 1
        kind = self.schedule(self.n_asked)
        if kind is not None:
            self.n_failed[kind] += 1
        return kind

    def answer(self, asked: Asked) -> Response:
        self.answers.append(super().answer(asked))
        return self.answers[-1]


@contextmanager
def serving(service: SimulatedService) -> Iterator[str]:
    """Serve in a thread until the block ends, and yield the address."""
    said: queue.Queue[str] = queue.Queue()
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    def serve() -> None:
        with loop_closing(loop):
            loop.run_until_complete(serve_until(stop, service, ServerOptions(), said.put))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield said.get(timeout=20)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)
    assert not thread.is_alive()


@contextmanager
def loop_closing(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    try:
        yield
    finally:
        loop.close()
