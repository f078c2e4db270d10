"""The plots of a comparison. Names in them are those of folders: nothing that a drawing could take for its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from promptopt.grid import plain
from promptopt.report.drawing import ACCENT, BAD, GOOD, GRID, INK, MUTED, OLD, draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from promptopt.comparison import Curve, StrategyResult
    from promptopt.contrast import Ranks

_COLOURS = (ACCENT, BAD, GOOD, INK, OLD, MUTED)
_DASHES = ("-", "--", ":")
_LONGEST = 20  # characters of a name
_ROW = 0.34  # inches


def label(name: str) -> str:
    """Return a strategy's name as drawings show it."""
    found = plain(name)
    return found if len(found) <= _LONGEST else f"{found[: _LONGEST - 1]}…"


def scores(strategies: Sequence[StrategyResult]) -> str:
    """Return the test score of each strategy with its interval, best first, and that of the initial prompt."""
    scored = [row for row in strategies if row.test is not None]
    rows = sorted(scored, key=lambda row: -(row.test.value if row.test else 0))

    def paint(axes: Axes) -> None:
        for y, row in enumerate(rows):
            assert row.test is not None
            low, high = (100 * end for end in row.test.ci95)
            axes.plot([low, high], [y, y], color=ACCENT, lw=5, alpha=0.35, solid_capstyle="round")
            axes.plot([100 * row.test.value], [y], "o", color=ACCENT, ms=9)
            if row.initial is not None:
                axes.plot([100 * row.initial.value], [y], "D", mfc="none", mec=MUTED, ms=7)
        axes.set_yticks(range(len(rows)), [label(row.optimizer) for row in rows])
        axes.tick_params(axis="y", labelcolor=INK, length=0)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel("mean test score in %, with its 95% interval; diamonds: your prompt")
        axes.grid(axis="x", color=GRID, lw=0.6, alpha=0.6)
        axes.spines["left"].set_visible(False)

    return draw("scores", "Test score of each strategy", paint, (7.2, 0.9 + 0.42 * len(rows)), left=1.9)


def critical_difference(ranks: Ranks) -> str:
    """Return average ranks on a line; bars join strategies that the critical difference does not tell apart."""
    names = sorted(ranks.average, key=lambda name: (ranks.average[name], name))
    n, n_left = len(names), (len(names) + 1) // 2
    bars = [group for group in ranks.groups if len(group) > 1] if ranks.critical_difference is not None else []
    depth = 0.5 + 0.28 * len(bars)

    def paint(axes: Axes) -> None:
        axes.plot([1, n], [0, 0], color=INK, lw=1.2)
        for tick in range(1, n + 1):
            axes.plot([tick, tick], [0, 0.14], color=INK, lw=1.2)
            axes.annotate(f"{tick}", (tick, 0.2), ha="center", va="bottom", color=MUTED)
        for i, name in enumerate(names):
            is_left = i < n_left
            y = -depth - 0.55 * (i if is_left else n - 1 - i)
            edge, rank = (1 - 0.06 * n if is_left else n + 0.06 * n), ranks.average[name]
            axes.plot([rank, rank, edge], [0, y, y], color=MUTED, lw=1)
            axes.annotate(
                f"{label(name)}  {rank:.2f}" if is_left else f"{rank:.2f}  {label(name)}",
                (edge, y),
                (-4 if is_left else 4, 0),
                textcoords="offset points",
                ha="right" if is_left else "left",
                va="center",
                color=INK,
            )
        for i, group in enumerate(bars):
            ends = [ranks.average[group[0]], ranks.average[group[-1]]]
            axes.plot([ends[0] - 0.03, ends[1] + 0.03], [-0.3 - 0.28 * i] * 2, color=ACCENT, lw=4)
        if ranks.critical_difference is not None:
            reach = min(ranks.critical_difference, n - 1)
            axes.plot([1, 1 + reach], [0.95, 0.95], color=INK, lw=1.6)
            for x in (1, 1 + reach):
                axes.plot([x, x], [0.85, 1.05], color=INK, lw=1.6)
            more = "" if reach == ranks.critical_difference else " (beyond the line)"
            axes.annotate(
                f"critical difference {ranks.critical_difference:.2f}{more}",
                (1 + reach / 2, 1.1),
                ha="center",
                va="bottom",
                color=MUTED,
            )
        axes.set_xlim(1 - 0.5 * n, n + 0.5 * n)
        axes.set_ylim(-depth - 0.55 * n_left, 1.6)
        axes.axis("off")

    height = _ROW * (depth + 0.55 * n_left + 1.6) / 0.55 + 0.3
    return draw("ranks", "Average ranks with the critical difference", paint, (7.2, height), left=0.2)


def curves(found: Sequence[Curve], name: str) -> str:
    """Return the best prompt's dev score by calls charged, of each strategy on one data set.

    A run that has ended keeps its prompt, so its line goes on level.

    Args:
        name: tells apart the drawings of a page; letters only.
    """

    most = max(curve.calls[-1] for curve in found)

    def paint(axes: Axes) -> None:
        for i, curve in enumerate(found):
            points = [(x, 100 * y) for x, y in zip(curve.calls, curve.dev, strict=True) if y is not None]
            axes.step(
                [*(x for x, _ in points), most],
                [*(y for _, y in points), points[-1][1]] if points else [math.nan],
                where="post",
                color=_COLOURS[i % len(_COLOURS)],
                ls=_DASHES[i // len(_COLOURS) % len(_DASHES)],
                lw=1.8,
                label=label(curve.optimizer),
            )
        axes.set_xlabel("calls charged")
        axes.set_ylabel("dev score of the best so far in %")
        axes.set_xlim(left=0)
        axes.grid(color=GRID, lw=0.6, alpha=0.5)
        axes.set_axisbelow(True)
        axes.legend(loc="lower right", fontsize=10)

    return draw(name, "Dev score of the best prompt so far by calls charged", paint)
