"""The pairwise judge: which of two prompts gave the better answers to the same questions.

The judge sees answers only: no prompt, no name, no sign of which was there first. Each call shows the answers
of both sides to all questions and asks for a verdict on each; the sides change places so that each order is
shown equally often, since models favour a place (SPO, arXiv 2502.06855, flips a coin for each call).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from promptopt.asking import Cell
from promptopt.errors import ConfigError
from promptopt.template import substitute
from promptopt.types import Message

JUDGE = """You judge answers to the same {n} questions, given by A and by B.
What is asked for: {requirements}

{questions}

For each question, say whose answer is better: A, B, or tie if neither is. Judge what the answers say, not
their length or style, unless style is asked for.
Write one line for each question between <verdicts> and </verdicts>, for example `1: A`."""

# A verdict stands alone, or its explanation is set off from it: "1: A and B are alike" is no verdict for A.
_WORD = r"(?:answer )?(?:a (?=tie))?(A|B|tie)"
_ASIDE = r"[^\w\n]{0,9}(?:[(:\u2013\u2014]|[.,;-][ *_])(?! ?[AB]\b)"
_END = rf"(?=[^\w\n]*$|{_ASIDE}|[*_]* (?:is )?(?:better|wins)\b)"
_START = r"(?:^[^\w\n]*|[,;] {0,3})(?:q(?:uestion)?[^\w\n]*)?"
_LINE = re.compile(rf"{_START}(\d{{1,4}})[^\w\n]+{_WORD}{_END}", re.IGNORECASE | re.MULTILINE)
_SINGLE = re.compile(rf"^[^\w\n]*{_WORD}{_END}", re.IGNORECASE)
# What stands above a question or an answer: an answer that holds such a line must not pass for two.
_HEADING = re.compile(r"^([ \t]*)((?:question \d+|answer [ab] to question \d+):)", re.IGNORECASE | re.MULTILINE)
_VERDICTS = re.compile(r"<verdicts>((?:(?!<verdicts>).)*)</verdicts>", re.DOTALL)


@dataclass(frozen=True)
class Verdict:
    """The votes of a judge on challenger against incumbent.

    Args:
        votes: R votes of k verdicts: 1 = the challenger's answer is better, -1 = the incumbent's, 0 = a tie,
            unreadable, or not compared since an answer is missing. A prompt that got no answer since its request
            was too long or refused loses the question, unless both did.
        n_unparsed: replies in which no verdict could be read; they promote nobody.
    """

    votes: tuple[tuple[int, ...], ...]
    n_unparsed: int = 0

    @property
    def wins(self) -> int:
        """Verdicts for the challenger, over votes and questions."""
        return sum(verdict > 0 for vote in self.votes for verdict in vote)

    @property
    def losses(self) -> int:
        """Verdicts for the incumbent."""
        return sum(verdict < 0 for vote in self.votes for verdict in vote)

    @property
    def is_won(self) -> bool:
        """Whether the challenger has more verdicts; a tie rejects it."""
        return self.wins > self.losses


def check_votes(n_votes: int) -> None:
    """Raise ConfigError unless both orders can be shown equally often."""
    if n_votes < 2 or n_votes % 2:
        raise ConfigError(f"n_votes={n_votes}; an even number of at least 2 shows both orders equally often")


@dataclass(frozen=True)
class Hearing:
    """What a judge is asked about two prompts' answers to the same questions, and what its replies say.

    Args:
        questions: as they are shown.
        cells: of challenger and incumbent on each question; None = missing.
        requirements: what is asked for.
        n_votes: R, even; the challenger is A in even votes and B in odd ones.
        n_shown: most questions of one ballot.
    """

    questions: tuple[str, ...]
    cells: tuple[tuple[Cell | None, Cell | None], ...]
    requirements: str
    n_votes: int
    n_shown: int

    def ballots(self) -> list[tuple[Message, ...]]:
        """Return the messages of R votes for each chunk of questions in turn."""
        return [self._ballot(chunk, i % 2 == 1) for chunk in self._chunks for i in range(self.n_votes)]

    def verdict(self, replies: Sequence[str | None]) -> Verdict:
        """Return what the replies to the ballots say; None = refused.

        A vote counts only with its partner in the other order: a judge that always says A and is unreadable
        in one order would promote otherwise.
        """
        votes = [[self._spoiled(i) for i in range(len(self.cells))] for _ in range(self.n_votes)]
        read = [
            read_vote(reply or "", len(self._chunks[i // self.n_votes]), is_swapped=i % 2 == 1)
            for i, reply in enumerate(replies)
        ]
        for i, vote in enumerate(read):
            i_chunk, i_vote = divmod(i, self.n_votes)
            partner = read[i ^ 1]  # of the other order; alone, a vote would leave the orders unbalanced
            if vote is not None and partner is not None:
                for i_question, value in zip(self._chunks[i_chunk], vote, strict=True):
                    votes[i_vote][i_question] = value
        return Verdict(tuple(map(tuple, votes)), sum(vote is None for vote in read))

    @cached_property
    def _chunks(self) -> list[list[int]]:
        """Indices of the questions of each ballot: those that both sides answered."""
        shown = [i for i, pair in enumerate(self.cells) if all(cell and cell.cause is None for cell in pair)]
        return [shown[i : i + self.n_shown] for i in range(0, len(shown), self.n_shown)]

    def _spoiled(self, i: int) -> int:
        """Return the verdict that needs no judge: a prompt that spoiled its request loses to one that did not."""
        ours, theirs = self.cells[i]
        return 0 if ours is None or theirs is None else (theirs.cause is not None) - (ours.cause is not None)

    def _ballot(self, chunk: Sequence[int], is_swapped: bool) -> tuple[Message, ...]:
        blocks = []
        for number, i in enumerate(chunk, 1):
            answers = [_quoted("" if cell is None else cell.output or "") for cell in self.cells[i]]
            a, b = reversed(answers) if is_swapped else answers
            blocks.append(
                f"Question {number}:\n{_quoted(self.questions[i])}\n\nAnswer A to question {number}:\n{a}\n\n"
                f"Answer B to question {number}:\n{b}"
            )
        fields = {"n": len(chunk), "requirements": self.requirements, "questions": "\n\n".join(blocks)}
        return (Message("user", substitute(JUDGE, fields)),)


def _quoted(text: str) -> str:
    """Return a question or an answer with `> ` before each line that reads like a heading of the ballot."""
    return _HEADING.sub(r"\1> \2", text)


def read_vote(reply: str, n_questions: int, *, is_swapped: bool) -> tuple[int, ...] | None:
    """Return k verdicts as of Verdict.votes; None if the reply names none, or not those that were asked for.

    Two verdicts on one question, or one on a question that there is not, spoil the vote: nobody knows which
    answers the judge meant.

    Args:
        is_swapped: whether the challenger was B.
    """
    blocks = _VERDICTS.findall(reply)
    block = blocks[-1].strip() if blocks else ""
    lines = [(int(number), name.upper()) for number, name in _LINE.findall(block)]
    if n_questions == 1 and not lines:
        lines = [(1, name.upper()) for name in _SINGLE.findall(block)]
    verdicts = dict(lines)
    if not verdicts or len(set(lines)) > len(verdicts) or not verdicts.keys() <= set(range(1, n_questions + 1)):
        return None
    value = {"A": -1 if is_swapped else 1, "B": 1 if is_swapped else -1, "TIE": 0}
    return tuple(value[verdicts.get(i, "TIE")] for i in range(1, n_questions + 1))
