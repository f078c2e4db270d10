"""The gate refuses what may not be tried, says why, and lets everything else pass for nothing."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from scripted import Scripted, make_run, make_task, model

from promptopt.config import Settings
from promptopt.gate import COPIED_WORDS, Gate, normal_form, prompt_tokens
from promptopt.journal import Journal
from promptopt.study import Study
from promptopt.task import Task
from promptopt.tasks.metrics import load
from promptopt.types import Budget, Candidate, Demo, Example, Prompt

SENTENCE = "The parcel that I ordered in May has never arrived at my house"


def make_gate(initial: str, *, limit: int = 2000, train: str = SENTENCE, target: str = "late") -> Gate:
    rows = [
        Example(f"e{i}", {"input": text, "city": "Bonn"}, target)
        for i, text in enumerate((train, "other", "more"))
    ]
    task = Task("t", load("exact", (target,)), (rows[0],), (rows[1],), (rows[2],), initial=Prompt(initial))
    return Gate(task, limit)


def refusal(initial: str, child: str, **options: Any) -> str | None:
    return make_gate(initial, **options).refusal(Prompt(child))


@pytest.mark.parametrize(
    "child", ["Say the label.", "Étiquette: 标签 🙂.", "Tabs\tand\nlines", "Use {braces} freely."]
)
def test_lets_plain_instructions_pass(child: str) -> None:
    assert refusal("Name the label.", child) is None


@pytest.mark.parametrize(
    "initial",
    ["Plain.", "About {{city}}: {{input}}", "Lenient {input}.", "system:\nBe.\nuser:\n{{input}}"],
)
def test_lets_the_initial_prompt_pass(initial: str) -> None:
    assert refusal(initial, initial) is None


@pytest.mark.parametrize("child", ["", "  \n\t"])
def test_refuses_nothing_at_all(child: str) -> None:
    assert refusal("Name it.", child) == "the instruction is empty"


@pytest.mark.parametrize("mark", ["\x00", "\x1b[31m", "\x7f", "\ud83d", "\r"])
def test_refuses_control_characters(mark: str) -> None:
    assert refusal("Name it.", f"Name {mark} it.") == "the instruction holds control characters"


@pytest.mark.parametrize(
    ("child", "reason"),
    [
        ("Look at it.", "placeholders changed (lost: ['input'], new: [])"),
        ("{{input}} in {{city}}", "placeholders changed (lost: [], new: ['city'])"),
        ("{{city}}", "placeholders changed (lost: ['input'], new: ['city'])"),
        (r"\{{input}}", "placeholders changed (lost: ['input'], new: [])"),
    ],
)
def test_refuses_changed_placeholders(child: str, reason: str) -> None:
    assert refusal("Classify {{input}}.", child) == reason


def test_refuses_a_placeholder_where_the_input_is_added_afterwards() -> None:
    assert refusal("Classify.", "Classify {{input}}.") == "placeholders changed (lost: [], new: ['input'])"


def test_refuses_an_unknown_placeholder_with_the_known_ones() -> None:
    assert "names no column (columns: input, city)" in (refusal("{{input}}", "{{input}} {{inputs}}") or "")


def test_a_placeholder_may_stand_twice_and_in_either_form() -> None:
    assert refusal("Classify {{input}}.", "First {input}, again {{ input }}.") is None


KEPT = "Be kind. <!-- keep -->Never say\nno.<!-- /keep --> Answer."


@pytest.mark.parametrize(
    "child",
    [
        "Be kind. Never say\nno. Answer.",
        "<!-- keep -->Never say no.<!-- /keep -->",
        "<!-- keep -->Never say\nno.<!-- /keep --><!-- keep -->more<!-- /keep -->",
    ],
)
def test_refuses_a_changed_kept_passage(child: str) -> None:
    assert refusal(KEPT, child) == "a kept passage was changed or lost"


@pytest.mark.parametrize(
    "child",
    ["<!-- keep -->Never say\nno.", "<!-- keep --><!-- keep -->Never say\nno.<!-- /keep --><!-- /keep -->"],
)
def test_refuses_unbalanced_marks(child: str) -> None:
    assert "keep marks are unbalanced" in (refusal(KEPT, child) or "")


def test_text_around_a_kept_passage_is_free() -> None:
    assert refusal(KEPT, "Short. <!-- keep -->Never say\nno.<!-- /keep -->") is None


PARTS = "system:\nBe brief.\nuser:\nLabel {{input}}."


def test_refuses_changed_parts() -> None:
    for child in ("Be brief. Label {{input}}.", "user:\nLabel {{input}}."):
        assert (refusal(PARTS, child) or "").startswith("the parts changed from ('system', 'user') to ")
    assert "at most one system: part" in (refusal(PARTS, "user:\n{{input}}\nsystem:\nBe.") or "")
    assert refusal(PARTS, "system:\nBe long.\nuser:\nThe label of {{input}} is?") is None


def test_refuses_what_is_too_long() -> None:
    assert refusal("Go.", "x" * 40, limit=10) is None
    assert refusal("Go.", "x" * 41, limit=10) == "too long: about 11 tokens, limit 10"
    assert refusal("Go.", "é" * 21, limit=10) == "too long: about 11 tokens, limit 10"


def test_demonstrations_count_towards_the_length() -> None:
    demo = Demo((("input", "y" * 30),), "label")
    gate = make_gate("Go.", limit=20)
    assert gate.refusal(Prompt("Go.", (demo,))) is None
    assert gate.refusal(Prompt("Go.", (demo, demo))) == "too long: about 28 tokens, limit 20"


def test_keep_marks_cost_no_tokens() -> None:
    assert prompt_tokens(Prompt("<!-- keep -->abcd<!-- /keep -->")) == prompt_tokens(Prompt("abcd")) == 1


# Copying -----------------------------------------------------------------------------------------


def words(n: int, start: int = 2) -> str:
    return " ".join(SENTENCE.split()[start : start + n])


def test_refuses_eight_words_of_a_train_example_but_not_seven() -> None:
    assert COPIED_WORDS == 8
    assert refusal("Go.", f"If {words(7)}, say late.") is None
    assert refusal("Go.", f"If {words(8)}, say late.") == (
        "8 words in a row copied from a train example: 'that i ordered in may has never arrived'"
    )


@pytest.mark.parametrize(
    "disguise",
    [str.upper, lambda text: text.replace(" ", ",\n- "), lambda text: text.replace("in May", "ｉｎ　Ｍａｙ")],
    ids=["case", "punctuation", "full-width letters"],
)
def test_disguised_copies_are_copies(disguise: Any) -> None:
    assert "copied" in (refusal("Go.", disguise(SENTENCE)) or "")


def test_composed_and_decomposed_letters_are_alike() -> None:
    train = "Größe über alles fand ich für mich völlig übertrieben"
    decomposed = "Gro\u0308ße u\u0308ber alles fand ich fu\u0308r mich vo\u0308llig u\u0308bertrieben"
    assert "copied" in (refusal("Go.", decomposed, train=train) or "")


def test_words_of_the_users_own_prompt_are_free() -> None:
    own = f"Example: {SENTENCE}."
    assert refusal(own, f"Better: {SENTENCE}!") is None
    assert refusal(f"Example: {words(8)}.", f"Better: {words(8)}.") is None
    assert "copied" in (refusal(f"Example: {words(8)}.", f"Better: {words(9)}.") or "")


def test_targets_count_and_demonstrations_do_not() -> None:
    target = "one two three four five six seven eight"
    assert "copied" in (refusal("Go.", f"Say {target}.", target=target) or "")
    demo = Demo((("input", SENTENCE),), "late")
    assert make_gate("Go.").refusal(Prompt("Go.", (demo,))) is None


def test_other_columns_count_on_their_own() -> None:
    """A run of words never spans two columns or two examples."""
    assert refusal("Go.", f"{' '.join(SENTENCE.split()[-6:])} Bonn") is None


def test_demands_name_what_must_be_kept() -> None:
    assert "Keep exactly these placeholders" in make_gate("{{city}} {{input}}").demands
    assert "{{city}}, {{input}}" in make_gate("{{city}} {{input}}").demands
    assert "Do not write placeholders" in make_gate("Go.").demands
    assert "with its marks, unchanged" in make_gate(KEPT).demands
    assert "`system:` and `user:`" in make_gate(PARTS).demands


def test_normal_form() -> None:
    assert normal_form("\r\n a\r\nb\rc \n") == "a\nb\nc"


# Within a run ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Offers:
    """A strategy that offers candidates, most of which the gate refuses."""

    source: ClassVar[str] = "a test"
    requires: ClassVar[frozenset[str]] = frozenset()
    kept: ClassVar[list[Candidate | None]] = []

    async def optimize(self, study: Study) -> Candidate:
        self.kept.clear()
        for text in ("", "a\x00b", "{{input}}", "x" * 100_000, "half \ud83d pair", "  A fine one.\r\n"):
            self.kept.append(study.candidate(text, parents=[study.initial], operator="offer", note="n"))
        fine = self.kept[-1]
        assert fine is not None
        await study.evaluate([fine], study.task.dev[:5])
        return fine


def test_refused_candidates_cost_no_call_and_are_journaled(tmp_path: Path) -> None:
    transport = Scripted(model)
    settings = Settings(model="sim", budget=Budget(calls=150), optimizer="random", proof_examples=0)
    run = make_run(tmp_path, transport, task=make_task(n_test=0), settings=settings)
    object.__setattr__(run.plan, "optimizer", Offers())
    result = asyncio.run(run.execute())
    assert result.status == "completed"
    assert [candidate is not None for candidate in Offers.kept] == [False] * 5 + [True]
    assert len(transport.requests) == result.spend.calls == 5
    with Journal(tmp_path / "journal.db") as journal:
        refused = journal.events("candidate refused")
        tried = [candidate.prompt.instruction for candidate in journal.candidates()]
    assert [event["operator"] for event in refused] == ["offer"] * 5
    assert "too long" in refused[3]["reason"]
    assert tried == ["Name the colour.", "A fine one."]
