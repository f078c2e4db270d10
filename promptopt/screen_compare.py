"""What users see of a comparison: its grid and forecast, its runs as they end, its figures. Decides nothing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, TextIO

from rich.table import Table
from rich.text import Text

from promptopt.compare_words import percent, points, spend_line
from promptopt.screen import Screen, clean, console_of, short
from promptopt.verdict import simulated_line
from promptopt.wording import counted, dollars

if TYPE_CHECKING:
    from promptopt.comparing import Comparing
    from promptopt.comparison import CellResult, CompareResult, StrategyResult
    from promptopt.contrast import Pair
    from promptopt.plan import Plan
    from promptopt.run import Run

_MOST_CELLS, _MOST_PAIRS = 40, 28  # rows of a table; the files have all
_MOST_REASON = 200
_CELL_WIDTH = 28  # columns that the name of a run has at least, if it is as long


class CompareScreen:
    """Prints to a person: notes and progress to stderr, the outcome to stdout.

    Args:
        is_quiet: nothing but the outcome.
    """

    def __init__(self, comparing: Comparing, *, is_quiet: bool = False) -> None:
        self._comparing = comparing
        self._out, self._err = console_of(sys.stdout), console_of(sys.stderr)
        self._is_quiet = is_quiet
        self._told: set[str] = set()
        self._run: Run | None = None
        self._screen: Screen | None = None
        self._is_stopping = False

    def start(self, file: TextIO | None = None) -> None:
        """Show what will be done and what it will cost, before anything is spent.

        Args:
            file: where to show it with a table of the forecast; None = to stderr, in a line.
        """
        if self._is_quiet:
            return
        console = self._err if file is None else console_of(file)
        grid, left = self._comparing.grid, self._comparing.plans_left()
        lines = [*grid.notes, _what(self._comparing), _forecast_line(left)]
        if n := len(grid.plans) - len(left):
            lines.insert(-1, f"{n} of {counted(len(grid.cells), 'run')} have ended already, and are not run again")
        for line in lines:
            console.print(Text(clean(line)))
        if file is not None:
            console.print(_forecast_table(self._comparing, left))

    def watch(self, comparing: Comparing) -> None:
        """Show the runs that have ended, and the progress of the one that goes on."""
        if comparing.stop.is_set and not self._is_stopping:
            self._is_stopping = True
            self._close()
            self._say("stopping: waiting for the calls in flight (Ctrl-C again leaves at once)")
        self._tell_ended()
        if self._is_quiet or self._is_stopping:
            return
        if comparing.run is not self._run:
            self._close()
            self._run = comparing.run
            self._screen = None if self._run is None else Screen()
        if self._run is not None and self._screen is not None:
            self._screen.watch(self._run)

    def end_watch(self) -> None:
        """Show the runs that have ended since."""
        self._tell_ended()
        self._close()

    def _tell_ended(self) -> None:
        if self._is_quiet:
            return
        n = len(self._comparing.grid.cells)
        for name, outcome in list(self._comparing.outcomes.items()):
            if name not in self._told:
                self._told.add(name)
                if outcome.result.status != "not_run":
                    self._close()
                    self._say(f"[{len(self._told)}/{n}] {_cell_line(outcome.result)}")

    def _close(self) -> None:
        if self._screen is not None:
            self._screen.clear()

    def _say(self, line: str) -> None:
        self._err.print(Text(clean(line)))

    def result(self, found: CompareResult) -> None:
        """Show the figures: strategies, ranks, pairs, runs, spend, and what to know of them."""
        if line := simulated_line(found.models):
            self._print(line, "yellow")
        self._print(f"{found.status}: {short(found.reason, _MOST_REASON)}", "bold")
        title = f"Test scores, mean over {_means_over(found)}, with 95% intervals (n: scores of single examples)"
        self._print(f"\n{title}:", "bold")
        self._table(_strategies(found))
        self._print(_ranks_line(found))
        if found.pairs:
            self._print(f"\nPairs, by {_blocks(found)}; p-values corrected for {len(found.pairs)} (Holm):", "bold")
            self._table(_pairs(found.pairs[:_MOST_PAIRS]))
            if len(found.pairs) > _MOST_PAIRS:
                self._print(f"and {len(found.pairs) - _MOST_PAIRS} more in compare.json")
        self._runs(found)
        for cell in found.cells:
            if cell.status in ("failed", "interrupted"):
                self._print(f"  {cell.cell}: {cell.status}: {short(cell.reason, _MOST_REASON)}", "red")
        self._print(f"\n{spend_line(found)}")
        for note in found.notes:
            self._print(f"Note: {note}")
        self._print(
            f"\nEverything lies in {found.out}: compare.html, compare.json, compare.csv, journal.db, cells/"
        )
        if found.status != "completed":
            self._print(f"To go on, run the same command with --out {found.out}")

    def _runs(self, found: CompareResult) -> None:
        """Show the runs that have begun."""
        begun = [cell for cell in found.cells if cell.status != "not_run"]
        self._print("\nRuns (test scores on n examples; charged and paid in calls):", "bold")
        self._table(_cells(begun[:_MOST_CELLS]))
        if len(begun) > _MOST_CELLS:
            self._print(f"and {len(begun) - _MOST_CELLS} more in compare.csv")
        if n := len(found.cells) - len(begun):
            self._print(f"{counted(n, 'run')} not begun")

    def _table(self, table: Table) -> None:
        with self._out.capture() as captured:
            self._out.print(table, soft_wrap=False)
        lines = Text.from_ansi(captured.get()).plain.splitlines()
        self._print("\n".join(line.rstrip() for line in lines))

    def _print(self, line: str, style: str = "") -> None:
        self._out.print(Text(clean(line), style=style))


def _what(comparing: Comparing) -> str:
    grid = comparing.grid
    n_seeds = len(grid.asked.seeds)
    names = {role: spec for plan in grid.plans for role, spec in plan.models.items()}
    models = ", ".join(dict.fromkeys(spec.name for spec in names.values()))
    simulated = [role for role, spec in names.items() if spec.is_simulated]
    if len(simulated) == len(names):
        models += " (SIMULATED: built-in stand-in, no real model)"
    elif simulated:
        models += f" (SIMULATED as {', '.join(simulated)})"
    return (
        f"comparing {', '.join(grid.optimizers)} on {', '.join(grid.data)} with {models}: "
        f"{counted(len(grid.cells), 'run')} ({len(grid.optimizers)} strategies x "
        f"{counted(len(grid.data), 'data set')} x {counted(n_seeds, 'seed')}), one after the other"
    )


def _forecast_line(plans: Sequence[Plan]) -> str:
    if not plans:
        return "nothing is left to run"
    calls, expected, worst = _forecast(plans)
    at_worst = "unbounded at worst (or a price is unknown)" if worst is None else f"{dollars(worst)} at worst"
    return (
        f"forecast of {counted(len(plans), 'run')}: about {calls:,} calls, {dollars(expected)} expected, "
        f"{at_worst}, if no two runs shared an answer; shared answers are paid once"
    )


def _forecast(plans: Sequence[Plan]) -> tuple[int, Decimal | None, Decimal | None]:
    """Return expected calls, expected dollars and the most dollars of some runs; None = unknown or unbounded."""
    expected = [plan.forecast.expected_usd for plan in plans]
    worst = [plan.forecast.worst_usd for plan in plans]
    return sum(plan.forecast.calls for plan in plans), _sum(expected), _sum(worst)


def _sum(amounts: Sequence[Decimal | None]) -> Decimal | None:
    known = [amount for amount in amounts if amount is not None]
    return sum(known, Decimal(0)) if len(known) == len(amounts) else None


def _forecast_table(comparing: Comparing, left: Sequence[Plan]) -> Table:
    """Return what is expected of the runs that are left, by data set and strategy."""
    table = _new_table("data set", "strategy", right=("runs", "calls", "dollars", "at worst"))
    for data in comparing.grid.data:
        for name in comparing.grid.optimizers:
            cells = [c for c in comparing.grid.cells if (c.data, c.optimizer) == (data, name)]
            plans = [c.plan for c in cells if c.plan is not None and any(c.plan is plan for plan in left)]
            table.add_row(
                clean(data), clean(name), *_forecast_cells(plans, "cannot run" if cells[0].reason else "")
            )
    table.add_row("all", "", *_forecast_cells(left, ""))
    return table


def _forecast_cells(plans: Sequence[Plan], otherwise: str) -> list[str]:
    if not plans:
        return ["0", otherwise or "-", "", ""]
    calls, expected, worst = _forecast(plans)
    return [f"{len(plans)}", f"{calls:,}", dollars(expected), "no limit" if worst is None else dollars(worst)]


def _cell_line(cell: CellResult) -> str:
    """Return how a run ended, in a line."""
    if not cell.has_ended:
        return f"{cell.cell}: {cell.status}: {short(cell.reason, _MOST_REASON)}"
    parts = [cell.cell + ":"]
    if cell.best is not None and cell.best.test is not None:
        parts.append(f"{100 * cell.best.test.score:.1f}% on {cell.best.test.n} test examples")
    if cell.gain is not None and cell.gain.delta is not None:
        parts.append(f"({100 * cell.gain.delta:+.1f} points, {cell.gain.verdict.replace('_', ' ')}),")
    elif cell.gain is not None and cell.gain.win_rate is not None:
        parts.append(f"win rate {100 * cell.gain.win_rate:.1f}% ({cell.gain.verdict.replace('_', ' ')}),")
    charged = cell.charged.calls if cell.charged else 0
    return f"{' '.join(parts)} {charged:,} calls charged, {cell.paid.calls:,} paid"


def _means_over(found: CompareResult) -> str:
    data, seeds = len(found.data), len(found.seeds)
    return f"{counted(data, 'data set')} and {counted(seeds, 'seed')}"


def _blocks(found: CompareResult) -> str:
    n = found.ranks.n_blocks if found.ranks else 0
    return f"{counted(n, 'block')} ({found.blocks})"


def _new_table(*left: str, right: Sequence[str] = ()) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for name in left:
        table.add_column(name, overflow="fold")
    for name in right:
        table.add_column(name, justify="right", overflow="fold")
    return table


def _strategies(found: CompareResult) -> Table:
    table = _new_table(
        "strategy", right=("test score", "n", "gain, points", "rank", "runs", "proven", "charged", "paid")
    )
    rows = sorted(found.strategies, key=lambda row: -(row.test.value if row.test else -1))
    for row in rows:
        table.add_row(*_strategy_cells(row))
    return table


def _strategy_cells(row: StrategyResult) -> list[str]:
    return [
        clean(row.optimizer),
        percent(row.test),
        f"{row.test.n_answers:,}" if row.test else "0",
        points(row.gain),
        "-" if row.average_rank is None else f"{row.average_rank:.2f}",
        f"{row.ended}/{row.cells}",
        f"{row.proven}" + (f" (worse: {row.worse})" if row.worse else ""),
        f"{row.charged.calls:,}",
        f"{row.paid.calls:,}",
    ]


def _ranks_line(found: CompareResult) -> str:
    ranks = found.ranks
    if ranks is None:
        return "No ranks: fewer than two strategies have test scores."
    line = f"Average ranks (1 = best) over {_blocks(found)}"
    if ranks.p_value is not None:
        line += f"; Friedman's test that all are alike: p = {ranks.p_value:.2g}"
    if ranks.critical_difference is not None:
        most = len(ranks.average) - 1
        line += f"; critical difference at .05 (Nemenyi): {ranks.critical_difference:.2f}"
        line += f", more than ranks can differ ({most})" if ranks.critical_difference > most else ""
    return f"{line}."


def _pairs(pairs: Sequence[Pair]) -> Table:
    table = _new_table("pair", right=("won/tied/lost", "difference, points", "p", "p corrected", "the first is"))
    for pair in pairs:
        table.add_row(
            f"{clean(pair.a)} - {clean(pair.b)}",
            f"{pair.wins}/{pair.ties}/{pair.losses}",
            points(pair.difference),
            f"{pair.p_value:.2g}",
            f"{pair.p_holm:.2g}",
            pair.verdict,
        )
    return table


def _cells(cells: Sequence[CellResult]) -> Table:
    table = _new_table("run", right=("initial", "best", "n", "gain", "p", "charged", "paid"))
    table.columns[0].min_width = min(_CELL_WIDTH, max((len(cell.cell) for cell in cells), default=0))
    for cell in cells:
        initial, best = (None if found is None else found.test for found in (cell.initial, cell.best))
        gain = cell.gain
        table.add_row(
            clean(cell.cell),
            "-" if initial is None else f"{100 * initial.score:.1f}%",
            "-" if best is None else f"{100 * best.score:.1f}%",
            "-" if best is None else f"{best.n}",
            "-" if gain is None or gain.delta is None else f"{100 * gain.delta:+.1f}",
            "-" if gain is None else f"{gain.p_value:.2g}",
            "-" if cell.charged is None else f"{cell.charged.calls:,}",
            f"{cell.paid.calls:,}",
        )
    return table
