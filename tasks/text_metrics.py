"""Metrics that compare texts: exact, regex, contains, f1, rouge, bleu.

Where a target is a JSON list of texts, each of them is right, and the best score counts. Only `contains:all` wants
all of them.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from promptopt.errors import ConfigError
from promptopt.tasks import pattern
from promptopt.tasks.answer import Finder, trim
from promptopt.tasks.wording import alternatives, entries_of, short, spaced, target_of, texts_of
from promptopt.types import Example, Score

ROUGES = (*(f"rouge{n}" for n in range(1, 10)), "rougeL", "rougeLsum")
SMOOTHINGS = ("exp", "floor", "add-k", "none")

_N_WORDS = 8
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_ROUGE_WORD = re.compile("[a-z0-9]", re.IGNORECASE)


@dataclass(frozen=True)
class Exact:
    """The answer equals the target, whitespace folded."""

    finder: Finder = Finder()
    name: str = "exact"

    def score(self, reply: str, example: Example) -> Score:
        """Return 1 if the answer, or the whole reply, is the target."""
        target = target_of(example, self.name)
        answer = self.finder.answer(reply)
        wanted = {spaced(target), spaced(trim(target))}
        if spaced(answer) in wanted or spaced(self.finder.scope(reply)) in wanted:
            return Score(1.0)
        if not answer:
            return _nothing(short(target))
        return Score(0.0, f"expected {short(target)}, got {short(answer)}")


@dataclass(frozen=True)
class Regex:
    """The answer matches the target, a regular expression.

    Args:
        is_whole: the whole answer must match; else something in it.
    """

    is_whole: bool = True
    finder: Finder = Finder()
    name: str = "regex"

    def score(self, reply: str, example: Example) -> Score:
        """Return 1 if the answer matches the target.

        Raises:
            TaskError: the pattern takes longer than a second.
        """
        target = target_of(example, self.name)
        answer = self.finder.answer(reply)
        if not answer:
            return _nothing(f"a text that matches the pattern {short(target)}")
        if pattern.is_found(target, answer, is_whole=self.is_whole):
            return Score(1.0)
        does = "matches" if self.is_whole else "has a match of"
        return Score(0.0, f"expected an answer that {does} the pattern {short(target)}, got {short(answer)}")


@dataclass(frozen=True)
class Contains:
    """The reply holds the target; case and whitespace folded.

    Args:
        is_all: a target that is a JSON list asks for all its entries; else for any of its texts.
    """

    is_all: bool = False
    finder: Finder = Finder()
    name: str = "contains"

    def score(self, reply: str, example: Example) -> Score:
        """Return 1 if what is asked for stands in the reply."""
        target = target_of(example, self.name)
        wanted = entries_of(target) if self.is_all else texts_of(target)
        folded = spaced(self.finder.scope(reply)).casefold()
        missing = tuple(text for text in wanted if spaced(text).casefold() not in folded)
        if not missing or (len(missing) < len(wanted) and not self.is_all):
            return Score(1.0)
        lacks = ", ".join(map(short, missing)) if self.is_all else alternatives(missing)
        return Score(0.0, f"missing in the reply: {lacks}") if folded else _nothing(lacks)


@dataclass(frozen=True)
class F1:
    """Overlap of the words of answer and target: the F1 of SQuAD (Rajpurkar et al. 2016, arXiv:1606.05250).

    F1 of the bags of words; before, both are put in lower case, ASCII punctuation and the articles a, an, the are
    taken out. Two texts without any word left are equal.
    """

    finder: Finder = Finder()
    name: str = "f1"

    def score(self, reply: str, example: Example) -> Score:
        """Return the best F1 of the answer with a text of the target."""
        targets = texts_of(target_of(example, self.name))
        answer = self.finder.answer(reply)
        if not answer:
            return _nothing(alternatives(targets))
        value, target = max(((f1(answer, text), text) for text in targets), key=lambda pair: pair[0])
        return _graded(value, answer, target, targets)


@dataclass(frozen=True)
class Rouge:
    """ROUGE (Lin 2004) F-measure of answer and target, as the package `rouge-score` computes it, without stemming.

    Args:
        variant: rouge1 to rouge9, rougeL or rougeLsum.

    Raises:
        ConfigError: the package is not there.
    """

    variant: str = "rougeL"
    finder: Finder = Finder()
    name: str = "rouge"

    def __post_init__(self) -> None:
        """Import the package now, so that its absence is known at once."""
        _ = self._scorer

    @cached_property
    def _scorer(self) -> Any:
        try:
            from rouge_score.rouge_scorer import RougeScorer
        except ImportError as error:
            raise _no_package("rouge", "rouge-score") from error
        return RougeScorer([self.variant])

    def score(self, reply: str, example: Example) -> Score:
        """Return the best F-measure of the answer with a text of the target."""
        targets = texts_of(target_of(example, self.name))
        answer = self.finder.answer(reply)
        if not answer:
            return _nothing(alternatives(targets))
        values = [(float(self._scorer.score(text, answer)[self.variant].fmeasure), text) for text in targets]
        value, target = max(values, key=lambda pair: pair[0])
        return _graded(value, answer, target, targets)


@dataclass(frozen=True)
class Bleu:
    """BLEU of one sentence (Papineni et al. 2002) as the package `sacrebleu` computes it, in [0, 1].

    Its tokenizer 13a and effective order; the texts of a target are its references.

    Args:
        smoothing: exp (sacrebleu's default), floor, add-k or none.

    Raises:
        ConfigError: the package is not there.
    """

    reads_all_targets: ClassVar[bool] = True  # the best of single references would be less than all together

    smoothing: str = "exp"
    finder: Finder = Finder()
    name: str = "bleu"

    def __post_init__(self) -> None:
        """Import the package now, so that its absence is known at once."""
        _ = self._scorer

    @cached_property
    def _scorer(self) -> Any:
        try:
            from sacrebleu.metrics.bleu import BLEU
        except ImportError as error:
            raise _no_package("bleu", "sacrebleu") from error
        return BLEU(smooth_method=self.smoothing, effective_order=True)

    def score(self, reply: str, example: Example) -> Score:
        """Return the BLEU of the answer with the texts of all targets as references."""
        target_of(example, self.name)
        targets = tuple(text for one in example.targets for text in texts_of(one))
        answer = self.finder.answer(reply)
        if not answer:
            return _nothing(alternatives(targets))
        percent = float(self._scorer.sentence_score(answer, list(targets)).score)
        value = percent / 100
        target = max(targets, key=lambda text: f1(answer, text))
        return _graded(value, answer, target, targets)


def words_of(text: str) -> list[str]:
    """Return the words that SQuAD's F1 compares."""
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def f1(answer: str, target: str) -> float:
    """Return SQuAD's F1 of two texts, in [0, 1]."""
    found, wanted = Counter(words_of(answer)), Counter(words_of(target))
    if not found or not wanted:
        return float(found == wanted)
    n_common = (found & wanted).total()
    return 2 * n_common / (found.total() + wanted.total())


def rouge_misfit(target: str) -> str:
    """Return why ROUGE cannot score with this target; "" = it can."""
    bad = [text for text in texts_of(target) if not _ROUGE_WORD.search(text)]
    return f"{short(bad[0])} has no word of a-z or digits, and rouge-score compares no others" if bad else ""


def _graded(value: float, answer: str, target: str, targets: tuple[str, ...]) -> Score:
    """Return a score of likeness, with the words that make the difference."""
    if value >= 1:  # BLEU gives an equal text 100.00000000000004 percent
        return Score(1.0)
    found, wanted = Counter(words_of(answer)), Counter(words_of(target))
    parts = [f"expected {alternatives(targets)}, got {short(answer)}"]
    for title, words in (("words missing", wanted - found), ("words too many", found - wanted)):
        if words:
            shown = list(words)[:_N_WORDS]
            parts.append(f"{title}: {' '.join(shown)}" + (" ..." if len(words) > len(shown) else ""))
    return Score(value, "; ".join(parts))


def _nothing(expected: str) -> Score:
    return Score(0.0, f"no answer found in the reply; expected {expected}", is_parsed=False)


def _no_package(metric: str, package: str) -> ConfigError:
    return ConfigError(
        f"metric {metric!r} needs the package {package}, which is not installed; "
        "install it with: pip install 'promptopt-suite[metrics]'"
    )
