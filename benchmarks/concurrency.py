"""What bounds each strategy's wall time: its calls' latencies, their dependencies, or our own work.

    python benchmarks/concurrency.py                     # the table of docs/benchmarks.md

Each strategy runs on the simulator behind a transport that takes 50 ms a call, with 64 calls in flight. Three
times: `wall` on the real clock; `ideal` on a clock that only runs while everybody waits, so that our own work
takes no time; `critical path` the same with no limit of calls in flight: what the strategy's dependencies alone
cost. `sum` is all latencies one after the other.
"""

from __future__ import annotations

import argparse
import asyncio
import selectors
import shutil
import tempfile
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search import make_task
from strategies import OPTIONS, STRATEGIES

from promptopt.config import Settings
from promptopt.plan import make_plan
from promptopt.providers import SimulatorTransport, find_model
from promptopt.result import Result
from promptopt.run import Run
from promptopt.simulator import Simulator, landscape
from promptopt.types import Budget, Request, Response

UNLIMITED = 100_000


class IdleClock(asyncio.SelectorEventLoop):
    """An event loop whose time stands still while anything can run, and jumps to the next timer otherwise."""

    def __init__(self) -> None:
        super().__init__(_Jumping(self))
        self.now = 0.0

    def time(self) -> float:
        return self.now


class _Jumping(selectors.DefaultSelector):
    """A selector that waits for no timer: it moves the loop's clock instead."""

    def __init__(self, loop: IdleClock) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0 if timeout is not None else None)
        if not ready and timeout:
            self._loop.now += timeout
        return ready


@dataclass
class Slow:
    """A transport that takes a fixed time for each call, whatever answers behind it."""

    inner: SimulatorTransport
    latency_s: float

    async def send(self, request: Request, timeout_s: float) -> Response:
        await asyncio.sleep(self.latency_s)
        return await self.inner.send(request, timeout_s)


def run(optimizer: str, budget: int, concurrency: int, latency_s: float, *, is_idle: bool) -> tuple[float, Result]:
    """Return the seconds that a search took on its loop's clock, and its result."""
    task = make_task("label", 300)
    simulator = Simulator(landscape("default"), seed=300)
    simulator.learn((*task.train, *task.dev, *task.test))
    folder = Path(tempfile.mkdtemp(prefix="promptopt-bench-"))
    settings = Settings(
        model="sim",
        optimizer=optimizer,
        options=dict(OPTIONS.get(optimizer, {})),
        budget=Budget(calls=budget),
        proof_examples=0,
        concurrency=concurrency,
        seed=300,
        out=folder,
    )
    transport = Slow(SimulatorTransport(simulator, find_model("sim", "task")), latency_s)
    search = Run(make_plan(task, settings), transports={"sim": transport})
    loop = IdleClock() if is_idle else asyncio.new_event_loop()
    seconds, result = loop.run_until_complete(timed(loop, search.execute()))
    loop.close()
    shutil.rmtree(folder)
    return seconds, result


async def timed(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Result]) -> tuple[float, Result]:
    started = loop.time()
    result = await work
    return loop.time() - started, result


def bound_by(total: float, wall: float, ideal: float, path: float) -> str:
    """Name what takes most of the wall time."""
    if wall - ideal > ideal:
        return "our own work"
    return "dependencies" if path > ideal / 2 else "calls in flight"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--latency-ms", type=float, default=50)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--optimizers", default=",".join(STRATEGIES))
    args = parser.parse_args()
    latency_s = args.latency_ms / 1000
    print(f"{args.latency_ms:.0f} ms a call, {args.concurrency} in flight, budget {args.calls} calls; seconds\n")
    print("| strategy | calls | sum | wall | ideal | critical path | speed-up | bound by |")
    print("|---" * 8 + "|")
    for name in args.optimizers.split(","):
        started = time.perf_counter()
        wall, result = run(name, args.calls, args.concurrency, latency_s, is_idle=False)
        ideal, again = run(name, args.calls, args.concurrency, latency_s, is_idle=True)
        path, _ = run(name, args.calls, UNLIMITED, latency_s, is_idle=True)
        assert again.best == result.best, "timing changed the run"
        total = result.spend.calls * latency_s
        times = f"{total:.1f} | {wall:.1f} | {ideal:.1f} | {path:.1f} | {total / wall:.1f}"
        print(f"| {name} | {result.spend.calls} | {times} | {bound_by(total, wall, ideal, path)} |", flush=True)
        assert time.perf_counter() - started < 600


if __name__ == "__main__":
    main()
