"""Strategies on the frozen landscapes at equal budgets, paired by seed; and the null landscape's error rate.

    python benchmarks/landscapes.py                      # the table of docs/simulator.md
    python benchmarks/landscapes.py --seeds 4 --budgets 300
    python benchmarks/landscapes.py --null 200           # share of significant gains where none exist

The budget counts all calls of the search, writing included; the test score of the prompt that a search
returns is measured outside it, on 500 test examples. Everything here is simulated.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import itertools
import shutil
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple
from pathlib import Path
from statistics import mean

from search import Cell, Measured, interval, make_task, measure

from promptopt.config import Settings
from promptopt.plan import make_plan
from promptopt.providers import SimulatorTransport, find_model
from promptopt.run import Run
from promptopt.simulator import LANDSCAPES, Simulator, landscape
from promptopt.types import Budget

KINDS = ("label", "choice", "number", "json")
NAMES = tuple(name for name in LANDSCAPES if name != "null")
OUT = Path(__file__).parent / "out"


def null_run(seed: int, optimizer: str) -> bool:
    """Return whether a run on the null landscape ends with a significant gain or loss."""
    task = make_task(KINDS[seed % len(KINDS)], seed, n_test=200)
    simulator = Simulator(landscape("null"), seed=seed)
    simulator.learn((*task.train, *task.dev, *task.test))
    folder = Path(tempfile.mkdtemp(prefix="promptopt-bench-"))
    budget = Budget(calls=700)
    settings = Settings(model="sim", optimizer=optimizer, budget=budget, seed=seed, out=folder)
    spec = find_model("sim", "task")
    run = Run(make_plan(task, settings), transports={"sim": SimulatorTransport(simulator, spec)})
    result = asyncio.run(run.execute())
    shutil.rmtree(folder)
    assert result.improvement is not None
    return result.improvement.verdict != "not_proven"


def report(rows: list[Measured], budgets: list[int], names: list[str]) -> None:
    """Print means by landscape and the paired difference of CAPO and random search."""
    scores = {(m.cell.landscape, m.cell.seed, m.cell.budget, m.cell.optimizer): m.score for m in rows}
    seeds = sorted({m.cell.seed for m in rows})
    for budget in budgets:
        print(f"\n{budget} calls, {len(seeds)} seeds: mean test score")
        print(f"| landscape | {' | '.join(names)} | capo - random (95%) |")
        print("|---" * (len(names) + 2) + "|")
        every: list[float] = []
        for name in NAMES:
            means = []
            for optimizer in names:
                b = 0 if optimizer in ("initial", "reachable") else budget
                means.append(mean(scores[name, seed, b, optimizer] for seed in seeds))
            diffs = [
                scores[name, s, budget, "capo"] - scores[name, s, budget, "random"]
                for s in seeds
                if (name, s, budget, "random") in scores
            ]
            every += diffs
            gain = "{:+.3f} ({:+.3f} to {:+.3f})".format(*interval(diffs))
            print(f"| {name} | {' | '.join(f'{m:.3f}' for m in means)} | {gain} |")
        gain = "{:+.3f} ({:+.3f} to {:+.3f})".format(*interval(every))
        print(f"| **all** | {' | '.join([''] * len(names))} | **{gain}** |")
    seconds = [m.seconds for m in rows if m.cell.budget]
    print(f"\n{len(seconds)} runs, {sum(seconds):.0f} s of run time", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--budgets", default="300,1000,3000")
    parser.add_argument("--set", action="append", default=[], help="option of CAPO, k=v")
    parser.add_argument("--null", type=int, default=0, help="runs on the null landscape instead")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    if args.null:
        with ProcessPoolExecutor(args.workers) as pool:
            found = list(pool.map(null_run, range(args.null), itertools.repeat("capo"), chunksize=4))
        print(f"null landscape: {sum(found)} of {args.null} runs significant at .05")
        return
    budgets = [int(text) for text in args.budgets.split(",")]
    options = {"capo": dict(pair.split("=", 1) for pair in args.set)}
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    cells = [Cell(n, s, 0, o) for n in NAMES for s in seeds for o in ("initial", "reachable")]
    cells += [Cell(n, s, b, o) for b in budgets for n in NAMES for s in seeds for o in ("random", "capo")]
    with ProcessPoolExecutor(args.workers) as pool:
        rows = list(pool.map(measure, cells, itertools.repeat(options), itertools.repeat(KINDS), chunksize=4))
    OUT.mkdir(exist_ok=True)
    with (OUT / "landscapes.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["landscape", "seed", "budget", "optimizer", "test_score", "seconds"])
        writer.writerows([*astuple(m.cell), m.score, round(m.seconds, 3)] for m in rows)
    report(rows, budgets, ["initial", "random", "capo", "reachable"])


if __name__ == "__main__":
    main()
