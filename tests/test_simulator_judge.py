"""The simulator as a judge: in forms of several makers, not only our own, and how sound its verdicts are."""

from __future__ import annotations

import functools
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from promptopt.simulator import Simulator, landscape
from promptopt.tasks.synthetic import synthetic_task
from promptopt.types import Example, Message, Request

ROWS = tuple(row for split in synthetic_task("label", seed=11) for row in split)
TEAMS = ("billing", "delivery", "account", "product")
PROMPT = "Route the note to billing, delivery, account or product."

Pair = tuple[str, str, str]
"""A question, the first reply to it, and the second."""


@functools.cache
def sim(*, knows_targets: bool = True) -> Simulator:
    simulator = Simulator(landscape("default"), seed=2)
    rows = ROWS if knows_targets else tuple(Example(row.id, row.inputs, None) for row in ROWS)
    simulator.learn(rows)
    return simulator


def say(text: str, system: str = "", sample: str = "", simulator: Simulator | None = None) -> str:
    messages = ((Message("system", system),) if system else ()) + (Message("user", text),)
    request = Request("sim", messages, 4096, 1.0 if sample else 0.0, sample=sample)
    return (simulator or sim()).complete(request).text


def pair(place: int, first_is_right: bool | None) -> Pair:
    """Return a question with two replies, one of them right; None = both wrong, in the same words."""
    row = ROWS[place % len(ROWS)]
    bad = [team for team in TEAMS if team != row.target][place % 3]
    first, second = {None: (bad, bad), True: (row.target, bad), False: (bad, row.target)}[first_is_right]
    return row.inputs["input"], first or "", second or ""


def pairs(place: int, winners: Sequence[bool | None]) -> list[Pair]:
    return [pair(len(winners) * place + i, winner) for i, winner in enumerate(winners)]


def in_turn(shown: Sequence[Pair], *heads: str) -> str:
    """Return the pairs one after the other, each text under its heading, numbered."""
    return "\n\n".join(
        "\n\n".join(head.format(i=i) + text for head, text in zip(heads, texts, strict=True))
        for i, texts in enumerate(shown, 1)
    )


# --- one question -----------------------------------------------------------------------------------------

MARKED = (
    'Be a fair judge of two assistants. Write the verdict as "[[A]]" if assistant A is better, '
    '"[[B]]" if assistant B is better, and "[[C]]" for a tie.'
)
CHAT = (
    "[User Question]\n{q}\n\n[The Start of Assistant A's Answer]\n{a}\n[The End of Assistant A's Answer]\n\n"
    "[The Start of Assistant B's Answer]\n{b}\n[The End of Assistant B's Answer]"
)
FIELDS = (
    "Your input fields are:\n1. `question` (str)\n2. `response_a` (str)\n3. `response_b` (str)\n\n"
    "[[ ## question ## ]]\n{question}\n\n[[ ## response_a ## ]]\n{response_a}\n\n[[ ## response_b ## ]]\n"
    "{response_b}\n\n[[ ## verdict ## ]]\n{verdict}\n\nYour objective: find the better of the two responses."
)
WANTED = (
    "Respond with the corresponding output fields, starting with the field `[[ ## reasoning ## ]]`, then "
    "`[[ ## verdict ## ]]` (a Literal['A', 'B']), and then ending with the marker for `[[ ## completed ## ]]`."
)

# (system message, user message, reply for the first, for the second, for a tie; "" = no tie is allowed)
SINGLE: dict[str, tuple[str, str, str, str, str]] = {
    "chat with brackets": (MARKED, CHAT, "[[A]]", "[[B]]", "[[C]]"),
    "all in one message": ("", MARKED + "\n\n" + CHAT, "[[A]]", "[[B]]", "[[C]]"),
    "arrows": (
        "Judge whose answer is better.\n1. Assistant A is better: [[A>B]]\n2. Tie: [[A=B]]\n3. Assistant B is "
        "better: [[B>A]]",
        CHAT.replace("[The", "<|The").replace("Answer]", "Answer|>"),
        "[[A>B]]",
        "[[B>A]]",
        "[[A=B]]",
    ),
    "outputs in parentheses, after an example": (
        "",
        "Pick the output that fits the instruction best. Say only: Output (a) or Output (b).\n\n## Instruction:\n"
        "Name a fruit.\n\n## Output (a):\nApple.\n\n## Output (b):\nChair.\n\n## Which is best, Output (a) or "
        "Output (b)?\nOutput (a)\n\n## Instruction:\n{q}\n\n## Output (a):\n{a}\n\n## Output (b):\n{b}\n\n"
        "## Which is best, Output (a) or Output (b)?",
        "Output (a)",
        "Output (b)",
        "",
    ),
    "sets under bare letters, with a reference": (
        "",
        "Which of A and B meets the requirements better?\n\n# Requirement\nSort.\n\n# A\nQuestion: {q}\nAnswer: "
        "{a}\n\n# B\nQuestion: {q}\nAnswer: {b}\n\n# Golden answer\n{q}\nbilling delivery account product\n\n"
        "Use XML tags.\n<analyse>Your analysis</analyse>\n<choose>A/B (the better one)</choose>",
        "<analyse>Judged by what was asked for.</analyse>\n<choose>A</choose>",
        "<analyse>Judged by what was asked for.</analyse>\n<choose>B</choose>",
        "",
    ),
    "marked fields": (
        FIELDS,
        "[[ ## question ## ]]\n{q}\n\n[[ ## response_a ## ]]\n{a}\n\n[[ ## response_b ## ]]\n{b}\n\n" + WANTED,
        "[[ ## reasoning ## ]]\nJudged by what was asked for.\n\n[[ ## verdict ## ]]\nA\n\n[[ ## completed ## ]]",
        "[[ ## reasoning ## ]]\nJudged by what was asked for.\n\n[[ ## verdict ## ]]\nB\n\n[[ ## completed ## ]]",
        "",
    ),
    "numbers": (
        "",
        "### Instruction:\n{q}\n\n### Response 1:\n{a}\n\n### Response 2:\n{b}\n\nCompare both responses. "
        'Reply with 1 or 2, or with "Tie".',
        "1",
        "2",
        "Tie",
    ),
    "words": (
        "",
        "Note: {q}\n\nFirst answer: {a}\nSecond answer: {b}\n\nCompare the two answers. Ties are not allowed. "
        "Say 'first' if the first is better, 'second' if the second is better.",
        "first",
        "second",
        "",
    ),
    "tags, the labels named below": (
        "",
        "<question>{q}</question>\n<answer_a>\n{a}\n</answer_a>\n<answer_b>{b}</answer_b>\nThe labels are "
        "billing, delivery, account, product.\nWhich answer is better? <verdict>A, B or neither</verdict>",
        "<verdict>A</verdict>",
        "<verdict>B</verdict>",
        "<verdict>neither</verdict>",
    ),
    "JSON": (
        "",
        'TASK:\n{q}\n\nCANDIDATE A:\n{a}\n\nCANDIDATE B:\n{b}\n\nWhich is better? JSON: {{"winner": "A"|"B"}}',
        '{"winner": "A"}',
        '{"winner": "B"}',
        "",
    ),
    "codes": (
        "",
        "Note: {q}\n\nReply A: {a}\n\nReply B: {b}\n\nCompare both replies. Write '0' for a tie, '1' if A is "
        "better, '2' if B is better.",
        "1",
        "2",
        "0",
    ),
    "within a sentence": (
        "",
        "Somebody wrote: {q}\nOne gave response A, namely {a}, and one response B, namely {b}. Which is better?",
        "A",
        "B",
        "",
    ),
    "who": ("", "Q: {q}\n\nModel A said:\n{a}\n\nModel B said:\n{b}\n\nWho did better, A or B?", "A", "B", ""),
}


@pytest.mark.parametrize("name", SINGLE)
def test_one_verdict_is_given_in_the_form_asked_for_and_mostly_right(name: str) -> None:
    system, form, first, second, tie = SINGLE[name]
    replies = [
        (say(form.format(q=q, a=a, b=b), system), place % 2 == 0)
        for place in range(100)
        for q, a, b in [pair(place, place % 2 == 0)]
    ]
    assert {reply for reply, _ in replies} == {first, second}
    # 9 of 10 +- 3.3 standard deviations.
    assert 80 <= sum((reply == first) == is_first for reply, is_first in replies) <= 99
    equal = Counter(say(form.format(q=q, a=a, b=b), system) for q, a, b in (pair(i, None) for i in range(100)))
    assert set(equal) == {first, second} | ({tie} if tie else set())
    if tie:
        assert 34 <= equal[tie] <= 66
        assert min(equal[first], equal[second]) >= 10
    else:
        assert 34 <= equal[first] <= 66


def test_verdicts_do_not_depend_on_earlier_calls_but_on_the_sample() -> None:
    texts = [MARKED + "\n\n" + CHAT.format(q=q, a=a, b=b) for q, a, b in (pair(i, None) for i in range(12))]
    former = [say(text, simulator=sim.__wrapped__()) for text in texts[:3]]
    warm = sim()
    for text in reversed(texts):
        say(text, simulator=warm)
    assert [say(text, simulator=warm) for text in texts[:3]] == former
    assert len({say(texts[0], sample=str(i)) for i in range(20)}) == 3


def test_a_reply_that_repeats_the_question_is_still_judged() -> None:
    found = Counter()
    for place in range(60):
        q, a, b = pair(place, place % 2 == 0)
        reply = say(CHAT.format(q=q, a=f"You say: {q}\nAnswer: {a}", b=f"{b}\nAs you said: {q}"), MARKED)
        found[reply == ("[[A]]" if place % 2 == 0 else "[[B]]")] += 1
    assert found[True] >= 46


def test_a_shown_judgement_is_no_question() -> None:
    (q, a, b), (other, c, d) = pair(0, True), pair(1, False)
    turns = (
        Message("system", MARKED),
        Message("user", CHAT.format(q=q, a=a, b=b)),
        Message("assistant", "[[A]]"),
        Message("user", CHAT.format(q=other, a=c, b=d)),
    )
    replies = Counter(sim().complete(Request("sim", turns, 99, 1.0, sample=str(i))).text for i in range(40))
    assert replies["[[B]]"] >= 28
    assert set(replies) <= {"[[A]]", "[[B]]"}


def test_without_targets_a_plain_reply_beats_a_hedged_one() -> None:
    simulator = sim(knows_targets=False)
    n_sound = 0
    for row in ROWS[:60]:
        echo = row.inputs["input"][:40]
        hedged = f"It could be {echo}, but also something else; hard to say."
        text = (
            f"Input: {row.inputs['input']}\n\nAnswer A: {hedged}\n\nAnswer B: {echo}\n\nWhich is better, A or B?"
        )
        n_sound += say(text, simulator=simulator) == "B"
    assert 46 <= n_sound <= 59


# --- several questions ------------------------------------------------------------------------------------

A_SET = "Two models replied to the same questions.\n\n"


def numbered(texts: Sequence[str]) -> str:
    return "\n".join(f"{i}. {text}" for i, text in enumerate(texts, 1))


def with_inputs(shown: Sequence[Pair], side: int) -> str:
    return numbered([f"{texts[0]}\nReply: {texts[side]}" for texts in shown])


# (request, pattern of the reply, word for the first, word for the second)
SEVERAL: dict[str, tuple[Callable[[Sequence[Pair]], str], str, str, str]] = {
    "labelled with the question": (
        lambda shown: (
            "You judge answers given by A and by B. What is asked for: sort notes.\n\n"
            + in_turn(shown, "Question {i}:\n", "Answer A to question {i}:\n", "Answer B to question {i}:\n")
            + "\n\nFor each question, say whose answer is better. One line for each between <verdicts> and "
            "</verdicts>, for example `1: A`."
        ),
        r"<verdicts>\n1: (\w)\n2: (\w)\n3: (\w)\n</verdicts>",
        "A",
        "B",
    ),
    "markdown": (
        lambda shown: (
            "You compare two systems.\n\n"
            + in_turn(shown, "## Question {i}\n\n", "### Response A\n\n", "### Response B\n\n")
            + "\n\nGive the letter of the better one per question, as in\n1. A\n2. B"
        ),
        r"1\. (\w)\n2\. (\w)\n3\. (\w)",
        "A",
        "B",
    ),
    "tags": (
        lambda shown: (
            "\n".join(
                f"<pair>\n<q>{q}</q>\n<reply_a>{a}</reply_a>\n<reply_b>{b}</reply_b>\n</pair>" for q, a, b in shown
            )
            + "\nWhich reply is better in each pair? Write Q1: A (or B) and so on into <result></result>."
        ),
        r"<result>\nQ1: (\w)\nQ2: (\w)\nQ3: (\w)\n</result>",
        "A",
        "B",
    ),
    "request first": (
        lambda shown: (
            "For each question, output a line `<number>: <A|B>`. Choose the better answer.\n\n"
            + in_turn(shown, "Question {i}:\n", "[A's answer]\n", "[B's answer]\n")
        ),
        r"1: (\w)\n2: (\w)\n3: (\w)",
        "A",
        "B",
    ),
    "codes": (
        lambda shown: (
            in_turn(shown, "Item {i}\n", "1st reply:\n", "2nd reply:\n")
            + '\n\nWhich of both replies is better for each item? "X" if the first is, "Y" if the second is.'
        ),
        r"1: (\w)\n2: (\w)\n3: (\w)",
        "X",
        "Y",
    ),
    "JSON": (
        lambda shown: (
            in_turn(shown, "Question {i}:\n", "Assistant 1:\n", "Assistant 2:\n")
            + '\n\nFor each question, which of the two is better? JSON such as {"1": "1", "2": "2"}.'
        ),
        r'\{"1": "(\d)", "2": "(\d)", "3": "(\d)"\}',
        "1",
        "2",
    ),
    "sets with inputs": (
        lambda shown: (
            f"{A_SET}Responses A:\n{with_inputs(shown, 1)}\n\nResponses B:\n{with_inputs(shown, 2)}\n\n"
            "For each question, which is better, A or B? One line per question."
        ),
        r"1: (\w)\n2: (\w)\n3: (\w)",
        "A",
        "B",
    ),
    "sets with numbers": (
        lambda shown: (
            f"{A_SET}Questions:\n{numbered([q for q, _, _ in shown])}\n\nResponses A:\n"
            f"{numbered([a for _, a, _ in shown])}\n\nResponses B:\n{numbered([b for _, _, b in shown])}\n\n"
            "Compare question by question; put the letters between <votes> and </votes>."
        ),
        r"<votes>\n1: (\w)\n2: (\w)\n3: (\w)\n</votes>",
        "A",
        "B",
    ),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_each_question_is_judged_by_itself(name: str) -> None:
    ask, pattern, first, second = SEVERAL[name]
    n_sound = 0
    for place in range(40):
        winners = [bool(place >> bit & 1) for bit in range(3)]
        found = re.fullmatch(pattern, say(ask(pairs(place, winners))))
        assert found is not None
        n_sound += sum(
            word == (first if won else second) for word, won in zip(found.groups(), winners, strict=True)
        )
    # 9 of 10 of 120, +- 3 standard deviations.
    assert 98 <= n_sound <= 118


def test_a_tie_is_said_question_by_question_where_the_request_allows_it() -> None:
    ask = "\n\nFor each question, say which answer is better: A, B, or tie. One line per question."
    words = Counter[str]()
    for place in range(40):
        shown = in_turn(pairs(place, (None, True, None)), "Question {i}: ", "Answer A: ", "Answer B: ")
        lines = [line.split(": ")[1] for line in say(shown + ask).split("\n")]
        words.update((lines[0], lines[2]))
        assert lines[1] in ("A", "B")
    assert 26 <= words["tie"] <= 54
    assert min(words["A"], words["B"]) >= 8


@pytest.mark.parametrize("winners", [(True, True, False), (False, None, None), (False, True, False)])
def test_one_verdict_on_all_questions_follows_the_majority(winners: tuple[bool | None, ...]) -> None:
    ask = "\n\nTaking all questions together, whose answers are better? Give one verdict: <choose>A/B</choose>"
    expected = "A" if winners[0] else "B"
    replies = Counter(
        say(in_turn(pairs(place, winners), "Question {i}: ", "Answer A: ", "Answer B: ") + ask)
        for place in range(60)
    )
    assert set(replies) <= {"<choose>A</choose>", "<choose>B</choose>"}
    assert 46 <= replies[f"<choose>{expected}</choose>"] <= 60


def test_even_sets_are_judged_by_taste() -> None:
    ask = "\n\nTaking all questions together, whose answers are better, A or B? Give one verdict."
    shown = (in_turn(pairs(i, (True, False)), "Question {i}: ", "Answer A: ", "Answer B: ") for i in range(80))
    replies = Counter(say(text + ask) for text in shown)
    assert set(replies) == {"A", "B"}
    assert 24 <= replies["A"] <= 56


def test_an_unknown_question_leaves_the_others_in_their_place() -> None:
    shown = pairs(5, (True, True, True))
    shown[1] = ("What colour is the moon?", "grey", "green")
    ask = "\n\nFor each question, whose answer is better, A or B? One line per question."
    text = in_turn(shown, "Question {i}: ", "Answer A: ", "Answer B: ") + ask
    replies = [say(text, sample=str(i)).split("\n") for i in range(60)]
    rates = [sum(lines[place].endswith("A") for lines in replies) for place in range(3)]
    assert min(rates[0], rates[2]) >= 46
    assert 17 <= rates[1] <= 43


# --- ratings ----------------------------------------------------------------------------------------------

RATED = {
    "brackets": (
        'Rate the response on a scale of 1 to 10 in this format: "[[rating]]".\n\n[Question]\n{q}\n\n'
        "[The Start of Assistant's Answer]\n{a}\n[The End of Assistant's Answer]",
        r"\[\[(\d+)\]\]",
        (1, 10),
    ),
    "tag": (
        "Question: {q}\n\nResponse: {a}\n\nGive the response a score from 1 (bad) to 5 (perfect) in <score> tags.",
        r"<score>(\d)</score>",
        (1, 5),
    ),
    "signed": (
        "Input:\n{q}\n\nPredicted response:\n{a}\n\nGive a score from -5 to +5 within <final></final>.",
        r"<final>(-?\d)</final>",
        (-5, 5),
    ),
    "bare": (
        "Rate the answer from 0 to 100.\n\nNote:\n{q}\n\nAnswer to rate:\n{a}\n\nNumber only.",
        r"(\d+)",
        (0, 100),
    ),
    "unit": (
        "<input>{q}</input>\n<output>{a}</output>\nAssign the output a score in [0, 1].",
        r"(\d\.\d\d)",
        (0, 1),
    ),
}


@pytest.mark.parametrize("name", RATED)
def test_ratings_are_high_for_right_replies(name: str) -> None:
    form, pattern, (low, high) = RATED[name]

    def mean(is_right: bool) -> float:
        values = []
        for q, a, _ in (pair(i, is_right) for i in range(60)):
            found = re.fullmatch(pattern, say(form.format(q=q, a=a)))
            assert found is not None
            values.append(float(found.group(1)))
        assert low <= min(values) <= max(values) <= high
        assert len(set(values)) > 1
        return sum(values) / len(values)

    assert mean(True) > low + 0.7 * (high - low)
    assert mean(False) < low + 0.3 * (high - low)


# --- checklists -------------------------------------------------------------------------------------------

POINTS = ("It names a team.", "The team is the right one.", "It is short.")
# (system message, user message, how a line of the reply looks, words for good and bad)
CHECKED: dict[str, tuple[str, str, str, tuple[str, str]]] = {
    "bullets": (
        "",
        "Note: {q}\n\n<response>\n{a}\n</response>\n\nCriteria:\n- {0}\n- {1}\n- {2}\n\nFor every "
        "criterion answer pass or fail, one line each, such as `1. pass`.",
        r"\d\. (pass|fail)",
        ("pass", "fail"),
    ),
    "a fence": (
        "",
        "Checklist:\n1. {0}\n2. {1}\n3. {2}\n\n### Input\n{q}\n\n### Output\n```\n{a}\n```\n\nGo "
        "item by item and say YES or NO.\nItem 1: YES",
        r"Item \d: (YES|NO)",
        ("YES", "NO"),
    ),
    "a system message, tags": (
        "You audit replies. Requirements:\n1) {0}\n2) {1}\n3) {2}\nJudge each requirement: met, partially met "
        "or not met. Put the verdicts between <audit> and </audit>.",
        "Customer's note:\n{q}\n\nAssistant's reply:\n{a}",
        r"\d: (met|partially met|not met)",
        ("met", "not met"),
    ),
}


@pytest.mark.parametrize("name", CHECKED)
def test_each_point_of_a_checklist_gets_a_verdict(name: str) -> None:
    system, user, line, (good, bad) = CHECKED[name]

    def share(is_right: bool, wanted: str) -> float:
        said: list[str] = []
        for q, a, _ in (pair(i, is_right) for i in range(40)):
            text = say(user.format(*POINTS, q=q, a=a), system.format(*POINTS))
            words = re.findall(rf"^{line}$", text, re.MULTILINE)
            assert len(words) == 3, text
            assert ("<audit>" in text) == ("<audit>" in system)
            said += words
        return said.count(wanted) / len(said)

    assert share(True, good) > 0.75
    assert share(False, bad) > 0.75


NO_CHECK = (
    "Check every rule first:\n1. Be short.\n2. Name a team.\nIs it for {team}? Answer yes or no.\n\nNote: {q}",
    "1. Read the note.\n2. Go through each point of it.\nSay yes or no, then the team.\n\nNote: {q}\nAnswer:",
)


@pytest.mark.parametrize("form", NO_CHECK)
def test_a_prompt_with_rules_is_no_checklist(form: str) -> None:
    for i in range(10):
        q, right, _ = pair(i, True)
        text = say(form.format(q=q, team=right))
        assert not re.search(r"^\d+: (?:yes|no)$", text, re.MULTILINE)
        assert any(team in text for team in TEAMS)


# --- what is no judgement ---------------------------------------------------------------------------------

TASKS = (
    "Judge which team is better suited, and rate how sure you are on a scale of 1 to 5.\n\nNote: {q}\nTeam:",
    "Response: {q}\n\nRate the response: which team should get it? Let the score from 0 to 9 be unsaid.",
    "Compare the teams and pick the better one.\n\n{q}\n\nOutput 1: the team\nOutput 2: nothing",
    "Choose the best team.\n\n{q}\n\nAnswer: Let's think step by step, then give a score from 1 to 5.",
)


@pytest.mark.parametrize("form", TASKS)
def test_tasks_in_a_judges_words_are_answered(form: str) -> None:
    replies = [say(form.format(q=pair(i, True)[0])) for i in range(20)]
    assert all(any(team in reply for team in TEAMS) for reply in replies)


WRITING = (
    "Requirements: sort.\n<prompt>\n{p}\n</prompt>\n\nIts answers:\nQuestion 1: {q}\nAnswer 1: {a}\n\n"
    "Question 2: {r}\nAnswer 2: {a}\n\nWrite a better prompt. Put it between <prompt> and </prompt>.",
    "Prompt: {p}\n\nInput: {q}\nOutput 1: {a}\nOutput 2: {b}\n\nCompare both outputs, choose the better and write "
    "an improved prompt between <prompt> and </prompt>.",
    "Candidate A: {p}\n\nCandidate B: Sort it.\n\nMerge both candidates into one better instruction between "
    "<prompt> and </prompt>.",
)


@pytest.mark.parametrize("form", WRITING)
def test_prompts_are_written_even_if_two_replies_are_shown(form: str) -> None:
    (q, a, b), (r, _, _) = pair(0, True), pair(1, True)
    replies = [say(form.format(p=PROMPT, q=q, a=a, b=b, r=r), sample=str(i)) for i in range(20)]
    bodies = [reply.split("<prompt>")[-1].split("</prompt>")[0] for reply in replies]
    assert min(map(len, bodies)) > 10


def test_a_json_reply_can_be_read() -> None:
    q, a, b = pair(3, True)
    ask = f"Question: {q}\n\nResponse 1: {a}\n\nResponse 2: {b}\n\nCompare the two responses. Reply in JSON: "
    found = json.loads(say(ask + '{"reason": "why", "winner": 1 or 2}'))
    assert list(found) == ["reason", "winner"]
    assert found["winner"] in (1, 2)
