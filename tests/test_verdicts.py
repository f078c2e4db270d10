"""The judge and the final choice as verbs: what they cost, whom they promote, how they repeat."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pytest
from scripted import LABELS, Scripted, make_task, noise
from started import JUDGE, again, calls_of, colours, drive, number, right, start

from promptopt.errors import BudgetExhausted, CallRefused, ConfigError, ContextTooLong, ReplayDiverged, TaskError
from promptopt.study import Study
from promptopt.task import Task
from promptopt.tasks.metrics import Unscored
from promptopt.types import Candidate, Prompt, Request

_SHOWN = re.compile(r"Answer A to question (\d+):\n(.*?)\n\nAnswer B to question \1:\n(.*?)(?=\n\n)", re.DOTALL)


def shows(request: Request) -> list[tuple[str, str]]:
    return [(a, b) for _, a, b in _SHOWN.findall(request.messages[-1].content)]


def polite(request: Request) -> str:
    """Answer as politely as the prompt is; judge by politeness."""
    if pairs := shows(request):
        leads = (a.count("please") - b.count("please") for a, b in pairs)
        lines = (f"{i}: {'A' if lead > 0 else 'B' if lead < 0 else 'tie'}" for i, lead in enumerate(leads, 1))
        return "<verdicts>\n" + "\n".join(lines) + "\n</verdicts>"
    return "red" + " please" * request.messages[0].content.count("please")


def says(verdicts: str) -> Callable[[Request], str]:
    return lambda request: verdicts if shows(request) else request.messages[0].content[-2:]


def pleading(n: int, note: str = "") -> Candidate:
    return Candidate(Prompt(f"Name the colour{note}{' please' * n}."))


def unlabelled() -> Task:
    task = make_task().without_targets()
    return replace(task, metric=Unscored(), description="Name colours kindly.")


def test_a_judgement_costs_the_answers_once_and_a_call_for_each_vote() -> None:
    transport = Scripted(polite)
    study, state = start(transport, task=unlabelled(), judge=JUDGE)
    questions = study.task.dev[:3]

    async def work() -> None:
        await study.evaluate([pleading(0)], questions[:2])
        verdict = await study.judge(pleading(1), pleading(0), questions)
        assert verdict.votes == ((1, 1, 1),) * 4
        assert (verdict.is_won, verdict.n_unparsed) == (True, 0)
        assert (calls_of(state, "task"), calls_of(state, "judge")) == (6, 4)
        assert not (await study.judge(pleading(0), pleading(1), questions, n_votes=2)).is_won
        assert (calls_of(state, "task"), calls_of(state, "judge")) == (6, 6)

    drive(work())
    assert len(transport.requests) == 12


def test_the_judge_sees_answers_only_in_both_orders() -> None:
    task = replace(make_task(), description="Name colours kindly.")  # with targets, which it must not see
    transport = Scripted(
        lambda request: "x" if shows(request) else f"answer of {request.messages[0].content[16:17]}"
    )
    study, _ = start(transport, task=task, judge=JUDGE)
    ours, theirs = (Candidate(Prompt(f"Name the colour {letter} SECRET.")) for letter in "PQ")
    drive(study.judge(ours, theirs, task.dev[:2], n_votes=4))
    payloads = [request.messages for request in transport.requests if shows(request)]
    assert [[a for a, _ in shows(r)] for r in transport.requests if shows(r)] == [
        ["answer of P"] * 2,
        ["answer of Q"] * 2,
    ] * 2
    for messages in payloads:
        assert len(messages) == 1
        text = messages[0].content
        for hidden in ("SECRET", ours.id, theirs.id, "dev-100", *LABELS, "challenger", "incumbent"):
            assert hidden not in text
        assert "Question 1:\nitem number 100\n" in text
        assert "Name colours kindly." in text


def test_votes_are_drawn_anew_and_a_judge_without_temperature_is_asked_once_for_each_order() -> None:
    for spec, n in ((JUDGE, 4), (replace(JUDGE, temperature=0.0), 2)):
        transport = Scripted(polite)
        study, _ = start(transport, task=unlabelled(), judge=spec, n_calls=2 + n)
        drive(study.judge(pleading(1), pleading(0), study.task.dev[:1]))
        assert sum(bool(shows(request)) for request in transport.requests) == n


@pytest.mark.parametrize("verdicts", ["<verdicts>1: A\n2: A</verdicts>", "<verdicts>1: tie</verdicts>", "A!", ""])
def test_a_judge_that_favours_a_place_or_says_nothing_promotes_nobody(verdicts: str) -> None:
    study, _ = start(Scripted(says(verdicts)), task=unlabelled(), judge=JUDGE)
    verdict = drive(study.judge(pleading(1), pleading(0), study.task.dev[:2], n_votes=6))
    assert (verdict.wins == verdict.losses, verdict.is_won) == (True, False)
    assert verdict.n_unparsed == (0 if "verdicts" in verdicts else 6)


def test_many_questions_are_shown_five_at_a_time() -> None:
    transport = Scripted(polite)
    study, _ = start(transport, task=unlabelled(), judge=JUDGE)
    verdict = drive(study.judge(pleading(1), pleading(0), study.task.dev[:12], n_votes=2))
    assert verdict.votes == ((1,) * 12,) * 2
    assert [len(shows(request)) for request in transport.requests if shows(request)] == [5, 5, 5, 5, 2, 2]


def test_missing_answers_are_not_judged_and_spoiled_requests_lose() -> None:
    def refuse(request: Request) -> None:
        is_ours = "please" in request.messages[0].content
        if not shows(request) and number(request) == 100 and is_ours:
            raise CallRefused("no")
        if not shows(request) and number(request) == 101 + is_ours:
            raise ContextTooLong("too long")

    transport = Scripted(polite, on_request=refuse)
    study, _ = start(transport, task=unlabelled(), judge=JUDGE)
    verdict = drive(study.judge(pleading(1), pleading(0), study.task.dev[:4], n_votes=2))
    assert verdict.votes == ((0, 1, -1, 1),) * 2
    assert [len(shows(request)) for request in transport.requests if shows(request)] == [1, 1]


def test_judgements_that_cannot_be_made_are_refused_before_they_cost() -> None:
    transport = Scripted(polite)
    study, _ = start(transport, task=unlabelled(), judge=JUDGE, n_calls=5)
    with pytest.raises(ConfigError, match="n_votes=3"):
        drive(study.judge(pleading(1), pleading(0), study.task.dev[:1], n_votes=3))
    assert transport.requests == []
    with pytest.raises(BudgetExhausted):
        drive(study.judge(pleading(1), pleading(0), study.task.dev[:1], n_votes=4))
    assert len(transport.requests) == 2  # the answers; of the votes none was sent
    judgeless, _ = start(transport, task=unlabelled())
    with pytest.raises(TaskError, match="no judge model"):
        drive(judgeless.judge(pleading(1), pleading(0), study.task.dev[:1]))


def test_judgements_are_the_same_at_any_timing_and_repeat_from_the_journal() -> None:
    def moody(request: Request) -> str:
        return (
            f"<verdicts>1: {'AB'[noise(request.sample) < 0.5]}</verdicts>" if shows(request) else polite(request)
        )

    async def branch(study: Study, n: int) -> object:
        return await study.judge(pleading(n), pleading(0), study.task.dev[:1], n_votes=4)

    transport = Scripted(moody)
    study, state = start(transport, task=unlabelled(), judge=JUDGE)
    first = drive(study.map(branch, range(1, 5)))
    assert len({verdict.votes for verdict in first}) > 1
    for latency_seed in range(4):
        late, _ = start(Scripted(moody, latency_seed=latency_seed), task=unlabelled(), judge=JUDGE)
        assert drive(late.map(branch, range(1, 5))) == first
    n = len(transport.requests)
    assert drive(again(state, transport).map(branch, range(1, 5))) == first
    assert len(transport.requests) == n
    with pytest.raises(ReplayDiverged, match="path '0/1', ordinal 1, item 0"):
        drive(again(state, transport).map(branch, [1, 3, 3, 4]))


# The final choice -----------------------------------------------------------------------------------------


def skilled(skills: Mapping[str, float]) -> Callable[[Request], str]:
    """Answer right with a probability that hangs on the prompt, on average."""

    def reply(request: Request) -> str:
        prompt = request.messages[0].content
        return right(request) if noise(prompt, number(request)) < skills.get(prompt, 0.5) else "no idea"

    return reply


@pytest.mark.parametrize("seed", range(12))
def test_the_choice_is_the_best_and_never_worse_than_the_initial_prompt(seed: int) -> None:
    field = colours(3)
    skills = {c.prompt.instruction: noise(seed, i) for i, c in enumerate([*field, Candidate(make_task().initial)])}
    transport = Scripted(skilled(skills))
    study, _ = start(transport)
    chosen, table = drive(study.choose(field), study.evaluate([study.initial, *field], study.task.dev))
    means = {candidate.id: mean for candidate, mean in zip(table.candidates, table.means(), strict=True)}
    assert means[chosen.id] == max(means.values())


@pytest.mark.parametrize(
    ("finalists", "chosen"),
    [
        (["Name every colour."], "Name the colour."),  # longer
        (["Name ten colours"], "Name the colour."),  # as long
        (["Name every colour.", "Colour?"], "Colour?"),
        (["Colour!", "Colour?"], "Colour!"),
        ([], "Name the colour."),
        (["Name the colour."], "Name the colour."),
    ],
)
def test_with_equal_scores_the_shorter_prompt_then_the_initial_one_stays(
    finalists: Sequence[str], chosen: str
) -> None:
    transport = Scripted(right)
    study, _ = start(transport)
    found = drive(study.choose([Candidate(Prompt(text)) for text in finalists]))
    assert found.prompt.instruction == chosen
    others = set(finalists) - {"Name the colour."}
    assert bool(transport.requests) == bool(others)


def test_the_choice_shares_cells_and_takes_the_given_examples_only() -> None:
    transport = Scripted(skilled({"Name the colour 1.": 1.0, "Name the colour.": 0.0}))
    study, state = start(transport)
    examples = study.task.dev[:8]

    async def work() -> Candidate:
        await study.evaluate([study.initial, *colours(2)], examples)
        n = len(transport.requests)
        chosen = await study.choose(colours(2), examples)
        assert len(transport.requests) == n == calls_of(state, "task") == 24
        return chosen

    assert drive(work()) == colours(2)[1]
    assert drive(again(state, transport).choose(colours(2), examples)) == colours(2)[1]
    assert len(transport.requests) == 24


def test_without_labels_the_judge_chooses_and_the_initial_prompt_stays_unless_beaten() -> None:
    task = replace(unlabelled(), initial=pleading(1).prompt)
    transport = Scripted(polite)
    study, state = start(transport, task=task, judge=JUDGE)
    examples = task.dev[:6]
    fields = ([pleading(0)], [pleading(1, " now"), pleading(0)], [pleading(0), pleading(2), pleading(3)], [])
    chosen = drive(*(study.choose(field, examples) for field in fields))
    assert chosen == [study.initial, study.initial, pleading(2), study.initial]  # 2 and 3 win all: the earlier
    assert calls_of(state, "task") == 6 * 5
    assert calls_of(state, "judge") == 6 * 2 * 2  # six verdicts on six inputs, two votes in two parts each


@pytest.mark.parametrize(
    "verdicts", ["<verdicts>1: A\n2: A</verdicts>", "nonsense", "<verdicts>1: A\n1: B</verdicts>"]
)
def test_without_labels_a_judge_that_cannot_tell_keeps_the_initial_prompt(verdicts: str) -> None:
    study, _ = start(Scripted(says(verdicts)), task=unlabelled(), judge=JUDGE)
    assert drive(study.choose([pleading(3)], study.task.dev[:2])) == study.initial
