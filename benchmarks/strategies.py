"""All strategies at equal budgets on the frozen landscapes: one table, one plot of score against calls.

    python benchmarks/strategies.py                              # the table and plot of docs/benchmarks.md
    python benchmarks/strategies.py --seeds 1 --budgets 300      # a quick look
    python benchmarks/strategies.py --optimizers spo spo@n_gate=0 --first-seed 100   # variants of one

Every strategy gets the same calls, writing and judging included; the test score of the prompt that its search
returns is measured outside, on 500 examples; gains are over the first strategy named. Tasks have closed labels
(kinds label and choice in turn), since ClaPS needs them. SPO, whose default run is 75 calls, gets as many rounds
as the budget affords. Everything here is simulated; the token-level strategies are at home on real models
(benchmarks/neural.py).
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple
from functools import partial
from pathlib import Path
from statistics import mean

from landscapes import NAMES, OUT
from search import Cell, Measured, interval, measure, variant

from promptopt import registry

STRATEGIES = ("random", "capo", "promptagent", "spo", "promptquine", "tapruning", "claps")
TOKEN_LEVEL = ("promptquine", "tapruning", "claps")
OPTIONS = {"spo": {"n_rounds": "none"}}
KINDS = ("label", "choice")
Scores = dict[tuple[str, int, int, str], float]


def cells(seeds: Sequence[int], budgets: Sequence[int], most: int, names: Sequence[str]) -> list[Cell]:
    """Return the runs to make, where a strategy's minimum allows: the longest first, so that workers end alike."""
    least = {}
    for name in names:
        optimizer, given = variant(name)
        options = {**OPTIONS.get(optimizer, {}), **given}
        least[name] = registry.make_optimizer(optimizer, options)[1].minimum_calls()
    wanted = [(b, o) for b in budgets for o in names if least[o] <= b]
    wanted += [(most, o) for o in ("random", *TOKEN_LEVEL) if o in names and most and most not in budgets]
    wanted += [(0, "initial"), (0, "reachable")]
    wanted.sort(key=lambda pair: -pair[0])
    return [
        Cell(name, seed, budget, optimizer) for budget, optimizer in wanted for name in NAMES for seed in seeds
    ]


def read(path: Path) -> list[Measured]:
    """Return the rows of an earlier run's file; none if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        Measured(
            Cell(row["landscape"], int(row["seed"]), int(row["budget"]), row["optimizer"]),
            float(row["test_score"]),
            float(row["seconds"]),
            {},
        )
        for row in rows
    ]


def gains(scores: Scores, budget: int, optimizer: str, control: str) -> list[float]:
    """Return the paired differences to the control at the same budget."""
    return [
        value - scores[name, seed, budget, control]
        for (name, seed, b, o), value in scores.items()
        if b == budget and o == optimizer
    ]


def table(scores: Scores, optimizers: Sequence[str]) -> str:
    """Return mean test scores by landscape, and the paired gain over random search with its interval."""
    lines = []
    budgets = sorted({budget for _, _, budget, _ in scores if budget})
    for budget in budgets:
        here = [o for o in optimizers if any(b == budget and o == name for _, _, b, name in scores)]
        lines += [f"\n**{budget:,} calls**\n", f"| landscape | initial | {' | '.join(here)} | reachable |"]
        lines.append("|---" * (len(here) + 3) + "|")
        for name in NAMES:
            row = [(0, "initial"), *((budget, o) for o in here), (0, "reachable")]
            means = [mean(v for (n, _, b, o), v in scores.items() if (n, b, o) == (name, *pair)) for pair in row]
            lines.append(f"| {name} | {' | '.join(f'{m:.3f}' for m in means)} |")
        shown = [
            "{:+.3f} ({:+.3f} to {:+.3f})".format(*interval(gains(scores, budget, o, here[0]))) for o in here[1:]
        ]
        lines.append(f"| gain over {here[0]} (95%) | | | {' | '.join(shown)} | |")
    return "\n".join(lines)


def plot(scores: Scores, optimizers: Sequence[str], path: Path) -> None:
    """Draw mean test score against calls, a panel for each landscape."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 4, figsize=(15, 7), sharex=True, layout="constrained")
    for axis, name in zip(axes.flat, NAMES, strict=False):
        for i, optimizer in enumerate(optimizers):
            budgets = sorted({b for n, _, b, o in scores if (n, o) == (name, optimizer)})
            values = [
                mean(v for (n, _, b, o), v in scores.items() if (n, b, o) == (name, budget, optimizer))
                for budget in budgets
            ]
            style = {"color": "black", "linestyle": "--"} if optimizer == "random" else {"color": f"C{i}"}
            axis.plot(budgets, values, marker="o", markersize=4, label=optimizer, **style)
        start = mean(v for (n, _, _, o), v in scores.items() if (n, o) == (name, "initial"))
        axis.axhline(start, color="grey", linewidth=1, linestyle=":", label="initial prompt")
        axis.set(title=name, xscale="log", xlabel="calls", ylabel="mean test score")
        ticks = sorted({budget for _, _, budget, _ in scores if budget})
        axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axis.minorticks_off()
    axes.flat[-1].axis("off")
    axes.flat[-1].legend(*axes.flat[0].get_legend_handles_labels(), loc="center")
    figure.suptitle("Simulated landscapes: test score of the returned prompt by calls of the search")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=300)
    parser.add_argument("--budgets", default="300,1000,3000")
    parser.add_argument("--most", type=int, default=10_000, help="budget more of token-level ones; 0 = none")
    parser.add_argument("--optimizers", nargs="+", default=STRATEGIES, help="with options: spo@n_votes=2,n_gate=0")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--reuse", action="store_true", help="keep the rows of an earlier out/strategies.csv")
    parser.add_argument("--plot", type=Path, default=OUT / "strategies.png")
    args = parser.parse_args()
    optimizers = args.optimizers
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    wanted = cells(seeds, [int(text) for text in args.budgets.split(",")], args.most, optimizers)
    path = OUT / "strategies.csv"
    old = {row.cell: row for row in read(path) if row.cell in set(wanted)} if args.reuse else {}
    run = partial(measure, options=OPTIONS, kinds=KINDS)
    with ProcessPoolExecutor(args.workers) as pool:
        rows = [*old.values(), *pool.map(run, (cell for cell in wanted if cell not in old))]
    OUT.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["landscape", "seed", "budget", "optimizer", "test_score", "seconds"])
        writer.writerows([*astuple(m.cell), m.score, round(m.seconds, 3)] for m in rows)
    scores = {(m.cell.landscape, m.cell.seed, m.cell.budget, m.cell.optimizer): m.score for m in rows}
    print(f"{len(seeds)} seeds from {args.first_seed}, 500 test examples each: mean test score")
    print(table(scores, optimizers))
    plot(scores, optimizers, args.plot)
    print(f"\nplot: {args.plot}; {sum(m.seconds for m in rows):.0f} s of run time", file=sys.stderr)


if __name__ == "__main__":
    main()
