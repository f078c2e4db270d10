"""Reading takes time in proportion to what an adversary writes, and users' patterns are stopped."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import pytest
from reader import EXAMPLE, RUBRIC, SCHEMA, metric_of

from promptopt import promptfile, template
from promptopt.errors import PromptoptError, TaskError
from promptopt.judging import read_vote
from promptopt.tasks import answer, pattern, rubric
from promptopt.types import Prompt

ADVERSARIES: dict[str, Callable[[int], str]] = {
    "spaces": lambda n: " " * n,
    "lines": lambda n: "\n" * n,
    "digits": lambda n: "9" * n,
    "digits and commas": lambda n: "1,234" * (n // 5),
    "fractions": lambda n: "1/" * (n // 2),
    "opening tags": lambda n: "<answer>" * (n // 8),
    "closing tags": lambda n: "</answer>" * (n // 9),
    "verdict tags": lambda n: "<verdicts>" * (n // 10),
    "verdicts": lambda n: "<verdicts>" + "1: yes - " * (n // 9),
    "verdict lines": lambda n: "<verdicts>" + "1: A\n" * (n // 5) + "</verdicts>",
    "stars": lambda n: "*" * n,
    "fences": lambda n: "```\n" * (n // 4),
    "quotes": lambda n: '"' * n,
    "brackets": lambda n: "[" * n,
    "braces": lambda n: "{" * n,
    "objects": lambda n: '{"a": ' * (n // 6),
    "objects closed": lambda n: '{"a": 1} ' * (n // 9),
    "boxes": lambda n: "\\boxed{" * (n // 7),
    "TeX": lambda n: "\\text{" * (n // 6) + "}" * (n // 6),
    "markers": lambda n: "Answer: " * (n // 8),
    "hashes": lambda n: "#" * n,
    "letters": lambda n: "(A) " * (n // 4),
    "options": lambda n: "option " * (n // 7),
    "articles": lambda n: "the a an " * (n // 9),
    "keep marks": lambda n: "<!-- keep -->" * (n // 13),
    "kept passages": lambda n: "<!-- keep -->x<!-- /keep -->" * (n // 28),
    "placeholders": lambda n: "{{item}}" * (n // 8),
    "half placeholders": lambda n: "{{item" * (n // 6),
    "headings": lambda n: "user:\n" * (n // 6),
    "backslashes": lambda n: "\\" * n,
    "prompt tags": lambda n: "<prompt>" * (n // 8),
    "words": lambda n: "word " * (n // 5),
    "combining": lambda n: "e\u0301\u0327" * (n // 3),
}
# ROUGE-L is quadratic by its definition, and rouge-score is slow at it.
READERS: dict[str, Callable[[str], object]] = {
    **{
        name: (lambda text, name=name: metric_of(name)[0].score(text, metric_of(name)[1]))
        for name in ("exact", "label", "choice", "number", "json", "contains", "contains:all", "f1", "bleu")
    },
    "schema": lambda text: SCHEMA.score(text, EXAMPLE),
    "vote": lambda text: read_vote(text, 2, is_swapped=False),
    "rating": RUBRIC.read_rating,
    "rubric": rubric.parse,
    "tagged": lambda text: template.tagged(text, "prompt"),
    "fill": lambda text: template.fill(text, {"item": "a"}),
    "parts": lambda text: template.parts.__wrapped__(text),
    "escaped headings": template.escape_headings,
    "prompt": lambda text: promptfile.format_prompt(Prompt(text)),
}


def seconds(work: Callable[[str], object], text: str) -> float:
    """Return the processor's seconds that reading takes, at best of two."""
    taken = []
    for _ in range(2):
        started = time.process_time()
        with contextlib.suppress(PromptoptError):
            work(text)
        taken.append(time.process_time() - started)
    return min(taken)


@pytest.mark.parametrize(
    "n", [pytest.param(3_000, id="short"), pytest.param(60_000, marks=pytest.mark.soak, id="long")]
)
@pytest.mark.parametrize("reader", READERS)
def test_time_is_linear_in_what_an_adversary_writes(reader: str, n: int) -> None:
    work = READERS[reader]
    seconds(work, "warm")
    for name, text in ADVERSARIES.items():
        small, large = (seconds(work, text(size)) for size in (n, 8 * n))
        assert large < 24 * small + 0.05, (
            f"{name}: {small:.4f} s for {n} characters, {large:.4f} s for 8 times as many"
        )


def test_a_pattern_that_backtracks_without_end_is_stopped() -> None:
    started = time.monotonic()
    with pytest.raises(TaskError, match="takes over 1 s"):
        pattern.is_found("(a+)+$", "a" * 5000 + "b", is_whole=False)
    with pytest.raises(TaskError, match="takes over 1 s"):
        answer.Finder("((?:a|aa)+)$").answer("a" * 5000 + "b")
    assert time.monotonic() - started < 30
