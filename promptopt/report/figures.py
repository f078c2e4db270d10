"""The plots of a run: each takes the story, or a part of it, and gives the SVG of one drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from promptopt.report.drawing import ACCENT, BAD, GOOD, GRID, INK, MUTED, OLD, PIXELS, draw
from promptopt.report.page import harmless
from promptopt.report.record import Entry, Heat, Story, Twig

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from promptopt.result import Result

Tips = dict[str, Sequence[str]]

# More points than that cannot be told apart: they are drawn as pixels, so that the page opens at once.
MOST_POINTS = 400
# Arms of a race, or nodes of a tree, that are drawn.
MOST_ARMS, MOST_TWIGS = 40, 150


def proof(result: Result) -> str:
    """Return both prompts' scores on test with their intervals, and on dev."""
    rows = [("your prompt", result.initial, OLD), ("best prompt", result.best, ACCENT)]

    def paint(axes: Axes) -> None:
        for y, (_, scores, colour) in enumerate(rows):
            if scores.test is not None:
                low, high = (100 * end for end in scores.test.ci95)
                at = 100 * scores.test.score
                axes.plot([low, high], [y, y], color=colour, lw=5, alpha=0.35, solid_capstyle="round")
                axes.plot([at], [y], "o", color=colour, ms=11)
                axes.annotate(f"{at:.1f}", (at, y), (0, 9), textcoords="offset points", ha="center", color=INK)
            if scores.dev is not None:
                axes.plot([100 * scores.dev.score], [y], "D", mfc="none", mec=MUTED, ms=7)
        axes.set_yticks(range(2), [row[0] for row in rows])
        axes.tick_params(axis="y", labelcolor=INK, length=0)
        axes.set_ylim(1.6, -0.6)
        axes.set_xlim(-2, 102)
        axes.set_xlabel("test score in % with 95% interval; diamonds: dev")
        axes.grid(axis="x", color=GRID, lw=0.6, alpha=0.6)
        axes.spines["left"].set_visible(False)

    return draw(
        "proof", "Scores of your prompt and the best prompt on unseen test examples", paint, (5.0, 2.1), left=1.1
    )


def score_against_spend(story: Story, in_dollars: bool) -> str:
    """Return every candidate's dev score by what had been spent when it was first scored, and the incumbents."""

    def at(entry: Entry) -> float | None:
        if in_dollars:
            return None if entry.usd is None else float(entry.usd)
        return entry.calls

    scored = [e for e in story.entries if e.dev is not None and at(e) is not None]
    line = _incumbents(story, {e.number for e in scored})

    def paint(axes: Axes) -> Tips:
        tips = _cloud(axes, scored, [at(e) or 0 for e in scored], {e.number for e in line})
        xs, ys = [at(e) or 0 for e in line], [100 * (e.dev or 0) for e in line]
        if line:
            spent = [row.usd for row in story.spending if row.phase == "search"]
            n_calls = sum(row.calls for row in story.spending if row.phase == "search")
            whole = float(sum(usd for usd in spent if usd is not None)) if in_dollars else n_calls
            axes.step([*xs, max(whole, xs[-1])], [*ys, ys[-1]], where="post", color=ACCENT, lw=1.6, zorder=3)
            tips |= _marked(axes, "incumbents", line, xs, ACCENT)
        what = "dollars spent" if in_dollars else "answers used, of all roles,"
        _finish(axes, f"{what} when a prompt was first scored", "dev score in %")
        axes.set_xlim(left=0)
        return tips

    name = "usd" if in_dollars else "calls"
    return draw(f"spend{name}", "Dev score of every prompt against spend, with the best so far", paint)


def score_against_length(story: Story, front: Sequence[Entry]) -> str:
    """Return every candidate's dev score by its length, and the front."""
    scored = [e for e in story.entries if e.dev is not None]
    on_front = {e.number for e in front}
    apart = [e for e in (story.entries[0], story.entries[story.best]) if e in scored and e.number not in on_front]

    def paint(axes: Axes) -> Tips:
        hidden = on_front | {e.number for e in apart}
        tips = _cloud(axes, scored, [e.tokens for e in scored], hidden)
        xs, ys = [e.tokens for e in front], [100 * (e.dev or 0) for e in front]
        axes.step(xs, ys, where="post", color=GOOD, lw=1.6, zorder=3)
        tips |= _marked(axes, "front", front, xs, GOOD)
        if apart:
            tips |= _marked(axes, "apart", apart, [e.tokens for e in apart], ACCENT)
        for entry in {e.number: e for e in (story.entries[0], story.entries[story.best]) if e in scored}.values():
            label = "yours" if entry.number == 0 else "best"
            place = (entry.tokens, 100 * (entry.dev or 0))
            axes.annotate(label, place, (7, -12), textcoords="offset points", color=INK, fontsize=9)
        _finish(axes, "estimated tokens of the prompt, without an example's input", "dev score in %")
        return tips

    return draw("length", "Dev score of every prompt against its length, with the Pareto front", paint)


def race(heat: Heat, entries: Sequence[Entry], name: str) -> str:
    """Return how far each arm of a race came: who left is crossed out where it left."""
    arms = sorted(heat.arms, key=lambda arm: (arm.is_out, -arm.n_seen, -(entries[arm.number].dev or 0)))[
        :MOST_ARMS
    ]
    return _lanes(
        name,
        [(f"#{arm.number}", arm.n_seen, arm.is_out) for arm in arms],
        "dev examples that the arms were compared on; lines: ends of blocks",
        heat.looks,
        heat.n_pool,
    )


def reach(entries: Sequence[Entry]) -> str:
    """Return on how many dev examples each candidate was scored; for searches without races."""
    scored = [e for e in entries if e.n_dev]
    most = max(e.n_dev for e in scored)
    shown = sorted(scored, key=lambda e: (-e.n_dev, e.number))[:MOST_ARMS]
    rows = [(f"#{e.number}", e.n_dev, e.n_dev < most) for e in shown]
    return _lanes("reach", rows, "dev examples that a prompt was scored on", (), most)


def tree(twigs: Sequence[Twig], best: int, lineage: Sequence[int]) -> str:
    """Return the search tree, the path to the best prompt marked."""
    shown = _whole_branches(twigs, set(lineage))
    places = _places(shown)
    on_path = set(lineage)

    def paint(axes: Axes) -> Tips:
        for twig in shown:
            if twig.parent in places and twig.parent is not None:
                (x1, y1), (x2, y2) = places[twig.parent], places[twig.number]
                is_on = twig.number in on_path and twig.parent in on_path
                colour, width = (ACCENT, 2.2) if is_on else (GRID, 1.0)
                axes.plot([x1, x2], [y1, y2], color=colour, lw=width, zorder=1)
        for twig in shown:
            x, y = places[twig.number]
            colour = GOOD if twig.number == best else ACCENT if twig.number in on_path else OLD
            axes.plot([x], [y], "o", color=colour, ms=8, zorder=2)
            text = f"#{twig.number}\n{100 * twig.reward:.0f}"
            axes.annotate(text, (x, y), (0, -8), textcoords="offset points", ha="center", va="top", fontsize=8)
        axes.set_axis_off()
        axes.margins(0.05, 0.12)
        return {}

    depth = max(twig.depth for twig in shown) + 1
    width = max(sum(1 for twig in shown if twig.depth == d) for d in range(depth))
    size = (min(14.0, max(7.2, 0.5 * width)), min(9.0, 0.6 + 0.85 * depth))
    return draw("tree", "The search tree: number and mean score in % of each prompt", paint, size, left=0.2)


# Parts ------------------------------------------------------------------------------------------------


def _cloud(axes: Axes, entries: Sequence[Entry], xs: Sequence[float], hidden: set[int]) -> Tips:
    """Draw the points that are not marked otherwise; as pixels where they are many."""
    rows = [(x, e) for x, e in zip(xs, entries, strict=True) if e.number not in hidden]
    if not rows:
        return {}
    is_many = len(rows) > MOST_POINTS
    place = ([x for x, _ in rows], [100 * (e.dev or 0) for _, e in rows])
    colour, opacity, area = (PIXELS, 0.3, 10) if is_many else (OLD, 0.75, 24)
    axes.scatter(
        *place, s=area, color=colour, alpha=opacity, linewidths=0, rasterized=is_many, zorder=2, gid="cloud"
    )
    return {} if is_many else {"cloud": [_tip(e) for _, e in rows]}


def _marked(axes: Axes, gid: str, entries: Sequence[Entry], xs: Sequence[float], colour: str) -> Tips:
    axes.scatter(xs, [100 * (e.dev or 0) for e in entries], s=52, color=colour, linewidths=0, zorder=4, gid=gid)
    return {gid: [_tip(e) for e in entries]}


def _lanes(name: str, rows: Sequence[tuple[str, int, bool]], label: str, looks: Sequence[int], n_pool: int) -> str:
    """Return lanes of candidates, in the order given: how far each came, and whether it left there."""

    def paint(axes: Axes) -> None:
        for look in looks:
            axes.axvline(look, color=GRID, lw=0.7, zorder=0)
        for y, (_, n, is_out) in enumerate(rows):
            axes.plot([0, n], [y, y], color=OLD if is_out else ACCENT, lw=3, solid_capstyle="butt", zorder=1)
            axes.plot([n], [y], "x" if is_out else "o", color=BAD if is_out else ACCENT, ms=6, mew=2, zorder=2)
        axes.set_yticks(range(len(rows)), [row[0] for row in rows])
        axes.tick_params(axis="y", labelcolor=INK, length=0)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(0, 1.04 * max(1, n_pool, *(n for _, n, _ in rows)))
        axes.locator_params(axis="x", integer=True)
        axes.set_xlabel(label)

    return draw(name, f"How far each prompt came: {label}", paint, (7.2, 0.9 + 0.24 * len(rows)))


def _finish(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(color=GRID, lw=0.6, alpha=0.5)
    axes.set_axisbelow(True)
    low, high = axes.get_ylim()
    axes.set_ylim(max(-2, min(low, high - 10)), min(103, max(high, low + 10)))


def _incumbents(story: Story, known: set[int]) -> list[Entry]:
    """Return the best prompts so far that can be drawn, in the order of spend."""
    named = [story.entries[n] for n in dict.fromkeys((0, *story.proposals, story.best)) if n in known]
    return sorted(named, key=lambda e: (e.calls or 0, e.number))


def _tip(entry: Entry) -> str:
    parts = [f"#{entry.number} {entry.candidate.operator}"]
    if entry.dev is not None:
        parts.append(f"{100 * entry.dev:.1f}% on {entry.n_dev} dev examples")
    parts.append(f"{entry.tokens:,} tokens")
    if entry.calls is not None:
        parts.append(f"after {entry.calls:,} answers")
    return harmless(", ".join(parts))[:300]


def _whole_branches(twigs: Sequence[Twig], wanted: set[int]) -> list[Twig]:
    """Return the nodes to draw: all, or of many the path to the best prompt and the first others."""
    if len(twigs) <= MOST_TWIGS:
        return list(twigs)
    kept = {twig.number for twig in twigs if twig.number in wanted}
    kept |= {twig.number for twig in sorted(twigs, key=lambda t: (t.depth, -t.reward))[: MOST_TWIGS - len(kept)]}
    return [twig for twig in twigs if twig.number in kept]


def _places(twigs: Sequence[Twig]) -> Mapping[int, tuple[float, float]]:
    """Return x and y of each node: leaves side by side, parents above the middle of their children."""
    known = {twig.number for twig in twigs}
    children: dict[int | None, list[int]] = {}
    for twig in twigs:
        children.setdefault(twig.parent if twig.parent in known else None, []).append(twig.number)
    depth = {twig.number: twig.depth for twig in twigs}
    places: dict[int, tuple[float, float]] = {}
    n_leaves = 0
    stack = [(number, False) for number in reversed(children.get(None, []))]
    seen: set[int] = set()
    while stack:
        number, is_done = stack.pop()
        below = [child for child in children.get(number, []) if child != number]
        if not is_done and number not in seen:
            seen.add(number)
            stack.append((number, True))
            stack.extend((child, False) for child in reversed(below) if child not in seen)
        elif is_done:
            xs = [places[child][0] for child in below if child in places]
            if not xs:
                n_leaves += 1
            places[number] = (sum(xs) / len(xs) if xs else float(n_leaves), -float(depth[number]))
    for twig in twigs:  # in a damaged journal a node may be its own ancestor
        if twig.number not in places:
            n_leaves += 1
            places[twig.number] = (float(n_leaves), -float(twig.depth))
    return places
