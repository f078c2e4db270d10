"""SPO against its specification: the invariants of the method, on scripted models."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from scripted import Scripted, make_run, make_task, noise

from promptopt.asking import RunState
from promptopt.config import Settings
from promptopt.journal import Journal
from promptopt.ledger import Lease, limit_of
from promptopt.optimizers.spo import Spo
from promptopt.plan import make_plan
from promptopt.run import Run
from promptopt.study import SearchSize, Study
from promptopt.task import UNSCORED, Task
from promptopt.tasks.metrics import load
from promptopt.testing import outcome
from promptopt.testing.kill import Snapshots
from promptopt.types import Budget, Candidate, Demo, Prompt, Request

PAPER: Mapping[str, Any] = {**Spo.presets["paper"]}
_SHOWN = re.compile(r"Question (\d+):\n(.*)\n\nAnswer A to question \1:\n(.*)\n\nAnswer B to question \1:\n(.*)")


def role(request: Request) -> str:
    text = request.messages[0].content
    return "judge" if "</verdicts>" in text else "optimizer" if "</prompt>" in text else "task"


def version(text: str) -> int:
    """Return the number of the prompt in a prompt or answer of `Cast`; the initial prompt has 1."""
    found = re.search(r"version (\d+)", text)
    return int(found.group(1)) if found else 1


def shown(request: Request) -> list[tuple[str, str, str]]:
    """Return (question, answer A, answer B) for each question that a judge sees."""
    return [(q, a, b) for _, q, a, b in _SHOWN.findall(request.messages[0].content)]


Judge = Callable[[int, list[tuple[str, str, str]]], str]


def verdicts(name: Callable[[int, str, str], str]) -> Judge:
    """Return a judge that says `name(i_question, answer A, answer B)` of each question."""

    def judge(_: int, rows: list[tuple[str, str, str]]) -> str:
        lines = (f"{i}: {name(i, a, b)}" for i, (_, a, b) in enumerate(rows, 1))
        return "<analyse>...</analyse>\n<verdicts>\n" + "\n".join(lines) + "\n</verdicts>"

    return judge


def newer(_: int, a: str, b: str) -> str:
    """Say which answer is of the later prompt, which is the challenger's."""
    return "A" if version(a) > version(b) else "B"


def older(_: int, a: str, b: str) -> str:
    return "A" if version(a) < version(b) else "B"


prefers_challenger = verdicts(newer)
prefers_incumbent = verdicts(older)
always_a = verdicts(lambda *_: "A")


@dataclass
class Cast:
    """Models for all roles: the n-th prompt that is written has the version n + 1, and answers say theirs."""

    judge: Judge = prefers_challenger
    write: Callable[[int], str] = lambda n: f"<prompt>Name the colour, version {n + 1}.</prompt>"
    answer: Callable[[int, str], str] = lambda n, question: f"version {n} on {question}"
    n_asked: Counter[str] = field(default_factory=Counter)

    def __call__(self, request: Request) -> str:
        who = role(request)
        self.n_asked[who] += 1
        if who == "judge":
            return self.judge(self.n_asked[who] - 1, shown(request))
        if who == "optimizer":
            return self.write(self.n_asked[who])
        system = "".join(message.content for message in request.messages[:-1])
        return self.answer(version(system), request.messages[-1].content)


def without_labels(task: Task) -> Task:
    return replace(task.without_targets(), metric=load(UNSCORED, ()))


@dataclass
class Search:
    """A finished search, with all that was asked."""

    winner: Candidate | None
    transport: Scripted
    state: RunState

    def asked(self, who: str) -> list[Request]:
        return [request for request in self.transport.requests if role(request) == who]

    def texts(self, who: str) -> list[str]:
        return [request.messages[-1].content for request in self.asked(who)]

    def events(self, kind: str) -> list[dict[str, Any]]:
        return self.state.journal.events(kind)


def open_study(transport: Scripted, task: Task, n_calls: int, seed: int) -> tuple[Study, RunState]:
    budget = Budget(calls=10**6)
    plan = make_plan(task, Settings("sim", optimizer="spo", budget=budget, proof_examples=0, seed=seed))
    state = Run(plan, transports={"sim": transport})._make_state(Journal(None))
    return Study(state, Lease(limit_of(None, n_calls, None)), SearchSize(n_calls)), state


def search(
    cast: Cast | None = None, *, task: Task | None = None, n_calls: int = 10**5, seed: int = 0, **options: Any
) -> Search:
    """Run SPO at the paper's settings, but for `options`."""
    transport = Scripted(cast or Cast())
    study, state = open_study(transport, task or make_task(), n_calls, seed)

    async def work() -> Candidate:
        try:
            return await Spo(**{**PAPER, **options}).optimize(study)
        finally:
            await state.journal.committed()

    return Search(asyncio.run(work()), transport, state)


# 1: counts of calls -------------------------------------------------------------------------------


@pytest.mark.parametrize("judge", [prefers_challenger, prefers_incumbent], ids=["all accepted", "none accepted"])
def test_published_run_takes_75_calls(judge: Judge) -> None:
    found = search(Cast(judge))
    assert len(found.transport.requests) == 75
    assert Counter(map(role, found.transport.requests)) == {"task": 30, "optimizer": 9, "judge": 36}


@pytest.mark.parametrize(("n_rounds", "k", "n_votes", "judged"), [(2, 1, 2, 2), (4, 5, 6, 18), (3, 7, 4, 16)])
def test_calls_by_role_follow_from_rounds_samples_and_votes(
    n_rounds: int, k: int, n_votes: int, judged: int
) -> None:
    found = search(n_rounds=n_rounds, n_samples=k, n_votes=n_votes)
    expected = {"task": k * n_rounds, "optimizer": n_rounds - 1, "judge": judged}
    assert Counter(map(role, found.transport.requests)) == expected
    spo = Spo(**{**PAPER, "n_rounds": n_rounds, "n_samples": k, "n_votes": n_votes})
    assert spo.forecast(10**5) == expected


# 2: the same questions for both, the incumbent asked once -----------------------------------------


@pytest.mark.parametrize("judge", [prefers_challenger, prefers_incumbent], ids=["all accepted", "none accepted"])
def test_every_prompt_answers_the_same_questions_of_train_once(judge: Judge) -> None:
    task = make_task()
    found = search(Cast(judge), task=task, n_samples=4)
    asked: dict[str, list[str]] = {}
    for request in found.asked("task"):
        asked.setdefault(request.messages[0].content, []).append(request.messages[-1].content)
    assert len(asked) == 10
    assert len({tuple(questions) for questions in asked.values()}) == 1
    questions = next(iter(asked.values()))
    assert len(set(questions)) == 4
    assert set(questions) <= {example.inputs["input"] for example in task.train}


def test_other_seeds_draw_other_questions() -> None:
    drawn = {tuple(sorted(set(search(n_rounds=2, seed=seed).texts("task")))) for seed in range(6)}
    assert len(drawn) > 3


def test_judge_sees_answers_of_both_to_the_same_questions_in_the_same_order() -> None:
    found = search(n_samples=4)
    questions = list(dict.fromkeys(found.texts("task")))
    for request in found.asked("judge"):
        rows = shown(request)
        assert [question for question, _, _ in rows] == questions
        for question, a, b in rows:
            assert a.endswith(f"on {question}")
            assert b.endswith(f"on {question}")
            assert version(a) != version(b)


# 3: what the judge is told ------------------------------------------------------------------------


def test_judge_sees_no_prompt_and_no_sign_of_who_is_who() -> None:
    found = search(Cast(answer=lambda n, question: f"colour {n * 17} of {question}", judge=always_a))
    instructions = {"Name the colour"} | {f"version {n}" for n in range(1, 12)}
    for text in found.texts("judge"):
        assert not [words for words in instructions if words in text]
        assert not re.search(r"round|incumbent|challenger|success|best|new|former|initial", text, re.IGNORECASE)


def test_orders_are_balanced_in_every_round() -> None:
    found = search(n_votes=6)
    judged = found.asked("judge")
    for start in range(0, len(judged), 6):
        is_first = [
            version(shown(request)[0][1]) > version(shown(request)[0][2]) for request in judged[start:][:6]
        ]
        assert sum(is_first) == 3


def test_votes_in_one_order_are_different_draws() -> None:
    assert len({request.digest for request in search().asked("judge")}) == 36


# 4 and 5: verdicts --------------------------------------------------------------------------------


def votes(*sides: str) -> Judge:
    """Return a judge whose i-th vote of a round prefers the newer or the older prompt on every question."""
    each = {"new": prefers_challenger, "old": prefers_incumbent, "": lambda *_: "I like both."}
    return lambda i, rows: each[sides[i % len(sides)]](i, rows)


def on_questions(*sides: str) -> Judge:
    """Return a judge that prefers the newer or the older prompt question by question."""
    name = {"new": newer, "old": older, "tie": lambda *_: "tie"}
    return verdicts(lambda i, a, b: name[sides[i - 1]](i, a, b))


@pytest.mark.parametrize(
    ("judge", "winner"),
    [
        pytest.param(prefers_challenger, 10, id="prefers challenger"),
        pytest.param(prefers_incumbent, 1, id="prefers incumbent"),
        pytest.param(always_a, 1, id="always A"),
        pytest.param(verdicts(lambda *_: "B"), 1, id="always B"),
        pytest.param(verdicts(lambda *_: "tie"), 1, id="always a tie"),
        pytest.param(votes("new", "new", "old", "old"), 1, id="votes 2-2"),
        pytest.param(votes("new", "old", "old", "old"), 1, id="votes 1-3"),
        pytest.param(votes("new", "new", "new", "old"), 10, id="votes 3-1"),
        pytest.param(on_questions("new", "new", "old"), 10, id="questions 2-1"),
        pytest.param(on_questions("new", "old", "old"), 1, id="questions 1-2"),
        pytest.param(on_questions("new", "old", "tie"), 1, id="questions 1-1"),
        pytest.param(on_questions("tie", "new", "tie"), 10, id="questions 1-0"),
    ],
)
def test_majority_of_verdicts_decides_and_ties_reject(judge: Judge, winner: int) -> None:
    found = search(Cast(judge))
    assert found.winner is not None
    assert version(found.winner.prompt.instruction) == winner
    assert [event["is_accepted"] for event in found.events("round")] == [winner == 10] * 9


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "A",
        "1: A\n2: A\n3: A",
        "<choose>A</choose>",
        "<verdicts>both are fine</verdicts>",
        "<verdicts>\n7: A\n8: B\n</verdicts>",
        "<verdicts>\n1: A\n1: B\n</verdicts>",
    ],
)
def test_unreadable_verdicts_never_promote_and_are_flagged(reply: str) -> None:
    found = search(Cast(lambda *_: reply))
    assert found.winner is not None
    assert found.winner.id == found.state.task.initial.id
    assert [event["n_unparsed"] for event in found.events("judge unreadable")] == [4] * 9


def test_unreadable_votes_count_for_nobody() -> None:
    lost = search(Cast(votes("", "", "old", "old")))
    alone = search(Cast(votes("", "new", "new", "")))  # each without its partner in the other order
    won = search(Cast(votes("", "", "new", "new")))
    assert lost.winner is not None
    assert alone.winner is not None
    assert won.winner is not None
    assert version(lost.winner.prompt.instruction) == 1
    assert version(alone.winner.prompt.instruction) == 1
    assert version(won.winner.prompt.instruction) == 10
    assert not lost.events("judge unreadable")
    assert [event["n_unparsed"] for event in won.events("round")] == [2] * 9


# 6: what the optimizer model is told --------------------------------------------------------------


def test_optimizer_model_sees_the_incumbent_with_its_answers_and_nothing_else() -> None:
    accepted = {4, 5, 9}
    found = search(
        Cast(lambda i, rows: (prefers_challenger if i // 4 + 2 in accepted else prefers_incumbent)(i, rows))
    )
    incumbents = [max([n for n in accepted if n < i_round], default=1) for i_round in range(2, 11)]
    texts = found.texts("optimizer")
    questions = list(dict.fromkeys(found.texts("task")))
    for text, n in zip(texts, incumbents, strict=True):
        instruction = "Name the colour." if n == 1 else f"Name the colour, version {n}."
        assert f"<prompt>\n{instruction}\n</prompt>" in text
        assert set(re.findall(r"version (\d+) on", text)) == {str(n)}
        assert all(f"version {n} on {question}" in text for question in questions)
    assert len({text for text, n in zip(texts, incumbents, strict=True) if n == 5}) == 1
    assert not [text for text in texts if re.search("score|verdict|judge", text)]


def test_remembered_rejections_are_shown_until_a_prompt_is_accepted() -> None:
    accepted = {6}
    cast = Cast(lambda i, rows: (prefers_challenger if i // 4 + 2 in accepted else prefers_incumbent)(i, rows))
    found = search(cast, n_remembered=2)
    rejected = [set(map(int, re.findall(r"colour, version (\d+)", text))) for text in found.texts("optimizer")]
    assert rejected == [set(), {2}, {2, 3}, {3, 4}, {4, 5}, {6}, {6, 7}, {6, 7, 8}, {6, 8, 9}]


def test_demonstrations_of_the_initial_prompt_are_kept() -> None:
    demo = Demo((("input", "item number 900"),), "red")
    found = search(task=replace(make_task(), initial=Prompt("Name the colour.", (demo,))))
    assert found.winner is not None
    assert found.winner.prompt == Prompt("Name the colour, version 10.", (demo,))


# 7: prompts that are not tried --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "kind", "reason"),
    [
        ("<prompt>Name the colour.</prompt>", "candidate refused", "tried before"),
        ("<prompt>" + "word " * 13 + "</prompt>", "candidate refused", "13 words, limit 12"),
        ("<prompt>" + "endless" * 2000 + "</prompt>", "candidate refused", "too long"),
        ("<prompt>Name \x07 it.</prompt>", "candidate refused", "control characters"),
        ("<prompt> </prompt>", "unparsed reply", ""),
        ("Name the colour, I think.", "unparsed reply", ""),
    ],
)
def test_prompt_that_cannot_be_tried_counts_as_rejected(reply: str, kind: str, reason: str) -> None:
    def write(n: int) -> str:
        return reply if n < 3 else f"<prompt>Name the colour, version {n}.</prompt>"

    found = search(Cast(write=write), n_rounds=4, word_limit=12)
    is_unparsed = kind == "unparsed reply"  # such a reply is asked for once more
    assert len(found.asked("optimizer")) == 3 + is_unparsed
    assert len(found.asked("task")) == 3 * (3 if is_unparsed else 2)
    assert reason in str(found.events(kind))
    assert len(found.events(kind)) == (1 if is_unparsed else 2)
    not_tried = [event for event in found.events("round") if event["candidate"] is None]
    assert [event["round"] for event in not_tried] == ([2] if is_unparsed else [2, 3])
    assert found.winner is not None
    assert version(found.winner.prompt.instruction) > 1


def test_prompt_that_was_rejected_is_not_tried_again() -> None:
    found = search(Cast(prefers_incumbent, write=lambda n: "<prompt>Name the colour, version 2.</prompt>"))
    assert Counter(map(role, found.transport.requests)) == {"task": 6, "optimizer": 9, "judge": 4}


def test_search_ends_after_rounds_without_a_prompt_to_try() -> None:
    cast = Cast(write=lambda n: f"<prompt>Name the colour, version {min(n, 3)}.</prompt>")
    found = search(cast, n_rounds=50, patience=4)
    assert len(found.asked("optimizer")) == 3 + 4


# 8: resuming, and two runs at once ----------------------------------------------------------------


SETTINGS = Settings("sim", optimizer="spo", budget=Budget(calls=150), proof_examples=0, seed=3, concurrency=8)


def wilful() -> Scripted:
    """Return models that accept about half of the prompts, by what they say and not by when."""

    def say(request: Request) -> str:
        who = role(request)
        if who == "optimizer":
            return f"<prompt>Name the colour, version {int(noise(request.sample) * 1e6)}.</prompt>"
        if who == "judge":
            return verdicts(lambda i, a, b: "A" if noise(a) > noise(b) else "B")(0, shown(request))
        return f"{request.messages[0].content}: {request.messages[-1].content}"

    return Scripted(say)


def run_in(folder: Path, seed: int = 3, n_gate: int = 10) -> Run:
    settings = replace(SETTINGS, seed=seed, options={"n_rounds": "5", "n_gate": str(n_gate)})
    return make_run(folder, wilful(), settings=settings, task=without_labels(make_task()))


def test_killed_anywhere_ends_with_the_same_incumbent(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path / "killed", at_most=24)
    with snapshots.watching():
        asyncio.run(run_in(tmp_path / "whole").execute())
    expected = outcome(tmp_path / "whole")
    with Journal(tmp_path / "whole" / "journal.db") as journal:
        accepted = [event["is_accepted"] for event in journal.events("round")]
        rounds = journal.events("round")
    assert len(set(accepted)) == 2  # else the test would show little
    assert len(snapshots.folders) > 10
    for folder in snapshots.folders:
        asyncio.run(run_in(folder).execute())
        assert outcome(folder) == expected
        with Journal(folder / "journal.db") as journal:
            assert journal.events("round") == rounds


def test_two_runs_in_one_process_do_not_interfere(tmp_path: Path) -> None:
    async def both() -> None:
        await asyncio.gather(*(run_in(tmp_path / f"both{seed}", seed, 0).execute() for seed in (1, 2)))

    asyncio.run(both())
    for seed in (1, 2):
        asyncio.run(run_in(tmp_path / f"alone{seed}", seed, 0).execute())
        assert outcome(tmp_path / f"both{seed}") == outcome(tmp_path / f"alone{seed}")
    assert outcome(tmp_path / "both1")["best"] != outcome(tmp_path / "both2")["best"]


# 9: references ------------------------------------------------------------------------------------


def telling_task() -> Task:
    task = make_task()
    rows = ((replace(e, target=f"gold-{e.id}") for e in split) for split in (task.train, task.dev))
    train, dev = map(tuple, rows)
    return replace(task, train=train, dev=dev, metric=load("exact", ["gold"]), labels=())


def test_no_target_reaches_any_model_unless_references_are_wanted() -> None:
    for has_references in (False, True):
        found = search(task=telling_task(), has_references=has_references)
        for who in ("optimizer", "judge"):
            questions = [q for text in found.texts(who) for q in re.findall(r"gold-train-\d+", text)]
            assert len(set(questions)) == (3 if has_references else 0)
        assert not [text for text in found.texts("task") if "gold" in text]


def test_no_reference_is_mentioned_where_there_is_none() -> None:
    found = search(task=without_labels(make_task()), has_references=True)
    assert "None" not in "".join(found.texts("optimizer") + found.texts("judge"))
    assert not [text for text in found.texts("judge") if "Right answer" in text]
