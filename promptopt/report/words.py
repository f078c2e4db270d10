"""Figures and outcomes in the words of pages, with units and sample sizes."""

from __future__ import annotations

from decimal import Decimal

from promptopt.result import Result, SplitScore
from promptopt.verdict import verdict

MOST_TEXT = 8_000  # characters of one text, the prompts to copy aside
TITLES = {
    "proven": "Proven better",
    "not_proven": "No significant improvement",
    "worse": "Worse: keep your prompt",
}


def percent(share: float | None) -> str:
    """Return a share in [0, 1] as per cent."""
    return "–" if share is None else f"{100 * share:.1f}%"


def money(amount: Decimal | None) -> str:
    """Return dollars as text, small amounts with two digits that say something; None is unknown, not free."""
    if amount is None:
        return "unknown"
    if amount == 0 or amount >= 1:
        return f"${amount:,.2f}"
    return f"${amount:.4f}" if amount >= Decimal("0.001") else f"${amount:.2g}"


def split(score: SplitScore | None) -> str:
    """Return a score on a split with its interval and the number of examples."""
    if score is None:
        return "–"
    low, high = score.ci95
    return f"{percent(score.score)} (95%: {100 * low:.1f} to {100 * high:.1f}, n = {score.n})"


def cut(text: str) -> str:
    """Return a text that is not too long for the page."""
    more = len(text) - MOST_TEXT
    return text if more <= 0 else f"{text[:MOST_TEXT]}\n[... {more:,} more characters in journal.db]"


def line(text: str, width: int = 140) -> str:
    """Return the beginning of a text on one line."""
    words = " ".join(text[: 4 * width].split())
    return words if len(words) <= width else words[: width - 1] + "…"


def headline_of(result: Result | None) -> dict[str, str]:
    """Return the outcome: its kind, in two words, and in a sentence; None = the run has not ended."""
    if result is None:
        said = "The run has not ended. The same command goes on with it, and pays nothing twice."
        return {"kind": "none", "title": "No proof yet", "sentence": said}
    if result.improvement is None:
        title = "No proof yet" if result.status == "interrupted" else "No proof"
        return {"kind": "none", "title": title, "sentence": verdict(result)}
    kind = result.improvement.verdict
    return {"kind": kind, "title": TITLES[kind], "sentence": verdict(result)}
