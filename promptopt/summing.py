"""Sums the runs of a grid up: scores of strategies, ranks, pairs, curves, spend, and what to know of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from decimal import Decimal
from typing import Any

from promptopt import contrast, registry
from promptopt.cell import Outcome
from promptopt.comparison import CellResult, CompareResult, Curve, Status, StrategyResult, total
from promptopt.contrast import Block, Ranks, Row
from promptopt.grid import Grid, power_notes
from promptopt.result import package_version
from promptopt.task import UNSCORED

_N_POINTS = 60  # of a curve
_Rows = dict[str, dict[Block, Row]]


def summed(grid: Grid, outcomes: Sequence[Outcome], *, is_stopped: bool, duration_s: float) -> CompareResult:
    """Return what the cells of a grid amount to, in the grid's order."""
    cells = [outcome.result for outcome in outcomes]
    best = {name: _rows(outcomes, name, of_best=True) for name in grid.optimizers}
    initial = {name: _rows(outcomes, name, of_best=False) for name in grid.optimizers}
    best, initial = contrast.common(best), contrast.common(initial)
    scored = {name: own for name, own in best.items() if own}
    ranks = contrast.ranks(
        {
            name: contrast.blocks_of(scored[name], are_data=grid.are_data_blocks)
            for name in _ranked(grid, list(scored))
        }
    )
    status, reason = _status(cells, is_stopped=is_stopped)
    models = _models(grid)
    return CompareResult(
        status=status,
        reason=reason,
        models=models,
        is_simulated=any(model["is_simulated"] for model in models.values()),
        budget=_budget(grid),
        data={name: _data(grid, name) for name in grid.data},
        seeds=grid.asked.seeds,
        strategies=tuple(_strategy(grid, cells, name, best, initial, ranks) for name in grid.optimizers),
        blocks="data sets" if grid.are_data_blocks else "data sets and seeds",
        ranks=ranks,
        pairs=contrast.pairs(scored, are_data=grid.are_data_blocks),
        cells=tuple(cells),
        curves=tuple(
            curve
            for data in grid.data
            for name in grid.optimizers
            if (curve := _curve([cell for cell in cells if (cell.data, cell.optimizer) == (data, name)]))
            is not None
        ),
        charged=total([cell.charged for cell in cells if cell.charged is not None]),
        paid=total([cell.paid for cell in cells]),
        notes=tuple(_notes(grid, cells, best)),
        duration_s=duration_s,
        version=package_version(),
        out=str(grid.folder),
    )


def _rows(outcomes: Sequence[Outcome], optimizer: str, *, of_best: bool) -> dict[Block, Row]:
    """Return the test scores of a strategy's runs that have ended."""
    return {
        (outcome.result.data, outcome.result.seed): row
        for outcome in outcomes
        if outcome.result.optimizer == optimizer
        and outcome.result.has_ended
        and (row := outcome.best if of_best else outcome.initial)
    }


def _strategy(
    grid: Grid, cells: Sequence[CellResult], name: str, best: _Rows, initial: _Rows, ranks: Ranks | None
) -> StrategyResult:
    own = [cell for cell in cells if cell.optimizer == name]
    verdicts = [cell.gain.verdict for cell in own if cell.gain is not None and cell.has_ended]
    plan = next((cell.plan for cell in grid.cells if cell.optimizer == name and cell.plan is not None), None)
    return StrategyResult(
        optimizer=name,
        source="" if plan is None else plan.optimizer.source,
        options={} if plan is None else {key: str(v) for key, v in registry.options_of(plan.optimizer).items()},
        test=contrast.estimate(best[name]),
        initial=contrast.estimate(initial[name]),
        gain=contrast.estimate(contrast.difference(best[name], initial[name]), least=-1.0),
        average_rank=None if ranks is None else ranks.average.get(name),
        proven=verdicts.count("proven"),
        worse=verdicts.count("worse"),
        ended=sum(cell.has_ended for cell in own),
        cells=len(own),
        charged=total([cell.charged for cell in own if cell.charged is not None]),
        paid=total([cell.paid for cell in own]),
    )


def _status(cells: Sequence[CellResult], *, is_stopped: bool) -> tuple[Status, str]:
    n_ended = sum(cell.has_ended for cell in cells)
    if n_ended == len(cells):
        return "completed", "every run has ended"
    what = f"{n_ended} of {len(cells)} runs have ended"
    if is_stopped:
        return "interrupted", f"{what}; the same command with the same --out goes on"
    first = next(cell for cell in cells if not cell.has_ended)
    return "incomplete", f"{what}; {first.cell}: {first.reason}"


def _models(grid: Grid) -> dict[str, Any]:
    """Return all models of the grid by role."""
    return {
        role: {"name": spec.name, "is_simulated": spec.is_simulated}
        for plan in grid.plans
        for role, spec in plan.models.items()
    }


def _budget(grid: Grid) -> dict[str, Any]:
    """Return the limits of each run; a budget by name is one of calls."""
    budget = asdict(grid.plans[0].settings.budget)
    limit = grid.plans[0].limit
    if limit.limits_calls:
        budget["calls"] = limit.calls
    return {key: float(value) if isinstance(value, Decimal) else value for key, value in budget.items()}


def _data(grid: Grid, name: str) -> dict[str, Any]:
    task = grid.plan_of(name).given
    sizes = {"train": len(task.train), "dev": len(task.dev), "test": len(task.test)}
    return {"metric": task.metric.name, **sizes}


def _curve(cells: Sequence[CellResult]) -> Curve | None:
    """Return the mean curve of a strategy's runs on a data set; None = no run has a dev score."""
    curves = [cell.curve for cell in cells if any(step.dev is not None for step in cell.curve)]
    if not curves:
        return None
    last = max(step.calls for curve in curves for step in curve)
    calls = sorted({round(last * i / (_N_POINTS - 1)) for i in range(_N_POINTS)})
    dev: list[float | None] = []
    for n in calls:
        held = [[step for step in curve if step.calls <= n] for curve in curves]
        values = [steps[-1].dev for steps in held if steps]
        known = [value for value in values if value is not None]
        dev.append(math.fsum(known) / len(known) if len(known) == len(curves) else None)
    return Curve(cells[0].data, cells[0].optimizer, tuple(calls), tuple(dev), len(curves))


def _notes(grid: Grid, cells: Sequence[CellResult], best: _Rows) -> list[str]:
    """Return what has to be known before the figures are believed."""
    models = _models(grid)
    notes = []
    simulated = [role for role, model in models.items() if model["is_simulated"]]
    if simulated:
        notes.append(f"simulated models ({', '.join(simulated)}): the figures say nothing of a real one")
    if lacking := _lacking(grid, cells, best):
        notes.append(
            f"runs without a test score: {', '.join(lacking)}; means are over the others, so look at the pairs, "
            "which count the blocks that both have"
        )
    unscored = sorted({cell.data for cell in cells if cell.metric == UNSCORED})
    if unscored:
        notes.append(
            f"{', '.join(unscored)}: without scores; its runs have win rates of their own, and are not ranked"
        )
    scored = [name for name in grid.optimizers if best[name]]
    if not scored:
        return notes
    if unranked := [name for name in scored if name not in _ranked(grid, scored)]:
        notes.append(f"{', '.join(unranked)}: cannot run on every data set, so it has no rank; see the pairs")
    if len(grid.asked.seeds) == 1:
        notes.append("one seed: intervals are over test examples alone, and say nothing of another run's luck")
    if not grid.are_data_blocks:
        n = len(grid.data)
        those = "this data set" if n == 1 else f"these {n} data sets"
        notes.append(
            "ranks and tests count each data set and seed as a block; seeds of one data set are no independent "
            f"data sets, so the tests speak of {those} alone"
        )
    notes += power_notes(grid)
    notes.append("curves show dev scores, by which the search chose: they flatter; the test scores do not")
    return notes


def _ranked(grid: Grid, scored: Sequence[str]) -> Sequence[str]:
    """Return the strategies to rank: one that cannot run everywhere would leave the others few blocks."""
    cannot = {cell.optimizer for cell in grid.cells if cell.plan is None}
    able = [name for name in scored if name not in cannot]
    return able if len(able) > 1 else scored


def _lacking(grid: Grid, cells: Sequence[CellResult], best: _Rows) -> list[str]:
    """Return in words how many runs of each strategy lack a test score, where they could have one."""
    found = []
    for name in grid.optimizers:
        n = sum(cell.optimizer == name and cell.metric != UNSCORED for cell in cells)
        if len(best[name]) < n:
            found.append(f"{name} {n - len(best[name])} of {n}")
    return found
