"""What users see of an evaluation: what it takes, its progress, its outcome. Decides nothing."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.text import Text

from promptopt.result import SplitScore
from promptopt.scoring import Estimate, Evaluating, Evaluation, Failure
from promptopt.screen import clean, console_of, short, tail
from promptopt.wording import counted, dollars

_MOST_SHOWN = 160


class EvaluationScreen:
    """Prints to a person: notes and progress to stderr, the outcome to stdout.

    Args:
        is_quiet: nothing but the outcome.
    """

    def __init__(self, evaluating: Evaluating, *, is_quiet: bool = False) -> None:
        self._evaluating = evaluating
        self._out, self._err = console_of(sys.stdout), console_of(sys.stderr)
        self._is_quiet = is_quiet
        self._is_watching = False

    def start(self) -> None:
        """Show what will be done, before anything is spent."""
        if self._is_quiet:
            return
        evaluating = self._evaluating
        for note in evaluating.notes:
            _line(self._err, note)
        spec = evaluating.spec
        stand_in = " (SIMULATED: built-in stand-in, no real model)" if spec.is_simulated else ""
        split = "" if evaluating.split == "all" else f"{evaluating.split} "
        what = f"{counted(len(evaluating.examples), f'{split}example')} of {evaluating.task.name}"
        _line(self._err, f"evaluating on {what} with {spec.name}{stand_in}")

    def estimate(self) -> None:
        """Show what it is expected to take, on stdout."""
        _line(self._out, forecast_line(self._evaluating.estimate))

    def watch(self, evaluating: Evaluating) -> None:
        """Show the progress on a terminal: one line, renewed."""
        if self._is_quiet or evaluating.state is None or not self._err.is_terminal:
            return
        self._is_watching = True
        n = sum(tally.calls for tally in evaluating.state.tallies.values())
        stopping = "; stopping" if evaluating.stop.is_set else ""
        self._err.file.write(f"\r\x1b[K{n:,} of {evaluating.n_calls:,} answers{stopping}")
        self._err.file.flush()

    def end_watch(self) -> None:
        """Take the progress line away."""
        if self._is_watching:
            self._err.file.write("\r\x1b[K")
            self._err.file.flush()
            self._is_watching = False

    def result(self, found: Evaluation, n_shown: int) -> None:
        """Show score, cost and the first failures."""
        if found.model["is_simulated"]:
            _line(self._out, "SIMULATED MODEL: these figures say nothing about a real one.", "yellow")
        _line(self._out, _score_line(found), "bold")
        if found.status == "failed":  # the reason goes to stderr, as that of every error
            _line(self._out, "failed before every example was scored", "red")
        elif found.status != "completed":
            _line(self._out, _ending(found.status, found.reason), "red")
        for line in _spend_lines(found):
            _line(self._out, line)
        n = len(found.failures)
        if n and n_shown:
            _line(
                self._out, f"\n{counted(n, 'failure')}" + (f", {n_shown} of them:" if n > n_shown else ":"), "bold"
            )
            for failure in found.failures[:n_shown]:
                for line in _failure_lines(failure):
                    _line(self._out, line)
        _line(self._out, f"\nEverything lies in {found.out}: {self._evaluating.file.name}")


def forecast_line(found: Estimate) -> str:
    """Return in words what is expected to be taken, and the most."""
    worst = f"{found.worst_tokens:,} tokens and {dollars(found.worst_usd)}"
    worst += ", where the budget ends it" if found.is_capped else ""
    return (
        f"forecast: {found.calls:,} calls, about {found.expected_tokens:,} tokens and "
        f"{dollars(found.expected_usd)}; at worst {worst}"
    )


def _line(console: Console, text: str, style: str = "") -> None:
    console.print(Text(clean(text), style=style))


def _ending(status: str, reason: str) -> str:
    """Return how an evaluation ended and why, without naming it twice."""
    words = status.replace("_", " ")
    return reason if reason.startswith(words) else f"{words}: {reason}"


def _score_line(found: Evaluation) -> str:
    score: SplitScore | None = found.score
    if score is None:
        return f"No example of {found.n} was {'scored' if found.spend.calls else 'answered'}."
    low, high = score.ci95
    parts = [f"{found.split} score {score.score:.1%} (95% interval {low:.1%} to {high:.1%}, n={score.n})"]
    if found.macro_f1 is not None:
        parts.append(f"macro-F1 {found.macro_f1:.1%}")
    if found.unparsed:
        parts.append(f"{found.unparsed} unparseable")
    if found.missing:
        parts.append(f"{found.missing} of {found.n} missing")
    return "; ".join(parts)


def _spend_lines(found: Evaluation) -> list[str]:
    spend = found.spend
    if not spend.calls:
        return []
    n_rated = found.by_role["judge"].calls if "judge" in found.by_role else 0
    reused = spend.calls - found.paid_calls
    calls = counted(spend.calls - n_rated, "answer")
    calls += f" and {counted(n_rated, 'rating')} by the judge" if n_rated else ""
    calls += f", {reused:,} of them paid before" if reused > 0 else ""
    return [
        f"{calls}; {spend.input_tokens:,} tokens in, {spend.output_tokens:,} out; {dollars(spend.cost_usd)}",
        f"{'an answer' if n_rated else 'a call'}: {_each_line(found.per_call)}",
        *([] if found.per_rating is None else [f"a rating: {_each_line(found.per_rating)}"]),
    ]


def _each_line(each: dict[str, float | None]) -> str:
    cost = each["cost_usd"]
    price = "at unknown cost" if cost is None else f"${cost:.6f}"
    return f"{each['input_tokens'] or 0:.0f} tokens in, {each['output_tokens'] or 0:.0f} out, {price}"


def _failure_lines(failure: Failure) -> list[str]:
    shown = " | ".join(failure.inputs.values())
    reason = f" ({short(failure.reason, _MOST_SHOWN)})" if failure.reason else ""
    output = "(no answer)" if failure.output is None else tail(failure.output, _MOST_SHOWN)
    target = "" if failure.target is None else f"; target: {short(failure.target, _MOST_SHOWN)}"
    return [
        f"  {failure.example_id}: {short(shown, _MOST_SHOWN)}",
        f"    score {failure.score:.2f}{target}; answer: {output}{reason}",
    ]
