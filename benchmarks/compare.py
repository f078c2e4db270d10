"""The default strategy against our others, four arms, and the optimizers of other packages: one table a budget.

    python benchmarks/compare.py --make-venvs        # once: the other packages, from the package index
    python benchmarks/compare.py --workers 2         # everything: takes hours; rows in out/compare.csv are kept
    python benchmarks/compare.py --only reflect promptagent gepa --worlds default rugged --budgets 300 --seeds 2

Budgets are answers of the task model during the search; those of the optimizer model are not limited, and shown.
Worlds are the frozen landscapes and the variations of worlds.py. Test scores are means over 500 examples. Ours run
in process, which gives the same answers as the server that the others ask; only their seconds hold no HTTP. The
arms are the initial prompt, four random demonstrations, optimized demonstrations, and both (`reflect` itself).
Differences are paired by world and seed. Everything is simulated.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from statistics import mean, median

from landscapes import OUT
from peers import PEERS, make_venvs
from peers import measure as measure_peer
from scipy import stats
from search import UNSEARCHED, Cell, Measured, Usage, measure, measure_at
from worlds import LANDSCAPE_WORLDS, VARIATIONS, WORLDS

from promptopt.simulator import PRICE_IN, PRICE_OUT

DEFAULT = "reflect"
STRATEGIES = ("random", "capo", "promptagent", "spo", "promptquine", "tapruning", "claps")
ARMS = ("initial", "random-demos", f"{DEFAULT}@demo_every=1")
OPTIONS = {"spo": {"n_rounds": "none"}}
ROLES = ("task", "optimizer", "judge")
COLUMNS = (
    *("world", "seed", "budget", "optimizer", "test_score", "seconds"),
    *(f"{role}_{what}" for role in ROLES for what in Usage._fields),
)
PATH = OUT / "compare.csv"


def run(cell: Cell, venvs: Path, timeout_s: float) -> Measured:
    """Run one cell, ours or a peer's."""
    if cell.optimizer in PEERS:
        return measure_peer(cell.landscape, cell.seed, cell.budget, cell.optimizer, venvs, timeout_s=timeout_s)
    return (measure if cell.optimizer in UNSEARCHED else measure_at)(cell, OPTIONS)


def cells(names: Sequence[str], worlds: Sequence[str], seeds: Sequence[int], budgets: Sequence[int]) -> list[Cell]:
    """Return the runs to make, the longest first; ClaPS needs closed labels, which graded answers are not."""
    searched = [name for name in names if name not in UNSEARCHED]
    wanted = [
        Cell(w, s, b, o) for b in sorted(budgets, reverse=True) for o in searched for w in worlds for s in seeds
    ]
    wanted += [Cell(w, s, 0, o) for o in names if o in UNSEARCHED for w in worlds for s in seeds]
    return [cell for cell in wanted if not (cell.optimizer == "claps" and "json" in WORLDS[cell.landscape].kinds)]


def write(path: Path, row: Measured) -> None:
    """Append a row to the table of all runs."""
    is_new = not path.exists()
    path.parent.mkdir(exist_ok=True)
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if is_new:
            writer.writerow(COLUMNS)
        cell = row.cell
        used = [n for role in ROLES for n in row.usage.get(role, Usage())]
        start = (cell.landscape, cell.seed, cell.budget, cell.optimizer)
        writer.writerow([*start, row.score, round(row.seconds, 2), *used])


def read(path: Path) -> dict[Cell, Measured]:
    """Return the rows of earlier runs, the last one of each cell; none if there is no file."""
    if not path.exists():
        return {}
    found = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            cell = Cell(row["world"], int(row["seed"]), int(row["budget"]), row["optimizer"])
            usage = {role: Usage(*(int(row[f"{role}_{what}"]) for what in Usage._fields)) for role in ROLES}
            found[cell] = Measured(cell, float(row["test_score"]), float(row["seconds"]), usage)
    return found


def dollars(row: Measured, ratio: float) -> float:
    """Return what a search costs if the optimizer model, and a judge, cost `ratio` times the task model."""
    total = 0.0
    for role, used in row.usage.items():
        price = float(PRICE_IN) * used.input_tokens + float(PRICE_OUT) * used.output_tokens
        total += price * (1 if role == "task" else ratio)
    return total


def few(differences: Sequence[float]) -> str:
    """Return mean and 95% interval by Student's t, which few pairs need."""
    if len(differences) < 2:
        return "-"
    low, high = stats.ttest_1samp(differences, 0).confidence_interval()
    return f"{mean(differences):+.3f} ({low:+.3f} to {high:+.3f})"


def report(rows: dict[Cell, Measured], names: Sequence[str], worlds: Sequence[str], budget: int) -> str:
    """Return the tables of one budget: scores by world, differences to the default strategy, and what it took."""

    def of(name: str, world: str) -> dict[int, Measured]:
        wanted = 0 if name in UNSEARCHED else budget
        return {
            c.seed: row for c, row in rows.items() if (c.landscape, c.budget, c.optimizer) == (world, wanted, name)
        }

    lines = [f"\n**{budget:,} answers of the task model**\n"]
    lines.append(f"| | {' | '.join(worlds)} | mean | {DEFAULT} is better by (95%) | worlds where it is worse |")
    lines.append("|---" * (len(worlds) + 4) + "|")
    best = {world: of(DEFAULT, world) for world in worlds}
    for name in names:
        means, every, worse = [], [], []
        for world in worlds:
            found = of(name, world)
            means.append(mean(row.score for row in found.values()) if found else float("nan"))
            here = [best[world][s].score - row.score for s, row in found.items() if s in best[world]]
            every += here
            if len(here) > 1 and stats.ttest_1samp(here, 0).confidence_interval().high < 0:
                worse.append(world)
        cells = " | ".join(f"{m:.3f}" for m in means)
        gain = "" if name == DEFAULT else few(every)
        lines.append(f"| {name} | {cells} | {mean(means):.3f} | {gain} | {', '.join(worse) or '-'} |")
    lines += [
        "",
        "| median a run | task answers | other answers | $ at 1x | $ at 10x | seconds |",
        "|---" * 6 + "|",
    ]
    for name in names:
        found_rows = [row for world in worlds for row in of(name, world).values()]
        if not found_rows or name in UNSEARCHED:
            continue
        others = median(sum(u.calls for role, u in row.usage.items() if role != "task") for row in found_rows)
        figures = [
            f"{median(row.task_calls for row in found_rows):,.0f}",
            f"{others:,.0f}",
            *(f"{median(dollars(row, ratio) for row in found_rows):.4f}" for ratio in (1, 10)),
            f"{median(row.seconds for row in found_rows):.1f}",
        ]
        lines.append(f"| {name} | {' | '.join(figures)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", nargs="+", default=[DEFAULT, *ARMS, *STRATEGIES, *PEERS], metavar="NAME")
    parser.add_argument("--worlds", nargs="+", default=list(WORLDS), choices=list(WORLDS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=300)
    parser.add_argument("--budgets", default="300,1000,3000")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--venvs", type=Path, default=OUT / "venvs", help="folder of virtual environments")
    parser.add_argument("--make-venvs", action="store_true", help="make those that are missing, and end")
    parser.add_argument("--again", nargs="*", default=[], metavar="NAME", help="run these anew")
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds that a peer's cell may take")
    args = parser.parse_args()
    if args.make_venvs:
        make_venvs(args.venvs, sorted({PEERS[name] for name in args.only if name in PEERS}))
        return
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    budgets = [int(text) for text in args.budgets.split(",")]
    wanted = cells(args.only, args.worlds, seeds, budgets)
    rows = {cell: row for cell, row in read(PATH).items() if cell.optimizer not in args.again}
    work = partial(run, venvs=args.venvs, timeout_s=args.timeout)
    failed = 0
    with ProcessPoolExecutor(args.workers) as pool:
        tasks = {pool.submit(work, cell): cell for cell in wanted if cell not in rows}
        for future in as_completed(tasks):
            try:
                row = future.result()
            except RuntimeError as error:  # of a peer's program
                failed += 1
                print(f"{tasks[future]} failed: {error}", file=sys.stderr)
                continue
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            write(PATH, row)
            rows[row.cell] = row
    kept = {cell: row for cell, row in rows.items() if cell in set(wanted)}
    for title, group in (("frozen landscapes", LANDSCAPE_WORLDS), ("variations", VARIATIONS)):
        worlds = [name for name in args.worlds if name in group]
        if worlds:
            print(f"\n## {title}: {len(seeds)} seeds from {args.first_seed}, mean test score")
            for budget in budgets:
                print(report(kept, args.only, worlds, budget))
    if failed:
        sys.exit(f"{failed} of {len(wanted)} cells failed; the same command runs them again")


if __name__ == "__main__":
    main()
