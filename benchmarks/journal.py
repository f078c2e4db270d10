"""What a journal of many calls costs: appending, looking up, answering again, size.

    python benchmarks/journal.py [n_calls]      # default 1,000,000

Each call is what a run writes: an attempt, an answer, a use and an evaluation, 16 calls a commit.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
import tempfile
import time
from decimal import Decimal
from pathlib import Path

from promptopt.gateway import Call, Gateway
from promptopt.journal import Journal
from promptopt.types import Message, Request, Response, Usage

GROUP = 16
WINDOW = 10_000
N_ASKED = 50_000
TEXT = "Weighing the options one after the other, the second fits best. Answer: (B)"


def key(i: int) -> bytes:
    return hashlib.blake2b(str(i).encode(), digest_size=16).digest()


async def fill(journal: Journal, n: int) -> list[float]:
    """Append `n` calls; return the CPU microseconds a call of each window."""
    windows, cpu = [], time.process_time()
    for i in range(n):
        journal.start_attempt(i + 1, key(i), "task")
        if i % GROUP == GROUP - 1:
            await journal.committed()
        response = Response(f"{i} {TEXT}", Usage(300, 25), Decimal("0.000125"), 0.4)
        journal.end_attempt(i + 1, "ok")
        journal.add_answer(key(i), "some/model", response, None)
        journal.add_use(key(i), "task", "search", "3/1")
        candidate, example = f"{i // 100:032x}", f"example-{i % 100}"
        cell = {"value": 1.0, "is_parsed": True, "feedback": None, "cause": None, "key": key(i)}
        journal.add_evaluation(candidate, example, 0, **cell)
        if i % GROUP == GROUP - 1:
            await journal.committed()
        if i % WINDOW == WINDOW - 1:
            windows.append(1e6 * (time.process_time() - cpu) / WINDOW)
            cpu = time.process_time()
    await journal.committed()
    return windows


async def ask_again(journal: Journal, n: int) -> tuple[int, float]:
    """Return how many of 50,000 calls the gateway answered from the journal, and the seconds that it took."""
    gateway = Gateway(journal, {})
    calls = []
    for i in range(N_ASKED):
        request = Request("some/model", (Message("user", str(i)),), 100)
        calls.append(Call(request, key(i * 7919 % n), "task", "search", 60))
    started = time.perf_counter()
    await asyncio.gather(*(gateway.answer(call) for call in calls))
    return gateway.n_from_journal, time.perf_counter() - started


def main() -> None:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.db"
        with Journal(path) as journal:
            windows = asyncio.run(fill(journal, n))
        started = time.perf_counter()
        with Journal(path) as journal:
            opened = time.perf_counter() - started
            started = time.perf_counter()
            found = sum(journal.answer(key(i * 7919 % n)) is not None for i in range(N_ASKED))
            seconds = time.perf_counter() - started
            n_answered, gateway_s = asyncio.run(ask_again(journal, n))
        size = path.stat().st_size
    print(f"{n} calls: {windows[0]:.0f} us of CPU a call in the first {WINDOW}, {windows[-1]:.0f} in the last")
    print(f"{size / n:.0f} bytes a call; opened in {1000 * opened:.0f} ms")
    print(f"{found} look-ups of answers at random: {found / seconds:.0f} a second")
    imported = "litellm was imported" if "litellm" in sys.modules else "litellm was not imported"
    print(f"{n_answered} calls answered by the gateway: {n_answered / gateway_s:.0f} a second; {imported}")


if __name__ == "__main__":
    main()
