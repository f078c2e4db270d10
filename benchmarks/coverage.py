"""Whether the proofs of whole runs hold: 95% intervals and p-values against the truth, over many runs.

    python benchmarks/coverage.py --runs 500

Each run searches with 280 answers and is proved on 60 test examples. The truth is the difference of best and
initial prompt on 1,500 further examples of the same task, which no run saw; on the null landscape it is 0. Of the
runs, 95% should have an interval that holds the truth; on the null landscape at most 5% a significant difference.
Everything is simulated.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean

import numpy as np
from landscapes import NAMES, OUT
from search import make_task, score
from worlds import WORLDS

from promptopt.config import Settings
from promptopt.plan import make_plan
from promptopt.promptfile import parse
from promptopt.providers import SimulatorTransport, find_model
from promptopt.run import Run
from promptopt.simulator import Simulator, landscape
from promptopt.stats import wilson_interval
from promptopt.types import Budget

N_PROOF, N_TRUTH, N_CALLS = 60, 1_500, 400


@dataclass(frozen=True)
class Proof:
    """The proof of one run beside the truth.

    Args:
        gap: dev score minus test score of the best prompt; its mean is what choosing on dev adds.
    """

    landscape: str
    seed: int
    delta: float
    low: float
    high: float
    p_value: float
    verdict: str
    truth: float
    gap: float


def prove(cell: tuple[str, int], optimizer: str) -> Proof:
    """Run one search with its proof, and measure the truth."""
    name, seed = cell
    kinds = ("label", "choice", "number", "json") if name == "null" else WORLDS[name].kinds
    whole = make_task(kinds[seed % len(kinds)], seed, n_test=N_PROOF + (0 if name == "null" else N_TRUTH))
    task = replace(whole, test=whole.test[:N_PROOF])
    if name == "null":
        simulator = Simulator(landscape("null"), seed=seed)
        simulator.learn((*whole.train, *whole.dev, *whole.test))
    else:
        simulator = WORLDS[name].simulator(whole, seed)
    spec, folder = find_model("sim", "task"), Path(tempfile.mkdtemp(prefix="promptopt-bench-"))
    settings = Settings(model="sim", optimizer=optimizer, budget=Budget(calls=N_CALLS), seed=seed, out=folder)
    run = Run(make_plan(task, settings), transports={"sim": SimulatorTransport(simulator, spec)})
    result = asyncio.run(run.execute())
    shutil.rmtree(folder)
    proof = result.improvement
    assert proof is not None
    assert proof.delta is not None
    assert proof.ci95 is not None
    rest = replace(whole, test=whole.test[N_PROOF:])
    best = parse(result.best.prompt).prompt
    truth = 0.0
    if name != "null" and best.id != task.initial.id:
        truth = score(simulator, spec, rest, best) - score(simulator, spec, rest, task.initial)
    dev, test = result.best.dev, result.best.test
    gap = dev.score - test.score if dev and test else 0.0
    return Proof(name, seed, proof.delta, *proof.ci95, proof.p_value, proof.verdict, truth, gap)


def share(hits: Sequence[bool]) -> str:
    """Return a share in percent with its 95% interval and number."""
    low, high = wilson_interval(sum(hits), len(hits))
    return f"{100 * mean(hits):.1f}% ({100 * low:.1f} to {100 * high:.1f}; {sum(hits)} of {len(hits)})"


def report(title: str, rows: Sequence[Proof]) -> None:
    """Print what the proofs of these runs are worth."""
    print(f"\n**{title}**: {len(rows)} runs, true gain {mean(row.truth for row in rows):+.3f} on average")
    print(f"- 95% intervals that hold the truth: {share([row.low <= row.truth <= row.high for row in rows])}")
    print(f"- p <= .05: {share([row.p_value <= 0.05 for row in rows])}")
    if title.startswith("null"):
        deciles = [share([row.p_value <= level for row in rows]) for level in (0.01, 0.1, 0.2)]
        print(f"- p <= .01: {deciles[0]}; p <= .1: {deciles[1]}; p <= .2: {deciles[2]}")
    else:
        wrong = [{"proven": row.truth <= 0, "worse": row.truth >= 0}.get(row.verdict, False) for row in rows]
        print(f"- proven, and true: {share([row.verdict == 'proven' and row.truth > 0 for row in rows])}")
        print(f"- a verdict of the wrong sign: {share(wrong)}")
    print(f"- measured minus true gain: {average([row.delta - row.truth for row in rows])}")
    print(f"- dev score minus test score of the best prompt: {average([row.gap for row in rows])}")


def average(values: Sequence[float]) -> str:
    """Return a mean with its 95% interval."""
    row = np.array(values)
    return f"{row.mean():+.4f} +- {1.96 * row.std(ddof=1) / len(row) ** 0.5:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=int, default=500, help="on null, and as many on the others together")
    parser.add_argument("--optimizer", default="reflect")
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    seeds = range(args.first_seed, args.first_seed + args.runs)
    cells = [("null", seed) for seed in seeds] + [(NAMES[seed % len(NAMES)], seed) for seed in seeds]
    with ProcessPoolExecutor(args.workers) as pool:
        rows = list(pool.map(partial(prove, optimizer=args.optimizer), cells, chunksize=4))
    OUT.mkdir(exist_ok=True)
    with (OUT / "coverage.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Proof.__dataclass_fields__)
        writer.writerows(tuple(vars(row).values()) for row in rows)
    report(f"null landscape, {args.optimizer}", [row for row in rows if row.landscape == "null"])
    report(f"seven landscapes, {args.optimizer}", [row for row in rows if row.landscape != "null"])


if __name__ == "__main__":
    main()
