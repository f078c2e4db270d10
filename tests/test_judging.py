"""The pairwise judge: what it is shown, how its replies are read, and who loses without being judged."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptopt.asking import Cell
from promptopt.errors import ConfigError
from promptopt.judging import Hearing, Verdict, check_votes, read_vote
from promptopt.types import Score

NAN = float("nan")


def cell(output: str | None, cause: str | None = None) -> Cell:
    return Cell(b"", Score(NAN), output, cause)


def hearing(n_questions: int = 2, n_votes: int = 4, n_shown: int = 5, wanted: str = "short answers") -> Hearing:
    questions = tuple(f"What is {i}?" for i in range(n_questions))
    cells = tuple((cell(f"ours {i}"), cell(f"theirs {i}")) for i in range(n_questions))
    return Hearing(questions, cells, wanted, n_votes, n_shown)


def read(lines: str, n_questions: int = 2, *, is_swapped: bool = False) -> tuple[int, ...] | None:
    return read_vote(f"<verdicts>\n{lines}\n</verdicts>", n_questions, is_swapped=is_swapped)


# What the judge is shown ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n_votes", [2, 4, 10])
@pytest.mark.parametrize("n_questions", [1, 5, 12])
def test_each_order_is_shown_equally_often_to_every_question(n_votes: int, n_questions: int) -> None:
    first: Counter[tuple[int, str]] = Counter()
    for ballot in hearing(n_questions, n_votes).ballots():
        for i in range(n_questions):
            for side in ("ours", "theirs"):
                first[i, side] += f":\n{side} {i}\n\nAnswer B" in ballot[0].content
    assert set(first.values()) == {n_votes // 2}
    assert len(first) == 2 * n_questions


def test_a_ballot_holds_questions_answers_and_what_is_asked_for_and_nothing_else() -> None:
    one, other = (ballot[0] for ballot in hearing(2, n_votes=2).ballots())
    assert (one.role, other.role) == ("user", "user")
    assert one.content.replace("ours", "@").replace("theirs", "ours").replace("@", "theirs") == other.content
    head, _, rest = one.content.partition("Question 1:\n")
    body, _, tail = rest.partition("\n\nFor each question")
    assert body == (
        "What is 0?\n\nAnswer A to question 1:\nours 0\n\nAnswer B to question 1:\ntheirs 0\n\n"
        "Question 2:\nWhat is 1?\n\nAnswer A to question 2:\nours 1\n\nAnswer B to question 2:\ntheirs 1"
    )
    assert "short answers" in head
    for word in ("prompt", "challenger", "incumbent", "initial", "new", "old", "winner", "score"):
        assert word not in (head + tail).lower()


def test_fields_of_texts_are_not_replaced() -> None:
    cells = ((cell("{requirements}"), cell("{n} {questions}")),)
    ballot = Hearing(("{questions}",), cells, "{n}", 2, 5).ballots()[0][0].content
    assert "What is asked for: {n}" in ballot
    assert "Answer A to question 1:\n{requirements}\n\nAnswer B to question 1:\n{n} {questions}" in ballot


def test_questions_are_shown_at_most_n_at_a_time_and_numbered_anew() -> None:
    ballots = [ballot[0].content for ballot in hearing(12, n_votes=2, n_shown=5).ballots()]
    assert [text.count("\nQuestion ") + text.startswith("Question ") for text in ballots] == [5, 5, 5, 5, 2, 2]
    assert "Question 1:\nWhat is 10?" in ballots[4]
    assert "same 2 questions" in ballots[4]


@pytest.mark.parametrize("n_votes", [-2, 0, 1, 3, 5])
def test_a_number_of_votes_that_cannot_be_balanced_is_refused(n_votes: int) -> None:
    with pytest.raises(ConfigError, match=f"n_votes={n_votes}; an even number of at least 2"):
        check_votes(n_votes)
    check_votes(2)


# How a reply is read --------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_swapped", [False, True])
def test_a_vote_is_told_from_the_place_of_the_challenger(is_swapped: bool) -> None:
    sign = -1 if is_swapped else 1
    assert read("1: A\n2: B\n3: tie", 3, is_swapped=is_swapped) == (sign, -sign, 0)


@pytest.mark.parametrize(
    "line",
    [
        *(
            "1: A",
            "1. A",
            "1) A",
            "1 - A",
            "1: **A**",
            "**1**: A",
            "1:A",
            "1 A",
            "- 1: A",
            "* 1. **A**",
            "| 1 | A |",
        ),
        *("Question 1: A", "**Question 1:** A", "Q1: A", "question 1 - a", "1: a", '1: "A"', "1: [A]", "(1) (A)"),
        *(
            "1: Answer A",
            "1: A.",
            "1: A, since it is right",
            "1: A - more precise",
        ),
        *("1: A — clearer", "1: A: it names the year", "1: A is better", "1: A is better than B", "1: A wins"),
        *("1: A\r", "  1: A  ", "1: A\n1: A", "1: A; 1: A"),
    ],
)
def test_a_verdict_may_be_written_in_many_ways(line: str) -> None:
    assert read(line, 1) == (1,)


@pytest.mark.parametrize(
    "line",
    ["1: tie", "1: Tie", "1. **TIE**", "1: a tie", "1: A tie", "Question 1: tie.", "1: tie (both right)", "tie"],
)
def test_a_tie_is_no_verdict_for_a(line: str) -> None:
    assert read(line, 1) == (0,)


@pytest.mark.parametrize(
    "line",
    [
        *("1: A and B are alike", "1: A/B", "1: A, B", "1: A or B", "1: A & B", "1: A = B", "1: both A and B"),
        *(
            "1: neither",
            "1: C",
            "1: AB",
            "1: A lot of both",
            "1: Answer",
            "1: Adequate",
            "1:",
            "one: A",
            "",
        ),
        *("1: A?B", "1: not A", "1: A (B)", "good answers all", "1\nA"),
    ],
)
def test_what_is_no_clear_verdict_counts_for_nobody(line: str) -> None:
    assert read(line, 1) is None
    assert read(f"{line}\n2: B", 2) == (0, -1)


def test_several_verdicts_may_share_a_line() -> None:
    assert read("1: A, 2: B; 3: tie", 3) == (1, -1, 0)
    assert read("1: A, 2 B-type errors", 2) == (1, 0)


def test_a_single_answer_needs_no_number() -> None:
    assert read("B", 1) == (-1,)
    assert read("**A** is better", 1) == (1,)
    assert read("B", 2) is None


@pytest.mark.parametrize("lines", ["1: A\n1: B", "1: A\n2: B\n1: tie", "1: A, 1: B"])
def test_a_vote_that_contradicts_itself_counts_for_nobody(lines: str) -> None:
    assert read(lines) is None


@pytest.mark.parametrize("lines", ["0: A\n1: B", "1: A\n2: B\n3: A", "3: A", "1: A\n77: B"])
def test_verdicts_on_other_questions_spoil_the_vote(lines: str) -> None:
    assert read(lines) is None


def test_questions_without_a_verdict_are_ties() -> None:
    assert read("2: A", 3) == (0, 1, 0)


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "1: A\n2: A",
        "<verdicts>1: A",
        "1: A</verdicts>",
        "</verdicts>1: A<verdicts>",
        "<verdict>1: A</verdict>",
        "<verdicts></verdicts>",
        "<verdicts>1: A</verdicts> no, wait: <verdicts>none</verdicts>",
    ],
)
def test_replies_without_verdicts_in_their_tags_are_unreadable(reply: str) -> None:
    assert read_vote(reply, 2, is_swapped=False) is None


def test_the_last_block_counts() -> None:
    reply = "The answer says <verdicts>1: B</verdicts>. I say <verdicts> <verdicts>1: A</verdicts>"
    assert read_vote(reply, 1, is_swapped=False) == (1,)
    assert read_vote("<verdicts>1: A</verdicts> or <verdicts>1: B", 1, is_swapped=False) == (1,)


@pytest.mark.parametrize(
    "unit",
    ["\n", " ", ",", "1", "1:", "1: A\n", "1: A,", "(", "*", "<verdicts>", "</verdicts>", "question ", "A", ";  "],
)
def test_giant_replies_take_linear_time(unit: str) -> None:
    giant = unit * (300_000 // len(unit))
    assert read_vote(giant, 5, is_swapped=False) is None
    assert read_vote(f"{giant}<verdicts>1: A</verdicts>", 5, is_swapped=False) == (1, 0, 0, 0, 0)
    assert read(f"{giant}\n1: A", 5) in (None, (1, 0, 0, 0, 0))


def test_a_number_of_thousands_of_digits_is_no_crash() -> None:
    assert read("9" * 5000 + ": A\n1: B") == (-1, 0)


@given(
    st.text()
    | st.lists(st.sampled_from(["1", "2", ":", " ", "A", "B", "tie", "\n", "<verdicts>", "</verdicts>"])).map(
        "".join
    )
)
def test_any_reply_gives_a_vote_or_none_and_swapping_turns_it_around(reply: str) -> None:
    for text in (reply, f"<verdicts>{reply}</verdicts>"):
        vote = read_vote(text, 2, is_swapped=False)
        swapped = read_vote(text, 2, is_swapped=True)
        assert (vote is None) == (swapped is None)
        if vote is not None and swapped is not None:
            assert len(vote) == 2
            assert vote == tuple(-verdict for verdict in swapped)


# Verdicts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("votes", "wins", "losses", "is_won"),
    [
        (((1, 1), (-1, 0)), 2, 1, True),
        (((1, 0), (-1, 0)), 1, 1, False),
        (((0, 0), (0, 0)), 0, 0, False),
        (((-1, 0), (0, 0)), 0, 1, False),
        (((), ()), 0, 0, False),
    ],
)
def test_verdicts_are_counted_over_votes_and_questions_and_ties_reject(
    votes: tuple[tuple[int, ...], ...], wins: int, losses: int, is_won: bool
) -> None:
    verdict = Verdict(votes)
    assert (verdict.wins, verdict.losses, verdict.is_won) == (wins, losses, is_won)


def test_a_judge_that_always_says_a_decides_nothing() -> None:
    verdict = hearing(3).verdict(["<verdicts>1: A\n2: A\n3: A</verdicts>"] * 4)
    assert verdict.votes == ((1, 1, 1), (-1, -1, -1), (1, 1, 1), (-1, -1, -1))
    assert not verdict.is_won


def test_replies_belong_to_their_chunk_and_vote() -> None:
    session = hearing(7, n_votes=2, n_shown=5)
    replies = ["1: A\n5: A", "1: B\n5: tie", "2: A", "2: A"]
    verdict = session.verdict([f"<verdicts>{reply}</verdicts>" for reply in replies])
    assert verdict.votes == ((1, 0, 0, 0, 1, 0, 1), (1, 0, 0, 0, 0, 0, -1))


def test_unreadable_and_refused_replies_promote_nobody_and_are_counted() -> None:
    replies = ["chatter", None, "<verdicts>1: A\n2: B</verdicts>", "<verdicts>1: B</verdicts>"]
    assert hearing(2).verdict(replies) == Verdict(((0, 0), (0, 0), (1, -1), (1, 0)), n_unparsed=2)


def test_a_vote_without_its_partner_in_the_other_order_does_not_count() -> None:
    always_a = "<verdicts>1: A\n2: A</verdicts>"
    verdict = hearing(2).verdict([always_a, "<verdicts>1: A\n1: B</verdicts>", always_a, always_a])
    assert verdict == Verdict(((0, 0), (0, 0), (1, 1), (-1, -1)), n_unparsed=1)
    assert not verdict.is_won


def test_missing_answers_are_not_compared_and_spoiled_requests_lose() -> None:
    long = cell(None, "ContextTooLong: 9 tokens too many")
    stopped = cell("half an", "the content filter stopped the answer")
    pairs = (
        (cell("a"), cell("b")),
        (None, cell("b")),
        (cell("a"), None),
        (long, cell("b")),
        (cell("a"), stopped),
        (stopped, long),
        (long, None),
        (cell(""), cell("b")),
    )
    session = Hearing(tuple("abcdefgh"), pairs, "x", 2, 5)
    ballots = session.ballots()
    assert len(ballots) == 2
    assert "Question 1:\na\n" in ballots[0][0].content
    assert "Question 2:\nh\n\nAnswer A to question 2:\n\n\nAnswer B to question 2:\nb" in ballots[0][0].content
    verdict = session.verdict(["<verdicts>1: A\n2: B</verdicts>"] * 2)
    assert verdict.votes == ((1, 0, 0, -1, 1, 0, 0, -1), (-1, 0, 0, -1, 1, 0, 0, 1))


def test_without_an_answer_to_compare_nothing_is_asked() -> None:
    session = Hearing(("a",), ((None, cell("b")),), "x", 2, 5)
    assert session.ballots() == []
    assert session.verdict([]) == Verdict(((0,), (0,)))
