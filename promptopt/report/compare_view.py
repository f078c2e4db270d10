"""The page of a comparison: what `compare.json` holds, for people."""

from __future__ import annotations

import string
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptopt.compare_words import percent, points, spend_line
from promptopt.report import compare_figures, drawing
from promptopt.report.page import render

if TYPE_CHECKING:
    from markupsafe import Markup

    from promptopt.comparison import CompareResult

_PARTS = (
    ("strategies", "Strategies"),
    ("pairs", "Pairs"),
    ("curves", "Curves"),
    ("runs", "Runs"),
    ("spend", "Spend"),
    ("settings", "Settings"),
)
_MOST_RUNS = 1000  # rows of the page's table; compare.csv has all


def page_of(found: CompareResult) -> str:
    """Return the page of a comparison; without matplotlib, without plots."""
    simulated = [role for role, model in found.models.items() if model["is_simulated"]]
    return render(
        "compare.html.jinja",
        parts=_PARTS,
        found=found,
        name=Path(found.out or "comparison").name,
        simulated=simulated,
        headline=_headline(found),
        ordered=sorted(found.strategies, key=lambda row: -(row.test.value if row.test else -1)),
        figures=_figures(found) if drawing.can_draw() else {},
        remedy=drawing.REMEDY,
        most_runs=_MOST_RUNS,
        percent=percent,
        points=points,
        spend=spend_line(found),
    )


def _headline(found: CompareResult) -> Mapping[str, str]:
    """Return in words which strategy is ahead, and what of that is proven."""
    scored = [row for row in found.strategies if row.test is not None]
    if not scored:
        return {"kind": "not_proven", "title": "No test scores", "sentence": found.reason}
    best = max(scored, key=lambda row: row.test.value if row.test else 0)
    said = {}
    for pair in found.pairs:
        if best.optimizer in (pair.a, pair.b):
            other = pair.b if pair.a == best.optimizer else pair.a
            said[other] = pair.verdict == ("better" if pair.a == best.optimizer else "worse")
    beaten, others = [n for n, is_won in said.items() if is_won], [n for n, is_won in said.items() if not is_won]
    sentences = [f"Proven better than {', '.join(beaten)}."] if beaten else []
    sentences += [f"No difference to {', '.join(others)} is proven."] if others else []
    return {
        "kind": "proven" if beaten and not others else "not_proven",
        "title": f"{best.optimizer} has the highest test score: {percent(best.test)}",
        "sentence": " ".join(sentences),
    }


def _figures(found: CompareResult) -> dict[str, Any]:
    """Return the plots with their captions, by name."""
    plots: dict[str, Any] = {"curves": []}
    if any(row.test is not None for row in found.strategies):
        plots["scores"] = _figure(
            compare_figures.scores(found.strategies),
            "Mean over data sets and seeds on test examples that no search has seen. The intervals cover seeds "
            "and test examples; strategies share both, so look at the pairs for differences.",
        )
    if found.ranks is not None:
        plots["ranks"] = _figure(
            compare_figures.critical_difference(found.ranks),
            f"Average ranks over {found.ranks.n_blocks} blocks ({found.blocks}), 1 = best. A bar joins strategies "
            "whose ranks differ by less than the critical difference (Nemenyi, level .05).",
        )
    for i, data in enumerate(found.data):
        own = [curve for curve in found.curves if curve.data == data]
        if own:
            n = max(curve.n_seeds for curve in own)
            plots["curves"].append(
                (data, _figure(compare_figures.curves(own, f"curve{_letters(i)}"), _curve_caption(n)))
            )
    return plots


def _curve_caption(n_seeds: int) -> str:
    seeds = "One seed" if n_seeds == 1 else f"Mean over {n_seeds} seeds"
    return (
        f"{seeds}. Prompts stand on different numbers of dev examples; where a run has ended, its line is level."
    )


def _figure(drawn: str, caption: str) -> Mapping[str, Markup | str]:
    from markupsafe import Markup

    return {"drawing": Markup(drawn), "caption": caption}


def _letters(i: int) -> str:
    """Return a number as letters."""
    return "".join(string.ascii_lowercase[int(digit)] for digit in str(i))
