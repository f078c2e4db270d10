"""Labels among the first tokens of an answer: whose a token is, and what that makes of probabilities."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import make_task

from promptopt import label
from promptopt.asking import Cell
from promptopt.errors import ConfigError, TaskError
from promptopt.providers import ModelSpec
from promptopt.task import Task
from promptopt.types import Example, Score

SPEC = ModelSpec("some-model", top_logprobs=20)
NUMBERS = tuple(str(n) for n in range(1, 11))


def task_of(*labels: str, **verbalizers: str) -> Task:
    return replace(make_task(), labels=labels, verbalizers=verbalizers)


def cell(reported: label.Reported | None, output: str = "", cause: str | None = None) -> Cell:
    return Cell(b"", Score(0.0), output, cause, None if reported is None else tuple(reported))


def row(words: tuple[str, ...], reply: str = "", **tokens: float) -> list[float]:
    """Return the probabilities of labels, given those of tokens."""
    reported = [(token, math.log(p)) for token, p in tokens.items()]
    return [float(p) for p in np.exp(label.label_row(reported, words, reply))]


@pytest.mark.parametrize(
    ("token", "word"),
    [
        (" red", "red"),
        ("Red", "red"),
        ("**red", "red"),
        ('"red"', "Red."),
        ("(A", "(A)"),
        ("B)", "B"),
        ("Ġred", "red"),
        ("▁red", "red"),
        ("Ċred", "red"),
        ("card_arrival", "card arrival"),
        ("STRASSE", "straße"),
        ("e\u0301te\u0301", "été"),
        ("负面", "负面"),
        (" Да", "да"),
        ("?", "?"),
        ("+", " + "),
        ("-1", "-1"),
    ],
)
def test_token_and_word_are_the_same(token: str, word: str) -> None:
    assert label.fold(token) == label.fold(word) != ""


@pytest.mark.parametrize(("one", "other"), [("1", "-1"), ("+", "-"), ("c", "c++"), ("no", "none"), ("?", "!")])
def test_labels_that_differ_stay_apart(one: str, other: str) -> None:
    assert label.fold(one) != label.fold(other)


@pytest.mark.parametrize("blank", ["", " ", "\n", "Ġ", "▁", "_"])
def test_a_blank_token_begins_no_label(blank: str) -> None:
    assert label.owners([(blank, -0.1)], ("red", "")) == [[]]


@pytest.mark.parametrize(
    ("words", "tokens", "found"),
    [
        (("red", "green"), (" re", "gre", "blue"), [[0], [1], []]),
        (("no", "none"), ("no", "non"), [[0], [1]]),
        (("positive", "negative", "neutral"), ("pos", "ne", "neu"), [[0], [1, 2], [2]]),
        (("card", "card arrival", "cash"), ("card", "cash"), [[0, 1], [2]]),
        (("card", "card_arrival"), ("card",), [[0, 1]]),
        (("card", "card arrival", "cash"), ("card", "card arrival"), [[0], [1]]),
        (NUMBERS, ("1", "2"), [[0, 9], [1]]),
        (NUMBERS, ("1", "2", "10"), [[0], [1], [9]]),
        (("正面", "负面"), ("正", "负"), [[0], [1]]),
        (("may", "May"), ("May",), [[0, 1]]),
    ],
    ids=lambda value: "-".join(map(str, value))[:40],
)
def test_owners(words: tuple[str, ...], tokens: tuple[str, ...], found: list[list[int]]) -> None:
    assert label.owners([(token, -1.0) for token in tokens], words) == found


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ("The answer is fraud.", []),
        ("Theft", [0]),
        ("**theft**, I think", [0]),
        ("the", [0]),
        ("", [0]),
        ("fraud", [0]),  # then "The" was not said, and may well be the start of the label
    ],
)
def test_a_token_that_the_reply_goes_on_from_in_another_way_begins_no_label(reply: str, found: list[int]) -> None:
    assert label.owners([("The", -0.1)], ("theft", "fraud"), reply) == [found]


def test_a_reply_does_not_decide_between_labels_that_begin_alike() -> None:
    assert label.owners([("un", -0.1)], ("unhappy", "unclear"), "unhappy") == [[0, 1]]


def test_a_giant_reply_takes_no_time_and_changes_nothing() -> None:
    reported = [("The", -0.1)]
    assert label.owners(reported, ("theft",), "theft" + " x" * 500_000) == [[0]]
    assert label.owners(reported, ("theft",), "the " * 500_000) == [[]]
    assert label.owners(reported, ("theft",), " \n" * 500_000 + "the answer") == [[]]


# Probabilities ------------------------------------------------------------------------------------------


def test_tokens_of_one_label_add_up_and_labels_are_normalised_among_themselves() -> None:
    found = row(("red", "green"), **{" red": 0.3, "Red": 0.1, "green": 0.1, "I": 0.5})
    assert found == pytest.approx([0.8, 0.2])


def test_an_unreported_label_gets_the_most_that_it_can_have() -> None:
    # The least reported value, since it is not among the best; or what they leave, if that is less.
    assert row(("a", "b", "c"), a=0.6, b=0.1) == pytest.approx([0.75, 0.125, 0.125])
    assert row(("a", "b", "c"), a=0.6, b=0.38) == pytest.approx([0.6, 0.38, 0.02])
    assert row(("a", "b"), a=0.9) == pytest.approx([0.9, 0.1])  # only the token that was said


def test_a_token_that_begins_several_labels_is_shared_among_them() -> None:
    found = row(("card", "card arrival", "cash"), card=0.9, cash=0.05)
    assert found == pytest.approx([0.45 / 0.95, 0.45 / 0.95, 0.05 / 0.95])


def test_no_label_among_the_tokens_makes_a_row_of_nan() -> None:
    assert np.isnan(label.label_row([("Sure", -0.1)], ("red", "green"))).all()
    assert np.isnan(label.label_row([], ("red", "green"))).all()
    assert np.isnan(label.label_row([("The", -0.1)], ("theft", "fraud"), "The answer")).all()


@pytest.mark.parametrize("value", [-9999.0, -math.inf])
def test_values_that_stand_for_never_stay_finite(value: float) -> None:
    found = label.label_row([("red", 0.0), ("green", value)], ("red", "green", "blue"))
    assert np.isfinite(found).all()
    assert np.exp(found) == pytest.approx([1, 0, 0], abs=1e-6)


def test_a_value_that_is_no_number_is_left_out() -> None:
    assert np.exp(label.label_row([("red", -0.1), ("green", math.nan)], ("red", "green")))[0] > 0.9


tokens = st.lists(
    st.tuples(st.text(max_size=6) | st.sampled_from(["red", " re", "green", "10"]), st.floats(-40, 0.01)),
    max_size=20,
)
some_words = st.lists(
    st.text(max_size=8) | st.sampled_from(["red", "red wine", "1", "10"]), min_size=1, max_size=9
)


@given(tokens, some_words, st.text(max_size=12))
def test_a_row_is_a_distribution_or_all_nan(
    reported: list[tuple[str, float]], words: list[str], reply: str
) -> None:
    found = label.label_row(reported, words, reply)
    assert found.shape == (len(words),)
    if np.isnan(found).any():
        assert np.isnan(found).all()
        assert not any(label.owners(reported, words, reply))
    else:
        assert np.isfinite(found).all()
        assert float(np.exp(found).sum()) == pytest.approx(1)


@given(tokens, some_words)
def test_the_order_of_reported_tokens_means_nothing(reported: list[tuple[str, float]], words: list[str]) -> None:
    np.testing.assert_allclose(
        label.label_row(reported, words), label.label_row(reported[::-1], words), rtol=1e-9, atol=1e-9
    )


# What is lacking ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reported", "output", "words"),
    [
        (None, "red", r"some-model sent no log-probabilities of its first answer token \(asked for 20\)"),
        ((), "red", "sent no log-probabilities"),
        (
            [("Sure", -0.1)],
            "Sure, red",
            "does not begin its answer with a label: it says 'Sure' where one of 'red'",
        ),
        ([("R", -0.1)], "Red is right", ""),
        ([("green", -0.1)], "green", ""),
        ([("pink", -2.0), ("gre", -0.1)], "green", "'gre' begins several labels .'green', 'grey'.; declare words"),
        ([("gre", -2.0), ("red", -0.1)], "red", ""),
    ],
)
def test_lack_names_what_is_missing_and_a_remedy(reported: label.Reported | None, output: str, words: str) -> None:
    task = task_of("red", "green", "grey")
    found = label.lack(cell(reported, output), task, SPEC)
    if not words:
        assert found == ""
        return
    with pytest.raises(TaskError, match=words):
        label.check_cells([cell(reported, output)], task, SPEC)
    assert "`promptopt optimizers`" in found


def test_verbalizers_are_the_words_that_are_looked_for() -> None:
    task = task_of("1", "0", **{"1": "great", "0": "terrible"})
    assert label.lack(cell([("great", -0.1)], "great"), task, SPEC) == ""
    assert "'great', 'terrible'" in label.lack(cell([("1", -0.1)], "1"), task, SPEC)


def test_most_of_the_answers_must_tell_the_labels() -> None:
    task = task_of("red", "green")
    good, bad, spoiled = cell([("red", -0.1)], "red"), cell([("Hm", -0.1)], "Hm"), cell(None, "", "too long")
    assert label.check_cells([good, bad], task, SPEC)
    with pytest.raises(TaskError, match="says 'Hm'"):
        label.check_cells([good, bad, bad], task, SPEC)
    assert not label.check_cells([None, spoiled], task, SPEC)  # nothing was answered, hence nothing shown


def test_why_never_names_what_no_reply_can_mend() -> None:
    task = task_of("red", "green")
    assert label.why_never(task, SPEC) == ""
    assert "is not asked for log-probabilities" in label.why_never(task, ModelSpec("some-model"))
    assert "predict function" in label.why_never(replace(task, predict=print), SPEC)
    assert "no closed set of labels" in label.why_never(make_task(2, 1), SPEC)


# The labels of a task -----------------------------------------------------------------------------------


def labelled(*targets: str | None, **fields: object) -> Task:
    rows = tuple(Example(f"{i}", {"input": f"text {i}"}, target) for i, target in enumerate(targets))
    given = {"labels": (), "train": rows[:-1], "dev": rows[-1:], "test": ()} | fields
    return replace(make_task(), **given)  # type: ignore[arg-type]


def test_labels_are_the_few_distinct_targets() -> None:
    task = labelled("b", "a", "a", "B ", "b", "a")
    assert task.labels == task.label_words == ("a", "b")
    assert [task.i_label(example) for example in task.train] == [1, 0, 0, 1, 1]
    assert labelled("b", "c", "a", "d").labels == ()  # each stands once: no labels but answers
    assert labelled("a", "a", "a", "a").labels == ()
    assert labelled(None, None, None, None).labels == ()


def test_blank_targets_are_no_label() -> None:
    task = labelled("a", "b", " ", "a", "b", "", None, "a")
    assert task.labels == ("a", "b")
    assert [task.i_label(example) for example in task.train[2:7]] == [None, 0, 1, None, None]


def test_declared_labels_win_and_a_target_may_be_none_of_them() -> None:
    task = labelled("a", "b", "c", "a", labels=("b", "a"), verbalizers={"a": "good"})
    assert task.label_words == ("b", "good")
    assert [task.i_label(example) for example in (*task.train, *task.dev)] == [1, 0, None, 1]


def test_a_verbalizer_of_no_label_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"verbalizer of 'rde'.*red"):
        task_of("red", "green", rde="Red")


def test_labels_go_with_the_targets() -> None:
    task = replace(task_of("red", "green", red="rot")).without_targets()
    assert (task.labels, dict(task.verbalizers), task.label_words) == ((), {}, ())
    assert task_of("red", "green", red="rot").without_test().label_words == ("rot", "green")
