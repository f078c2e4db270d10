"""What stands on the page of a run: the story in words and figures. Texts stay texts; the template escapes."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from markupsafe import Markup

from promptopt import promptfile
from promptopt.report import drawing, figures
from promptopt.report.difference import pieces
from promptopt.report.front import pareto_front
from promptopt.report.page import render
from promptopt.report.record import Entry, Heat, Story
from promptopt.report.words import cut, headline_of, line, money, percent, split
from promptopt.template import render_demo
from promptopt.types import Demo

# Rows of the table of candidates, and how many of them with the whole prompt.
MOST_ROWS, MOST_WHOLE = 500, 100
MOST_HEATS = 8
PARTS = (
    ("proof", "Proof"),
    ("prompt", "Prompt"),
    ("search", "Search"),
    ("lineage", "Lineage"),
    ("racing", "Racing"),
    ("examples", "Examples"),
    ("spend", "Spend"),
    ("settings", "Settings"),
)


class Figure(NamedTuple):
    """A drawing with what is said below it."""

    drawing: Markup
    caption: str


class Card(NamedTuple):
    """A figure that stands out, with its unit and sample size."""

    value: str
    meaning: str


def page_of(story: Story) -> str:
    """Return the page of a run."""
    front = pareto_front(story.entries)
    return render(
        "run.html.jinja",
        parts=PARTS,
        story=story,
        result=story.result,
        best=story.entries[story.best],
        initial=story.entries[0],
        headline=headline_of(story.result),
        cards=_cards(story),
        optimism=_optimism(story),
        change=pieces(
            story.entries[0].candidate.prompt.instruction, story.entries[story.best].candidate.prompt.instruction
        ),
        demos=_demos(story),
        front=front,
        shown=_shown(story.entries),
        n_whole=MOST_WHOLE,
        heats=story.heats[:MOST_HEATS],
        figures=_figures(story, front),
        remedy=drawing.REMEDY,
        command=_command(story.config),
        file_of=lambda entry: promptfile.format_prompt(entry.candidate.prompt, story.front_matter),
        percent=percent,
        money=money,
        cut=cut,
        line=line,
        split=split,
    )


def _cards(story: Story) -> list[Card]:
    result = story.result
    initial, best = story.entries[0], story.entries[story.best]
    cards = []
    if result is not None and result.initial.test and result.best.test:
        pair = f"{percent(result.initial.test.score)} → {percent(result.best.test.score)}"
        cards.append(Card(pair, f"test score, yours → best, n = {result.best.test.n}"))
    judged = result.improvement.judged if result is not None and result.improvement is not None else None
    if judged is not None and judged.win_rate is not None:
        n = judged.wins + judged.losses + judged.ties
        cards.append(Card(percent(judged.win_rate), f"win rate by the judge, n = {n} test inputs"))
    if story.uses is not None:
        before, after = story.uses
        pair = f"{money(before.usd_per_1000)} → {money(after.usd_per_1000)}"
        cards.append(Card(pair, f"per 1,000 uses, yours → best, n = {after.n} {story.uses_split} examples"))
    cards.append(Card(f"{initial.tokens:,} → {best.tokens:,}", "estimated tokens of the prompt, yours → best"))
    n_calls = sum(row.calls for row in story.spending)
    usd = [row.usd for row in story.spending]
    total = None if None in usd else sum((u for u in usd if u is not None), Decimal(0))
    cards.append(Card(money(total), f"spent on the run, {n_calls:,} answers of all roles"))
    return cards


def _optimism(story: Story) -> list[str]:
    """Return in sentences how far the dev score flatters, and what the test split could have proved."""
    result = story.result
    said: list[str] = []
    if result is None:
        return said
    dev, test = result.best.dev, result.best.test
    if dev is not None and test is not None:
        gap = 100 * (dev.score - test.score)
        figures = (
            f"The best prompt scored {percent(dev.score)} on dev (n = {dev.n}) and {percent(test.score)} on test"
        )
        if gap > 0:
            said.append(
                f"{figures} (n = {test.n}): {gap:.1f} points less. It was chosen by its dev score, so that one "
                "flatters; believe the test score."
            )
        else:
            said.append(f"{figures} (n = {test.n}): dev did not flatter it.")
    proof = result.improvement
    if proof is None:
        return said
    if proof.judged is not None:
        least, what = proof.judged.smallest_provable, "win rate"
        n = proof.judged.wins + proof.judged.losses + proof.judged.ties
        if n == 0:
            return said
    else:
        least, what, n = proof.smallest_provable, "gain", test.n if test else 0
    if proof.verdict == "not_proven":
        said.append(f"There is no significant improvement on {n} test examples (p = {proof.p_value:.2g}).")
    if least is None:
        said.append(f"With {n} test examples no {what} could have been proved; at least 6 that change are needed.")
    else:
        amount = f"{100 * least:.1f}{'%' if what == 'win rate' else ' points'}"
        said.append(f"The smallest {what} that these {n} test examples could have proved is {amount}.")
    return said


def _demos(story: Story) -> list[tuple[str, str]]:
    """Return the demonstrations of both prompts as (removed, added or same, text)."""
    before = story.entries[0].candidate.prompt.demos
    after = story.entries[story.best].candidate.prompt.demos

    def rows(kind: str, demos: Sequence[Demo]) -> Iterator[tuple[str, str]]:
        return ((kind, render_demo(demo)) for demo in demos)

    gone = [demo for demo in before if demo not in after]
    return [
        *rows("removed", gone),
        *(row for demo in after for row in rows("same" if demo in before else "added", [demo])),
    ]


def _shown(entries: Sequence[Entry]) -> list[Entry]:
    """Return the candidates of the table, the best first; unscored ones last."""
    order = sorted(entries, key=lambda e: (-1 if e.dev is None else e.dev, e.n_dev, -e.number), reverse=True)
    return order[:MOST_ROWS]


def _command(config: str) -> str:
    """Return the command that config.toml names; "" = none."""
    try:
        found = tomllib.loads(config).get("run", {})
    except (tomllib.TOMLDecodeError, RecursionError):
        return ""
    command = found.get("command") if isinstance(found, dict) else None
    return command if isinstance(command, str) else ""


# Drawings ---------------------------------------------------------------------------------------------


def _figures(story: Story, front: Sequence[Entry]) -> dict[str, Any]:
    """Return the drawings by name; {} where nothing can draw them."""
    if not drawing.can_draw():
        return {}
    found: dict[str, Any] = {}

    def add(name: str, caption: str, drawn: Callable[[], str]) -> None:
        found[name] = Figure(Markup(drawn()), caption)

    result = story.result
    if result is not None and result.initial.test is not None and result.best.test is not None:
        n = result.best.test.n
        add("proof", f"{n} test examples, each answered with both prompts.", lambda: figures.proof(result))
    scored = [entry for entry in story.entries if entry.dev is not None]
    if scored:
        points = (
            f"Each point is one of {len(scored):,} prompts; prompts that left early stand on few dev examples."
        )
        add("calls", f"{points} The line is the best so far.", lambda: figures.score_against_spend(story, False))
        if any(entry.usd for entry in scored):
            add("usd", "The same against dollars.", lambda: figures.score_against_spend(story, True))
        add("length", _front_caption(story), lambda: figures.score_against_length(story, front))
    if story.twigs:
        add(
            "tree",
            f"{len(story.twigs):,} nodes: number of the prompt, and its mean score in % on the sample of the "
            "search. The path to the best prompt is marked.",
            lambda: figures.tree(story.twigs, story.best, [step.entry.number for step in story.lineage]),
        )
    heats = [
        Figure(Markup(figures.race(h, story.entries, f"race{chr(97 + i)}")), _heat_caption(h))
        for i, h in enumerate(story.heats[:MOST_HEATS])
    ]
    if heats:
        found["heats"] = heats
    elif scored:
        add("reach", "Prompts that fell behind were not scored on all examples.", lambda: figures.reach(scored))
    return found


def _front_caption(story: Story) -> str:
    most = max(entry.n_dev for entry in story.entries)
    return (
        "The line is the Pareto front: no shorter prompt scores as well. It is drawn through prompts that "
        f"were scored on at least half as many dev examples as the one with the most (n = {most})."
    )


def _heat_caption(heat: Heat) -> str:
    n_out = sum(arm.is_out for arm in heat.arms)
    n_seen = heat.looks[-1] if heat.looks else 0
    more = f", the {figures.MOST_ARMS} that came furthest shown" if len(heat.arms) > figures.MOST_ARMS else ""
    return (
        f"{len(heat.arms)} arms{more}, {heat.keep} to keep; {n_out} left before the end (crossed out). "
        f"{n_seen} of {heat.n_pool} examples were used."
    )
