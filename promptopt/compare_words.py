"""Figures of a comparison in words, the same on screens and pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from promptopt.wording import dollars

if TYPE_CHECKING:
    from promptopt.comparison import CompareResult
    from promptopt.contrast import Estimate


def percent(found: Estimate | None) -> str:
    """Return a mean score with its interval and numbers, in percent."""
    if found is None:
        return "-"
    low, high = found.ci95
    return f"{100 * found.value:.1f}% ({100 * low:.1f}-{100 * high:.1f})"


def points(found: Estimate | None) -> str:
    """Return a difference of scores with its interval, in points."""
    if found is None:
        return "-"
    low, high = found.ci95
    return f"{100 * found.value:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def spend_line(found: CompareResult) -> str:
    """Return what all runs were charged, and what was paid."""
    saved = found.charged.calls - found.paid.calls
    share = 100 * saved / found.charged.calls if found.charged.calls else 0
    return (
        f"charged as if each ran alone: {found.charged.calls:,} calls, {dollars(found.charged.cost_usd)}; "
        f"paid: {found.paid.calls:,} calls, {dollars(found.paid.cost_usd)} "
        f"({saved:,} calls, {share:.0f}%, were shared)"
    )
