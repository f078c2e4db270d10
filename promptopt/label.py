"""Label log-probabilities from the tokens that an endpoint reports for the start of an answer.

Glossary: a *verbalizer* is the word that the model says for a label; a reported *token* is the beginning of
such a word, the word itself, or something else. The probability of a label is that of the tokens that begin
its word; then labels are normalised among themselves.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from promptopt.asking import Cell
from promptopt.errors import TaskError
from promptopt.providers import ModelSpec
from promptopt.task import Task

# OpenAI's most; others give as many as they have.
N_TOP_LOGPROBS = 20
# No probability counts as less; OpenAI writes -9999 for such.
_TINY = 1e-9
_MARKS = " \"'*`.:,;!?()[]<>“”„‘’«»"
# Blanks and line ends as byte-pair and SentencePiece tokenizers write them, where a server sends raw pieces;
# and the underscore, which the metric of labels takes for a blank too.
_BLANKS = str.maketrans({"Ġ": " ", "Ċ": "\n", "▁": " ", "_": " "})
# Places that tokenizers always cut at, some digits apart: after these a word may go on in another token.
_SEAM = re.compile(r"\w[\W\d]")

Reported = Sequence[tuple[str, float]]  # (token, natural log-probability) of the first answer token, best first


def fold(word: str) -> str:
    """Return a word or token as it is compared: case, blanks and the marks around answers do not count."""
    text = " ".join(unicodedata.normalize("NFC", word).translate(_BLANKS).casefold().split())
    return text.strip(_MARKS) or text


def owners(reported: Reported, words: Sequence[str], reply: str = "") -> list[list[int]]:
    """Return for each reported token the indices of the labels that it begins.

    A token that equals a word begins no longer one ("no", not "none"), unless it ends where tokenizers cut
    ("card" and "card arrival", "1" and "10"), and no reported token reaches across such a place.

    Args:
        words: L verbalizers.
        reply: the answer's text; "" = unknown. A token that it goes on from in another way than any label
            ("The" of "The answer is", and not of "theft") begins none.
    """
    folded = [fold(word) for word in words]
    starts = [fold(token) for token, _ in reported]
    is_cut = not any(_SEAM.search(start) for start in starts)
    answer = fold(reply.lstrip()[: 2 * max(map(len, words), default=0) + len(_MARKS)])
    return [_begun(start, folded, answer, is_cut=is_cut) for start in starts]


def _begun(start: str, folded: Sequence[str], answer: str, *, is_cut: bool) -> list[int]:
    begun = [i for i, word in enumerate(folded) if start and word.startswith(start)]
    if any(folded[i] == start for i in begun):
        return [i for i in begun if folded[i] == start or (is_cut and not folded[i][len(start)].isalpha())]
    is_said = any(answer.startswith(folded[i]) or folded[i].startswith(answer) for i in begun)
    return begun if is_said or not answer.startswith(start) else []


def label_row(reported: Reported, words: Sequence[str], reply: str = "") -> NDArray[np.float64]:
    """Return float[L], the natural log-probabilities of the labels among themselves.

    A label that no reported token begins gets the most that it can have: the least reported value, or what the
    reported ones leave of probability. A token that begins several labels is shared equally among them. All NaN
    if no token begins a label.

    Args:
        words: L verbalizers.
        reply: the answer's text; "" = unknown.
    """
    reported = [(token, max(value, math.log(_TINY))) for token, value in reported if not math.isnan(value)]
    row = np.full(len(words), -np.inf)
    for (_, value), found in zip(reported, owners(reported, words, reply), strict=True):
        for i in found:
            row[i] = np.logaddexp(row[i], value - math.log(len(found)))
    if np.isinf(row).all():
        return np.full(len(words), np.nan)
    left = max(_TINY, 1 - sum(math.exp(value) for _, value in reported))
    row[np.isinf(row)] = min(math.log(left), *(value for _, value in reported))
    normalised: NDArray[np.float64] = row - np.logaddexp.reduce(row)
    return normalised


def why_never(task: Task, spec: ModelSpec) -> str:
    """Return why no reply of a task model can tell the labels apart, whatever it says; "" if one might."""
    if not task.label_words:
        return f"task {task.name!r} has no closed set of labels; declare them (Task.labels)"
    if task.predict is not None:
        return f"the predict function of task {task.name!r} returns texts without log-probabilities"
    if not spec.top_logprobs:
        return (
            f"{spec.name} is not asked for log-probabilities: it takes no such request, or the strategy does not "
            "declare them; add 'log-probabilities' to its `requires` or `prefers`"
        )
    return ""


def lack(cell: Cell, task: Task, spec: ModelSpec) -> str:
    """Return why an answer does not tell the labels apart, with a remedy; "" if it does.

    It does not where it came without log-probabilities, where no token begins a label, or where the likeliest
    begins several.
    """
    words, reported = task.label_words, cell.logprobs
    remedy = "take a strategy or an option that goes by right answers alone (`promptopt optimizers`)"
    if not reported:
        return (
            f"{spec.name} sent no log-probabilities of its first answer token (asked for {spec.top_logprobs}); "
            f"use an endpoint that gives `logprobs`, or {remedy}"
        )
    found = owners(reported, words, cell.output or "")
    i_top = max(range(len(reported)), key=lambda i: reported[i][1])
    top, begun = reported[i_top][0], found[i_top]
    if not any(found):
        return (
            f"{spec.name} does not begin its answer with a label: it says {top!r} where one of "
            f"{', '.join(map(repr, words[:5]))} is wanted; let the prompt end so that the label comes first, "
            f"declare the words that it says (Task.verbalizers), or {remedy}"
        )
    if len(begun) > 1:
        named = ", ".join(repr(words[i]) for i in begun[:4])
        return (
            f"the token {top!r} begins several labels ({named}); declare words whose first tokens differ "
            f"(Task.verbalizers), or {remedy}"
        )
    return ""


def check_cells(cells: Sequence[Cell | None], task: Task, spec: ModelSpec) -> bool:
    """Return whether there are answers, after a check that most of them tell the labels apart.

    Raises:
        TaskError: most do not; with the first one's lack.
    """
    answered = [cell for cell in cells if cell is not None and cell.cause is None]
    lacks = [why for cell in answered if (why := lack(cell, task, spec))]
    if 2 * len(lacks) > len(answered):
        raise TaskError(lacks[0])
    return bool(answered)
