"""What users see of a run: notes before it, progress during it, the outcome after it. Decides nothing."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, TextIO

from rich.table import Table
from rich.text import Text

from promptopt.report import NAME
from promptopt.report.difference import pieces
from promptopt.screen_live import LiveView
from promptopt.task import UNSCORED
from promptopt.verdict import lead, simulated_line, verdict
from promptopt.wording import clean, console_of, counted, dollars, short, tail

if TYPE_CHECKING:
    from promptopt.plan import Plan
    from promptopt.result import Front, Improvement, Result, SplitScore
    from promptopt.run import Run
    from promptopt.types import Demo, Role

__all__ = ["Screen", "clean", "console_of", "counted", "dollars", "short", "tail", "verdict", "word_difference"]

_N_SHOWN = 3


class Screen:
    """Prints to a person: notes and progress to stderr, the outcome to stdout.

    Args:
        is_quiet: nothing but the outcome.
    """

    def __init__(self, *, is_quiet: bool = False, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self._out = console_of(out or sys.stdout)
        self._err = console_of(err or sys.stderr)
        self._is_quiet = is_quiet
        self._is_stopping = False
        self._live = LiveView(self._err)

    def plan(self, plan: Plan) -> None:
        """Show what was decided and what it will cost, before anything is spent."""
        if self._is_quiet:
            return
        for note in plan.notes:
            self._say(note)
        self._say(
            f"{plan.optimizer_name} on {plan.task.name} with {_models(plan)}; "
            f"up to {plan.concurrency} calls at once"
        )
        self._say(_forecast_line(plan))

    def forecast(self, plan: Plan) -> None:
        """Show what each role is expected to take in each phase, and the most that all can."""
        table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
        for name, justify in (("phase", "left"), ("role", "left"), ("calls", "right"), ("tokens", "right")):
            table.add_column(name, justify=justify)  # type: ignore[arg-type]
        table.add_column("dollars", justify="right")
        forecast = plan.forecast
        for part in forecast.parts:
            table.add_row(part.phase, part.role, f"{part.calls:,}", f"{part.tokens:,}", dollars(part.usd))
        tokens = sum(part.tokens for part in forecast.parts)
        table.add_row("all", "expected", f"{forecast.calls:,}", f"{tokens:,}", dollars(forecast.expected_usd))
        limit = plan.settings.budget.calls
        most = ["no limit" if n is None else f"{n:,}" for n in (limit, forecast.worst_tokens)]
        is_endless = forecast.worst_usd is None and forecast.expected_usd is not None
        table.add_row("", "at worst", *most, "no limit" if is_endless else dollars(forecast.worst_usd))
        self._err.print(table)

    def start(self, run: Run) -> None:
        """Show the plan of a run that is about to begin, or to go on."""
        self.plan(run.plan)
        if run.n_answers_before and not self._is_quiet:
            self._say(
                f"going on with the run in {run.folder}: its {run.n_answers_before} answers are not paid again"
            )

    def watch(self, run: Run) -> None:
        """Show the progress of a run: a few lines, renewed, on a terminal; a line now and then elsewhere."""
        if run.stop.is_set and not self._is_stopping:
            self._is_stopping = True
            self._say("stopping: waiting for the calls in flight (Ctrl-C again leaves at once)")
        if not self._is_quiet and run.progress is not None:
            self._live.show(run.progress)

    def end_watch(self, run: Run) -> None:
        """Close the view of the progress; its last figures stay."""
        self._live.end(None if self._is_quiet else run.progress)

    def clear(self) -> None:
        """Take the view of the progress away."""
        self._live.end(None)

    def result(self, result: Result, run: Run) -> None:
        """Show the outcome: verdict, table, difference of the prompts, examples, where everything lies."""
        if label := simulated_line(result.models):
            self._print(label, "yellow")
        self._print(verdict(result), "bold")
        for warning in result.warnings:
            self._print(f"Warning: {warning}", "yellow")
        self._print("")
        with self._out.capture() as table:
            self._out.print(_score_table(result), soft_wrap=False)
        self._print("\n".join(line.rstrip() for line in Text.from_ansi(table.get()).plain.splitlines()))
        if result.front is not None:
            self._front(result.front)
        self._difference(run, result)
        self._changed_examples(result, run)
        if result.out:
            self._print(f"\nEverything lies in {result.out}: best.md, result.json, journal.db, config.toml")
        if result.status == "interrupted":
            self._print(f"Interrupted. To go on, run the same command with --out {result.out}")

    def report(self, result: Result) -> None:
        """Show where the report lies."""
        self._print(f"The report, for a browser: {result.out}{os.sep}{NAME}")

    def _front(self, front: Front) -> None:
        """Show the prompts of which none is better in every objective, with their figures."""
        if not front.prompts:
            self._print("\nNo front: the search ended before its first race did.", "bold")
            return
        what = ", ".join(front.objectives)
        self._print(
            f"\nFront of {what}: none of these {counted(len(front.prompts), 'prompt')} is better in all.", "bold"
        )
        self._print(
            f"Dev scores on the same {counted(front.n, 'example')}, by which the search chose them; the texts "
            "stand in result.json"
        )
        with self._out.capture() as table:
            self._out.print(_front_table(front), soft_wrap=False)
        self._print("\n".join(line.rstrip() for line in Text.from_ansi(table.get()).plain.splitlines()))

    def _difference(self, run: Run, result: Result) -> None:
        before, after = run.plan.task.initial, run.best.prompt if run.best else run.plan.task.initial
        if before.id == after.id:
            self._print("\nNo better prompt was found; best.md holds yours.", "bold")
            return
        has_gained = result.improvement is None or lead(result.improvement) > 0
        title = "The better prompt" if has_gained else "The prompt found, no better on unseen data than yours"
        self._print(f"\n{title}, as a difference ([-removed-], {{+added+}}):", "bold")
        self._out.print(word_difference(clean(before.instruction), clean(after.instruction)))
        for sign, title, demos in (
            ("-", "removed", [demo for demo in before.demos if demo not in after.demos]),
            ("+", "added", [demo for demo in after.demos if demo not in before.demos]),
        ):
            if demos:
                self._print(f"\n{len(demos)} demonstration{'s' * (len(demos) > 1)} {title}:", "bold")
            for demo in demos:
                self._print(f"  {sign} {_demo_line(demo)}", {"-": "red", "+": "green"}[sign])

    def _changed_examples(self, result: Result, run: Run) -> None:
        if result.improvement is None or run.best is None or run.best.prompt.id == run.plan.task.initial.id:
            return
        titles = ("fixed", "broken")
        if result.improvement.judged is not None:
            titles = ("where the judge prefers the new answer", "where it prefers the old one")
        for title, ids in zip(titles, (result.improvement.fixed, result.improvement.broken), strict=True):
            shown = f", {_N_SHOWN} of them" if len(ids) > _N_SHOWN else ""
            self._print(f"\n{len(ids)} test examples {title}{shown}" + (":" if ids else ""), "bold")
            for name in ids[:_N_SHOWN]:
                for line in _example_lines(run, run.best.id, name):
                    self._print(line)

    def _print(self, line: str, style: str = "") -> None:
        self._out.print(Text(clean(line), style=style))

    def _say(self, line: str) -> None:
        self._err.print(Text(clean(line)))


def _models(plan: Plan) -> str:
    names: dict[Role, str] = {role: spec.name for role, spec in plan.models.items()}
    simulated = {role for role in names if plan.models[role].is_simulated}
    if len(set(names.values())) == 1:
        return names["task"] + (" (SIMULATED: built-in stand-in, no real model)" if simulated else "")
    parts = [f"{name} as {role} model{' (SIMULATED)' * (role in simulated)}" for role, name in names.items()]
    return ", ".join(parts[:-1]) + " and " + parts[-1]


def _demo_line(demo: Demo) -> str:
    return f"{short(' | '.join(text for _, text in demo.inputs), 110)}  ->  {tail(demo.output, 60)}"


def _example_lines(run: Run, best_id: str, name: str) -> list[str]:
    """Return an example with the target and the answers of both prompts, for the screen."""
    task = run.plan.task
    tested = (*task.test, *run.plan.spare_test)
    example = next(example for example in tested if example.id == name)
    texts = [example.inputs[column] for column in task.shown_columns]
    shown = " | ".join([*texts, *(image.name for image in example.images)])
    lines = [f"  {name}: {short(shown, 150)}"]
    if example.target is not None:
        lines.append(f"    target:  {short(' or '.join(example.targets), 100)}")
    for title, prompt_id in (("initial", task.initial.id), ("best", best_id)):
        cell = run.state.cells.get((prompt_id, name)) if run.state else None
        if cell is not None:
            said = cell.cause or tail(cell.output or "(an empty answer)", 100)
            lines.append(f"    {title + ':':<8} {said}")
    return lines


def word_difference(before: str, after: str) -> Text:
    """Return a word-level difference of two texts, removed words struck through, added ones underlined."""
    shown = Text()
    for kind, text in pieces(before, after):
        marked, style = {"removed": (f"[-{text}-]", "red strike"), "added": (f"{{+{text}+}}", "green")}.get(
            kind, (text, "")
        )
        shown.append(marked, style=style)
    return shown


def _forecast_line(plan: Plan) -> str:
    forecast = plan.forecast
    budget = f" for --auto {plan.auto} (at most {plan.limit.calls:,} calls)" if plan.auto else ""
    line = f"about {forecast.calls:,} calls, "
    if (each_s := forecast.seconds_per_call) is not None:
        line = f"a guess of {forecast.calls:,} calls, if each takes {each_s:g} s and 16 run at once, "
    line = f"forecast{budget}: {line}"
    if forecast.expected_usd is None:
        line += "unknown cost (--price-in and --price-out tell the price)"
    else:
        worst = f"{dollars(forecast.worst_usd)} at worst (every call at its longest)"
        if forecast.worst_usd is None:
            worst = "unbounded at worst (no calls, tokens or dollars are limited)"
        line += f"{dollars(forecast.expected_usd)} expected, {worst}"
    if forecast.n_proof == 0:
        return line
    if forecast.smallest_provable is None:
        return f"{line}; {forecast.n_proof} test examples cannot prove any gain: at least 6 are needed"
    least = 100 * forecast.smallest_provable
    line += (
        f"; the smallest gain that {forecast.n_proof} test examples can prove is, at best, {least:.1f} points"
        if plan.task.is_scored
        else f"; the smallest win rate that {forecast.n_proof} test inputs can prove is, at best, "
        f"{50 + least / 2:.1f}%"
    )
    if forecast.n_certain == forecast.n_proof:
        return line
    return f"{line} ({forecast.n_certain} are certain, the others if calls cost what they usually do)"


def _score_table(result: Result) -> Table:
    """Return the figures of a run: both prompts side by side, then what holds of the whole run."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    table.add_row("", "initial", "best")
    if result.task["metric"] != UNSCORED:
        table.add_row("test score", _split(result.initial.test), _split(result.best.test))
        if result.initial.macro_f1 is not None and result.best.macro_f1 is not None:
            f1s = (result.initial.macro_f1, result.best.macro_f1)
            table.add_row("test macro-F1", *(f"{100 * value:.1f}%" for value in f1s))
        table.add_row("dev score", _split(result.initial.dev), _split(result.best.dev))
    table.add_row("prompt tokens", f"{result.initial.prompt_tokens}", f"{result.best.prompt_tokens}")
    whole = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    whole.add_column(no_wrap=True)
    whole.add_column(overflow="fold")
    for title, text in _facts(result):
        whole.add_row(title, text)
    both = Table.grid()
    both.add_row(table)
    both.add_row("")
    both.add_row(whole)
    return both


def _front_table(front: Front) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("dev score", no_wrap=True)
    for title in ("prompt tokens", "$ of 1,000 uses"):
        table.add_column(title, justify="right")
    table.add_column("")
    for prompt in front.prompts:
        cost = "unknown" if prompt.cost_per_1000_usd is None else f"{prompt.cost_per_1000_usd:.4f}"
        marks = ["best"] * prompt.is_best + ["yours"] * prompt.is_initial
        table.add_row(_split(prompt.dev), f"{prompt.prompt_tokens:,}", cost, ", ".join(marks))
    return table


def _facts(result: Result) -> list[tuple[str, str]]:
    spend, cells, proof = result.spend, result.evaluations, result.improvement
    facts: list[tuple[str, str]] = []
    is_scored = result.task["metric"] != UNSCORED
    if proof is not None:
        facts += _proof_facts(proof)
    phases = ", ".join(f"{name} {part.calls}" for name, part in spend.by_phase.items() if part.calls)
    facts.append(("spend", f"{dollars(spend.cost_usd)}, {spend.calls} calls ({phases})"))
    facts.append(("tokens", f"{spend.input_tokens} in, {spend.output_tokens} out"))
    total = cells["spent"] + cells["saved_by_racing"]
    share = 100 * cells["saved_by_racing"] / total if total else 0
    facts.append(("saved by racing", f"{cells['saved_by_racing']} calls ({share:.0f}% of all evaluations)"))
    facts.append(("prompts", f"{result.proposals['tried']} tried, {result.proposals['accepted']} accepted"))
    facts.append(("status", f"{result.status.replace('_', ' ')} after {result.duration_s:.1f} s"))
    if result.unparsed:
        facts.append(("unparseable", f"{result.unparsed} answers" + (", scored 0" if is_scored else "")))
    if result.missing:
        facts.append(("missing", f"{result.missing} answers, left out of the decisions"))
    n_failed = spend.attempts - spend.lost_in_flight - spend.calls
    if spend.lost_in_flight:
        facts.append(("lost in flight", f"{spend.lost_in_flight} answers, at a kill of the process"))
    if n_failed > 0:
        facts.append(("failed", f"{n_failed} attempts" + ("" if spend.calls else f": {result.reason}")))
    return facts


def _proof_facts(proof: Improvement) -> list[tuple[str, str]]:
    """Return the figures of the proof; none where the best prompt is the initial one and nothing was judged."""
    p_value = ("p-value", f"{proof.p_value:.2g} ({proof.test}, two-sided)")
    judged = proof.judged
    if judged is None:
        assert proof.delta is not None
        assert proof.ci95 is not None
        low, high = proof.ci95
        gain = f"{100 * proof.delta:+.1f} points (95%: {100 * low:+.1f} to {100 * high:+.1f})"
        return [("gain on test", gain), p_value]
    if judged.win_rate is None:
        return []
    assert judged.ci95 is not None
    low, high = judged.ci95
    rate = f"{100 * judged.win_rate:.1f}% (95%: {100 * low:.1f} to {100 * high:.1f})"
    facts = [("win rate on test", f"{rate}: {judged.wins} won, {judged.losses} lost, {judged.ties} tied"), p_value]
    if judged.unparsed:
        facts.append(("unreadable", f"{judged.unparsed} votes of the judge, counted for nobody"))
    return facts


def _split(score: SplitScore | None) -> str:
    if score is None:
        return "-"
    low, high = score.ci95
    return f"{100 * score.score:.1f}% ({100 * low:.1f}-{100 * high:.1f}, n={score.n})"
