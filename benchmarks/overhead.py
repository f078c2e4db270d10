"""What the tool adds to bare litellm: calls per second, answers from the journal, peak memory.

    python benchmarks/overhead.py                      # 5,000 examples at 50 ms, 64 in flight; three pairs
    python benchmarks/overhead.py --calls 20000 --pairs 1 --latency-ms 1    # peak memory of 20,000 calls

A server on this machine waits and answers. In turn, bare `litellm.acompletion` with as many calls in flight, and
`promptopt evaluate` through the same litellm, each in a process of its own: no import, cache or memory is shared.
The evaluation is then made again with all answers in its journal, in a process that never loads litellm. Rates are
without imports, and without litellm's first call; both arms begin with no connection open.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MODEL = "local-model"


def serve(latency_s: float) -> None:
    """Answer every request with one word after a pause, until the process is ended."""
    from aiohttp import web

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        await asyncio.sleep(latency_s)
        message = {"role": "assistant", "content": "red"}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        usage = {"prompt_tokens": 20, "completion_tokens": 1, "total_tokens": 21}
        body = {"id": "1", "object": "chat.completion", "created": 0, "model": MODEL}
        return web.json_response({**body, "choices": choices, "usage": usage})

    async def main() -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        print(f"http://127.0.0.1:{runner.addresses[0][1]}/v1", flush=True)
        await asyncio.sleep(3600)

    asyncio.run(main())


def texts(n: int) -> list[str]:
    return [f"Name the colour of thing number {i}." for i in range(n)]


def warm_up(url: str) -> None:
    """Make litellm import what it imports at its first call, in an event loop of its own."""
    from promptopt.providers import closing, load_litellm

    litellm = load_litellm()
    messages = [{"role": "user", "content": "hello"}]
    given = {"model": f"openai/{MODEL}", "api_base": url, "api_key": "none", "max_retries": 0}
    asyncio.run(closing(litellm.acompletion(messages=messages, **given)))


def bare(url: str, n: int, concurrency: int) -> dict[str, Any]:
    """Return the seconds that `n` calls of litellm take."""
    from promptopt.providers import load_litellm

    litellm = load_litellm()

    async def main() -> float:
        slots = asyncio.Semaphore(concurrency)

        async def one(text: str) -> None:
            async with slots:
                await litellm.acompletion(
                    model=f"openai/{MODEL}",
                    messages=[{"role": "user", "content": text}],
                    api_base=url,
                    api_key="none",
                    max_tokens=1024,
                    temperature=0.0,
                    max_retries=0,
                    timeout=60,
                )

        started = time.perf_counter()
        await asyncio.gather(*(one(text) for text in texts(n)))
        return time.perf_counter() - started

    return {"seconds": asyncio.run(main())}


def evaluate(url: str, n: int, concurrency: int, out: Path) -> dict[str, Any]:
    """Return the seconds that an evaluation of `n` examples takes, and its calls."""
    from promptopt import Example, Task
    from promptopt.config import Settings
    from promptopt.scoring import Evaluating
    from promptopt.tasks.metrics import load
    from promptopt.types import Prompt

    rows = [Example(f"row-{i}", {"input": f"thing number {i}"}, ("red", "blue")[i % 2]) for i in range(n)]
    few = tuple(Example(f"{split}-{i}", {"input": f"{split} {i}"}, "red") for split in "ab" for i in range(2))
    prompt = Prompt("Name the colour of {{input}}.")
    task = Task("colours", load("label", ["red", "blue"]), few[:2], few[2:], tuple(rows), prompt)
    settings = Settings(model=MODEL, api_base=url, concurrency=concurrency, out=out)
    evaluating = Evaluating(task, settings)
    found = asyncio.run(evaluating.execute())
    assert found.status == "completed", found.reason
    return {"seconds": found.duration_s, "paid": found.paid_calls}


def child(arguments: list[str]) -> dict[str, Any]:
    """Return what this script reports when run with other arguments in a process of its own."""
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextlib.contextmanager
def serving(latency_ms: float) -> Iterator[str]:
    server = subprocess.Popen(
        [sys.executable, __file__, "--serve", str(latency_ms)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
    finally:
        server.terminate()
        server.wait(10)


def compare(n: int, concurrency: int, latency_ms: float, n_pairs: int) -> None:
    ratios = []
    for i in range(n_pairs):
        folder = Path(tempfile.mkdtemp(prefix="promptopt-overhead-"))
        with serving(latency_ms) as url:
            given = ["--calls", str(n), "--concurrency", str(concurrency), "--url", url]
            arms = {
                "bare": [*given, "--arm", "bare"],
                "evaluate": [*given, "--arm", "evaluate", "--out", str(folder)],
            }
            order = ("bare", "evaluate") if i % 2 == 0 else ("evaluate", "bare")
            found = {name: child(arms[name]) for name in order}
            again = child([*arms["evaluate"], "--again"])
        shutil.rmtree(folder)
        assert (found["evaluate"]["paid"], again["paid"]) == (n, 0)
        assert not again["loads_litellm"]
        rates = {name: n / row["seconds"] for name, row in {**found, "journal": again}.items()}
        ratios.append(rates["evaluate"] / rates["bare"])
        peak_mb = found["evaluate"]["peak_mb"]
        print(
            f"pair {i + 1}: bare {rates['bare']:.0f}/s, evaluate {rates['evaluate']:.0f}/s ({ratios[-1]:.1%}); "
            f"CPU a call {found['bare']['cpu_ms']:.1f} and {found['evaluate']['cpu_ms']:.1f} ms; "
            f"from the journal {rates['journal']:,.0f}/s; peak {peak_mb:.0f} MB",
            flush=True,
        )
    print(f"median share of bare litellm: {statistics.median(ratios):.1%}, n={n_pairs}; {os.cpu_count()} CPUs")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--calls", type=int, default=5000)
    parser.add_argument("--latency-ms", type=float, default=50)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--serve", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--arm", choices=("bare", "evaluate"), help=argparse.SUPPRESS)
    parser.add_argument("--again", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve is not None:
        serve(args.serve / 1000)
    elif args.arm is not None:
        what = (args.url, args.calls, args.concurrency)
        if not args.again:
            warm_up(args.url)
        cpu_s = time.process_time()
        found = bare(*what) if args.arm == "bare" else evaluate(*what, args.out)
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        cpu_ms = 1000 * (time.process_time() - cpu_s) / args.calls
        loads = "litellm" in sys.modules
        print(json.dumps({**found, "peak_mb": peak_mb, "cpu_ms": cpu_ms, "loads_litellm": loads}))
    else:
        compare(args.calls, args.concurrency, args.latency_ms, args.pairs)


if __name__ == "__main__":
    main()
