"""What a comparison found: `compare.json`, its table `compare.csv`. The schema is in docs/compare.schema.json."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any, Literal

from promptopt.contrast import Estimate, Pair, Ranks
from promptopt.result import Spent, SplitScore, as_json

CellStatus = Literal["completed", "budget_exhausted", "interrupted", "failed", "not_run"]
Status = Literal["completed", "incomplete", "interrupted"]

# What another session of the same comparison may say otherwise, by part of compare.json.
_PASSING = {"": ("duration_s", "version"), "cells": ("attempts", "lost_in_flight")}
_STEERING = ("Cc", "Cf", "Cs", "Co")  # categories of characters that may steer a terminal, or cannot be written
JSON_NAME, CSV_NAME = "compare.json", "compare.csv"
# A spreadsheet takes a text that begins so for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


@dataclass(frozen=True)
class Summary:
    """A prompt's scores, as in result.json; None = not evaluated."""

    dev: SplitScore | None
    test: SplitScore | None
    prompt_tokens: int


@dataclass(frozen=True)
class Gain:
    """The proof of one run: best against initial prompt on the test examples.

    Args:
        delta: mean score gained; None = there are no scores.
        win_rate: of a judge's verdicts, where there are no scores; else None.
    """

    delta: float | None
    ci95: tuple[float, float] | None
    p_value: float
    test: str
    verdict: str
    win_rate: float | None = None


@dataclass(frozen=True)
class Step:
    """The best prompt so far, after so many calls: its mean score on the dev examples that it had been tried on.

    The search chose by these scores, so they flatter.

    Args:
        dev: None = it had not been tried on dev yet.
        n: dev examples behind it.
    """

    calls: int
    dev: float | None
    n: int


@dataclass(frozen=True)
class CellResult:
    """One run of the grid.

    Args:
        cell: its name; its files lie in `cells/` and that name, below the comparison's folder.
        reason: why it ended so, or why it did not run.
        initial: None = there is no result.
        charged: answers that it used, as if it had run alone; its budget counts these.
        paid: answers that came live for it; the others had been paid for by other runs.
        attempts: live calls sent, failed and lost ones included.
        curve: what the search held for its best prompt, by calls charged.
    """

    cell: str
    data: str
    optimizer: str
    seed: int
    metric: str
    status: CellStatus
    reason: str
    initial: Summary | None
    best: Summary | None
    gain: Gain | None
    charged: Spent | None
    paid: Spent
    attempts: int
    lost_in_flight: int
    prompts_tried: int
    missing: int
    unparsed: int
    curve: tuple[Step, ...]
    warnings: tuple[str, ...]

    @property
    def has_ended(self) -> bool:
        """Whether the run ended by itself or by its budget, and need not run again."""
        return self.status in ("completed", "budget_exhausted")


@dataclass(frozen=True)
class StrategyResult:
    """One strategy over all its runs; scores are on the test examples that all strategies have in common.

    Args:
        test: mean over data sets of the mean over seeds; None = it has no score.
        initial: the same of the initial prompt.
        gain: the same of the difference.
        proven: runs whose own proof says so.
        cells: runs that were wanted; `ended` of them have ended.
    """

    optimizer: str
    source: str
    options: dict[str, str]
    test: Estimate | None
    initial: Estimate | None
    gain: Estimate | None
    average_rank: float | None
    proven: int
    worse: int
    ended: int
    cells: int
    charged: Spent
    paid: Spent


@dataclass(frozen=True)
class Curve:
    """The best prompt's dev score by calls charged, mean over the seeds of a data set; it flatters.

    Args:
        calls: from 0 on, in equal steps.
        dev: at each; None = some run has no score yet.
        n_seeds: runs behind it.
    """

    data: str
    optimizer: str
    calls: tuple[int, ...]
    dev: tuple[float | None, ...]
    n_seeds: int


@dataclass(frozen=True)
class CompareResult:
    """What a comparison found; docs/compare.md describes every field.

    Args:
        status: completed (every cell has ended), incomplete (some failed or cannot run), or interrupted.
        models: by role the name, and `is_simulated`.
        is_simulated: whether any of them is the built-in stand-in: then the figures say nothing of a real model.
        budget: of each run.
        data: by name: metric, and the numbers of examples.
        blocks: what ranks and pairs count as one observation.
        charged: answers of all runs as if each had run alone.
        paid: answers that came live, each once.
        notes: what to know before the figures are believed.
        out: the folder; no part of compare.json.
    """

    status: Status
    reason: str
    models: dict[str, Any]
    is_simulated: bool
    budget: dict[str, Any]
    data: dict[str, Any]
    seeds: tuple[int, ...]
    strategies: tuple[StrategyResult, ...]
    blocks: Literal["data sets", "data sets and seeds"]
    ranks: Ranks | None
    pairs: tuple[Pair, ...]
    cells: tuple[CellResult, ...]
    curves: tuple[Curve, ...]
    charged: Spent
    paid: Spent
    notes: tuple[str, ...]
    duration_s: float
    version: str
    out: str | None = None

    def to_json(self) -> str:
        """Return the content of `compare.json`."""
        fields = asdict(self)
        del fields["out"]
        return as_json(fields)

    def to_csv(self) -> str:
        """Return the content of `compare.csv`: a row for each cell, scores in [0, 1], dollars exact."""
        simulated = " ".join(role for role, model in self.models.items() if model["is_simulated"])
        file = io.StringIO(newline="")
        rows = [_csv_row(cell, simulated) for cell in self.cells]
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return file.getvalue()


def lasting(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a `compare.json` without what another session of it may say otherwise.

    That is: times, calls that failed or were lost in flight, and the version of the program.
    """
    kept = {key: value for key, value in fields.items() if key not in _PASSING[""]}
    kept["cells"] = [
        {key: value for key, value in cell.items() if key not in _PASSING["cells"]} for cell in fields["cells"]
    ]
    return kept


def total(parts: Sequence[Spent]) -> Spent:
    """Return the sum; dollars are None if any are unknown."""
    costs = [part.cost_usd for part in parts]
    known = [cost for cost in costs if cost is not None]
    return Spent(
        calls=sum(part.calls for part in parts),
        cost_usd=sum(known, Decimal(0)) if len(known) == len(costs) else None,
        input_tokens=sum(part.input_tokens for part in parts),
        output_tokens=sum(part.output_tokens for part in parts),
    )


def _csv_row(cell: CellResult, simulated: str) -> dict[str, object]:
    gain = cell.gain
    row: dict[str, object] = {
        "data": cell.data,
        "optimizer": cell.optimizer,
        "seed": cell.seed,
        "status": cell.status,
        "metric": cell.metric,
        "simulated_roles": simulated,
        **_csv_scores("initial", cell.initial),
        **_csv_scores("best", cell.best),
        "gain": gain and gain.delta,
        "gain_low95": gain and gain.ci95 and gain.ci95[0],
        "gain_high95": gain and gain.ci95 and gain.ci95[1],
        "win_rate": gain and gain.win_rate,
        "p_value": gain and gain.p_value,
        "test": gain and gain.test,
        "verdict": gain and gain.verdict,
        **_csv_spent("charged", cell.charged),
        **_csv_spent("paid", cell.paid),
        "attempts": cell.attempts,
        "lost_in_flight": cell.lost_in_flight,
        "prompts_tried": cell.prompts_tried,
        "missing": cell.missing,
        "unparsed": cell.unparsed,
        "reason": cell.reason,
    }
    return {key: _csv_cell(value) for key, value in row.items()}


def _csv_scores(name: str, found: Summary | None) -> dict[str, object]:
    row: dict[str, object] = {}
    for split in ("dev", "test"):
        score: SplitScore | None = None if found is None else getattr(found, split)
        row[f"{name}_{split}"] = score and score.score
        row[f"{name}_{split}_low95"] = score and score.ci95[0]
        row[f"{name}_{split}_high95"] = score and score.ci95[1]
        row[f"{name}_{split}_n"] = score and score.n
    row[f"{name}_prompt_tokens"] = found and found.prompt_tokens
    return row


def _csv_spent(name: str, spent: Spent | None) -> dict[str, object]:
    return {
        f"{name}_calls": spent and spent.calls,
        f"{name}_usd": spent and spent.cost_usd,
        f"{name}_input_tokens": spent and spent.input_tokens,
        f"{name}_output_tokens": spent and spent.output_tokens,
    }


def _csv_cell(value: object) -> object:
    """Return a value for a CSV file; a text that a spreadsheet would take for a formula gets an apostrophe."""
    if not isinstance(value, str):
        return value
    text = "".join(c if c in "\n\t" or unicodedata.category(c) not in _STEERING else "\ufffd" for c in value)
    return f"'{text}" if text.startswith(_FORMULA) else text
