"""The outcome of a run in one plain sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from promptopt.result import Improvement, Result


def simulated_line(models: Mapping[str, Any]) -> str:
    """Return the sentence that labels figures of the built-in stand-in; "" = every model is real.

    Args:
        models: by role, as a result has them.
    """
    simulated = [role for role, model in models.items() if model["is_simulated"]]
    if not simulated:
        return ""
    if len(simulated) == len(models):
        return "SIMULATED MODEL: these figures say nothing about a real one."
    return f"SIMULATED: the model of the role {', '.join(simulated)} is the built-in stand-in."


def verdict(result: Result) -> str:
    """Return the outcome in one plain sentence."""
    proof = result.improvement
    if proof is not None and result.best.prompt == result.initial.prompt:
        if n := result.proposals["accepted"]:
            what, which = (f"{n} prompts", "the last") if n > 1 else ("a prompt", "it")
            return f"Not proven: the search accepted {what}, but {which} did not beat yours on more examples."
        return "Not proven: the search found no better prompt than yours."
    if proof is None:
        return {
            "interrupted": "Interrupted before the proof; the best prompt so far is kept.",
            "failed": "Failed; the best prompt so far is kept.",
            "budget_exhausted": "No proof: none was asked for, or the time was over; the gain is not known.",
        }.get(result.status, "No proof was asked for; the gain on unseen data is not known.")
    figures, could, warning = _judged_words(proof) if proof.judged else _scored_words(proof, result)
    if proof.verdict == "proven":
        return f"Proven: {figures}.{warning}"
    if proof.verdict == "worse":
        return f"Worse, keep yours: {figures}.{warning}"
    advice = "; keep yours" if lead(proof) < 0 else ""
    return f"Not proven: {figures}; {could}{advice}.{warning}"


def _scored_words(proof: Improvement, result: Result) -> tuple[str, str, str]:
    """Return the figures of a proof by scores, what it could have proved, and no warning."""
    assert proof.delta is not None
    assert proof.ci95 is not None
    n = result.best.test.n if result.best.test else 0
    low, high = proof.ci95
    figures = (
        f"{100 * proof.delta:+.1f} points on {n} unseen test examples "
        f"(95% interval {100 * low:+.1f} to {100 * high:+.1f}; {proof.test}, p = {proof.p_value:.2g})"
    )
    if proof.smallest_provable is None:
        return figures, "no gain could have been proved with so few examples", ""
    least = 100 * proof.smallest_provable
    return figures, f"the smallest gain that this test split could have proved is {least:.1f} points", ""


def _judged_words(proof: Improvement) -> tuple[str, str, str]:
    """Return the figures of a proof by a judge, what it could have proved, and what a judge is."""
    judged = proof.judged
    assert judged is not None
    assert judged.win_rate is not None
    assert judged.ci95 is not None
    low, high = judged.ci95
    n = judged.wins + judged.losses + judged.ties
    figures = (
        f"the judge prefers the new prompt on {judged.wins} and yours on {judged.losses} of {n} unseen test "
        f"inputs, with {judged.ties} ties: win rate {100 * judged.win_rate:.1f}% (95% interval {100 * low:.1f} to "
        f"{100 * high:.1f}; sign test, p = {proof.p_value:.2g})"
    )
    warning = " The judge is a model: its preference is no ground truth."
    if judged.smallest_provable is None:
        return figures, "no win rate could have been proved with so few inputs", warning
    least = 100 * judged.smallest_provable
    return figures, f"the smallest win rate that these inputs could have proved is {least:.1f}%", warning


def lead(proof: Improvement) -> float:
    """Return a number above 0 if the best prompt did better than the initial one on the test examples."""
    return proof.delta if proof.delta is not None else len(proof.fixed) - len(proof.broken)
