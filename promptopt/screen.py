"""What users see of a run: notes before it, progress during it, the outcome after it. Decides nothing."""

from __future__ import annotations

import difflib
import re
import sys
import time
import unicodedata
from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from promptopt.plan import Plan
    from promptopt.result import PromptScores, Result, SplitScore
    from promptopt.run import Run

_N_SHOWN = 3
_LINE_EVERY_S = 5.0


def clean(text: str) -> str:
    """Return `text` without control and formatting characters: it may come from a model or from data."""
    return "".join(
        c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co") else "�" for c in text
    )


def dollars(amount: Decimal | None) -> str:
    """Return an amount of dollars as text; None is unknown, not free."""
    if amount is None:
        return "unknown cost"
    return f"${amount:.2f}" if amount >= 1 or amount == 0 else f"${amount:.4f}"


class Screen:
    """Prints to a person: notes and progress to stderr, the outcome to stdout.

    Args:
        is_quiet: nothing but the outcome.
    """

    def __init__(self, *, is_quiet: bool = False, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self._out = Console(file=out or sys.stdout, highlight=False, soft_wrap=False)
        self._err = Console(file=err or sys.stderr, highlight=False, soft_wrap=True)
        self._is_quiet = is_quiet
        self._last_line = ""
        self._last_at = 0.0

    def plan(self, plan: Plan) -> None:
        """Show what was decided and what it will cost, before anything is spent."""
        if self._is_quiet:
            return
        for note in plan.notes:
            self._say(note)
        names = {role: plan.models[role].name for role in ("task", "optimizer")}
        models = (
            names["task"] if names["task"] == names["optimizer"] else f"{names['task']} ({names['optimizer']})"
        )
        simulated = " (SIMULATED: built-in stand-in, no real model)" if plan.is_simulated else ""
        self._say(
            f"{plan.optimizer_name} on {plan.task.name} with {models}{simulated}; "
            f"up to {plan.concurrency} calls at once"
        )
        self._say(_forecast_line(plan))

    def watch(self, run: Run) -> None:
        """Show the progress of a run: one line, renewed on a terminal, told now and then elsewhere."""
        if self._is_quiet or run.state is None:
            return
        line = _progress_line(run)
        if self._err.is_terminal:
            self._err.file.write(f"\r\x1b[K{line[: self._err.width - 1]}")
            self._err.file.flush()
        elif line != self._last_line and time.monotonic() - self._last_at >= _LINE_EVERY_S:
            self._say(line)
            self._last_at = time.monotonic()
        self._last_line = line
        if run.stop.is_set:
            self._say("stopping: waiting for calls in flight (again Ctrl-C to leave at once)")

    def end_watch(self, run: Run) -> None:
        """Close the progress line."""
        if self._is_quiet or run.state is None:
            return
        if self._err.is_terminal:
            self._err.file.write("\r\x1b[K")
        self._say(_progress_line(run))

    def result(self, result: Result, plan: Plan) -> None:
        """Show the outcome: verdict, table, difference of the prompts, examples, where everything lies."""
        is_simulated = any(model["is_simulated"] for model in result.models.values())
        if is_simulated:
            self._out.print("SIMULATED MODEL: these figures say nothing about a real one.", style="yellow")
        self._out.print(Text(verdict(result), style="bold"))
        self._out.print(_score_table(result))
        self._out.print(_spend_line(result))
        if result.best.prompt != result.initial.prompt:
            self._out.print("\nThe better prompt (removed, added):", style="bold")
            self._out.print(word_difference(clean(result.initial.prompt), clean(result.best.prompt)))
        self._changed_examples(result, plan)
        if result.out:
            self._out.print(f"\nEverything lies in {result.out}: best.md, result.json, journal.db, config.toml")
        if result.status == "interrupted":
            self._out.print(f"Interrupted; to go on, run the same command with --out {result.out}")
        if result.status == "failed":
            self._out.print(f"Failed: {clean(result.reason)}", style="red")

    def _changed_examples(self, result: Result, plan: Plan) -> None:
        if result.improvement is None:
            return
        rows = {example.id: example for example in plan.task.test}
        for title, ids in (("fixed", result.improvement.fixed), ("broken", result.improvement.broken)):
            self._out.print(f"\n{len(ids)} test examples {title}" + (":" if ids else ""), style="bold")
            for name in ids[:_N_SHOWN]:
                shown = " | ".join(rows[name].inputs[column] for column in plan.task.shown_columns)
                target = rows[name].target or ""
                self._out.print(Text(f"  {name}: {_short(shown, 90)}  ->  {_short(target, 30)}"))

    def _say(self, line: str) -> None:
        self._err.print(Text(clean(line)))


def verdict(result: Result) -> str:
    """Return the outcome in one plain sentence."""
    proof = result.improvement
    if proof is None:
        return {
            "interrupted": "Interrupted before the proof; the best prompt so far is kept.",
            "failed": "Failed; the best prompt so far is kept.",
        }.get(result.status, "No proof was asked for; the gain on unseen data is not known.")
    n = result.best.test.n if result.best.test else 0
    low, high = proof.ci95
    figures = (
        f"{100 * proof.delta:+.1f} points on {n} unseen test examples "
        f"(95% interval {100 * low:+.1f} to {100 * high:+.1f}; {proof.test}, p = {proof.p_value:.2g})"
    )
    if proof.verdict == "proven":
        return f"Proven: {figures}."
    if proof.verdict == "worse":
        return f"Worse, keep yours: {figures}."
    least = proof.smallest_provable
    could = (
        "no gain could have been proved with so few examples"
        if least is None
        else f"the smallest gain that this test split could have proved is {100 * least:.1f} points"
    )
    return f"Not proven: {figures}; {could}."


def word_difference(before: str, after: str) -> Text:
    """Return a word-level difference of two texts, removed words struck through, added ones underlined."""
    old, new = (re.findall(r"\s+|[^\s]+", text) for text in (before, after))
    shown = Text()
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(a=old, b=new, autojunk=False).get_opcodes():
        if tag == "equal":
            shown.append("".join(old[i1:i2]))
            continue
        if i1 < i2:
            shown.append("[-" + "".join(old[i1:i2]) + "-]", style="red strike")
        if j1 < j2:
            shown.append("{+" + "".join(new[j1:j2]) + "+}", style="green")
    return shown


def _forecast_line(plan: Plan) -> str:
    forecast = plan.forecast
    worst = dollars(forecast.worst_usd)
    line = f"forecast: about {forecast.calls} calls, {dollars(forecast.expected_usd)} expected, {worst} at worst"
    if forecast.n_proof == 0:
        return line
    if forecast.smallest_provable is None:
        return f"{line}; a test split of {forecast.n_proof} examples cannot prove any gain: at least 6 are needed"
    return (
        f"{line}; {forecast.n_proof} test examples can prove a gain of "
        f"{100 * forecast.smallest_provable:.1f} points at best"
    )


def _progress_line(run: Run) -> str:
    state = run.state
    assert state is not None
    calls = sum(tally.calls for tally in state.tallies.values())
    costs = [tally.cost_usd for tally in state.tallies.values()]
    cost = None if None in costs else sum((c for c in costs if c is not None), Decimal(0))
    budget = run.plan.settings.budget
    limits = [f"of {budget.calls}" if budget.calls else "", f"of ${budget.usd}" if budget.usd else ""]
    parts = [
        f"{state.phase}",
        f"{calls} {limits[0]} calls".replace("  ", " "),
        f"{dollars(cost)} {limits[1]}".strip(),
        f"{len({c for c, _ in state.cells.copy()})} prompts tried",
    ]
    if state.proposals:
        best = state.proposals[-1].id
        scores = [cell.score.value for (name, _), cell in state.cells.copy().items() if name == best]
        if scores:
            parts.append(f"best {100 * sum(scores) / len(scores):.1f}% on {len(scores)} examples")
    return f"{' | '.join(parts)} | {run.elapsed_s:.0f} s"


def _score_table(result: Result) -> Table:
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("")
    for column in ("initial", "best"):
        table.add_column(column, justify="right")
    rows: Sequence[tuple[str, str, str]] = (
        ("test score (95%)", _split(result.initial.test), _split(result.best.test)),
        ("dev score (95%)", _split(result.initial.dev), _split(result.best.dev)),
        ("prompt tokens", _tokens(result.initial), _tokens(result.best)),
    )
    for row in rows:
        table.add_row(*row)
    return table


def _split(score: SplitScore | None) -> str:
    if score is None:
        return "-"
    low, high = score.ci95
    return f"{100 * score.score:.1f}% ({100 * low:.1f}-{100 * high:.1f}, n={score.n})"


def _tokens(scores: PromptScores) -> str:
    return f"{scores.prompt_tokens}"


def _spend_line(result: Result) -> str:
    spend, cells = result.spend, result.evaluations
    total = cells["spent"] + cells["saved_by_racing"]
    saved = f"{100 * cells['saved_by_racing'] / total:.0f}%" if total else "0%"
    phases = ", ".join(f"{name} {part.calls}" for name, part in spend.by_phase.items())
    line = (
        f"spend: {spend.calls} calls ({phases}), {dollars(spend.cost_usd)}, "
        f"{spend.input_tokens} tokens in, {spend.output_tokens} out; "
        f"racing saved {cells['saved_by_racing']} evaluations ({saved}); "
        f"{result.proposals['tried']} prompts tried, {result.proposals['accepted']} accepted; "
        f"{result.status.replace('_', ' ')} after {result.duration_s:.1f} s"
    )
    if result.unparsed:
        line += f"; {result.unparsed} answers could not be parsed and scored 0"
    if result.spend.lost_in_flight:
        line += f"; {result.spend.lost_in_flight} answers were lost in flight at a kill"
    return line


def _short(text: str, width: int) -> str:
    line = " ".join(clean(text).split())
    return line if len(line) <= width else line[: width - 1] + "…"
