"""Metrics that compare texts: known values, hostile replies, patterns that need ages, packages that are absent."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptopt.errors import ConfigError, TaskError
from promptopt.tasks import metrics, pattern
from promptopt.tasks.text_metrics import f1, words_of
from promptopt.types import Example

GRADED = ("f1", "rouge", "bleu")
SLOW = r"(a+)+\1\1b"


def example(target: str) -> Example:
    return Example("e1", {"input": "i"}, target)


def scored(name: str, target: str, reply: str, answer_pattern: str | None = None) -> tuple[float, bool]:
    metric = metrics.load(name, [target], answer_pattern=answer_pattern)
    assert metric.name == name
    score = metric.score(reply, example(target))
    assert (score.feedback is None) is (score.value == 1)
    return pytest.approx(score.value), score.is_parsed


@pytest.mark.parametrize(
    ("name", "target", "reply", "value", "is_parsed"),
    [
        ("regex", r"\d{2}-\d{2}", "so\nAnswer: 12-34", 1, True),
        ("regex", r"\d{2}-\d{2}", "Answer: on 12-34", 0, True),
        ("regex", "yes|no", "I do not know", 0, True),
        ("regex", "(?i)YES", "<answer>yes</answer>", 1, True),
        ("regex", "(?s)a.b", "a\nb", 1, True),
        ("regex", "x", "<answer></answer>", 0, False),
        ("regex:search", r"\d{2}-\d{2}", "Answer: on 12-34", 1, True),
        ("regex:search", r"^\d{2}", "on 12-34", 0, True),
        ("contains", "New  York", "It is new\nyork, I think.\nAnswer: NY", 1, True),
        ("contains", "York", "Yorck", 0, True),
        ("contains", '["red", "Blue"]', "blue it is", 1, True),
        ("contains", '["red", "blue"]', "all green", 0, True),
        ("contains:all", '["red", "Blue"]', "blue and RED", 1, True),
        ("contains:all", '["red", "blue"]', "all red", 0, True),
        ("contains:all", '["a", 41, 2.0]', "2 of a are 41", 1, True),
        ("contains:all", "[1, 2]", "1 of 3", 0, True),
        ("contains:all", "[red]", "a [red] one", 1, True),
        ("contains:all", "red", "reddish", 1, True),
        ("contains:all", '["red"]', "", 0, False),
        ("contains", "[red]", "a [red] one", 1, True),
        ("contains", "[1, 2]", "take [1, 2] then", 1, True),
        ("contains", "straße", "In der STRASSE", 1, True),
        ("contains", "x", " \n", 0, False),
        ("f1", "the cat sat", "A cat, sat!", 1, True),
        ("f1", "the cat sat", "the cat sat on the mat", 2 * 2 / (2 + 4), True),
        ("f1", "a b b c", "b b b", 2 * 2 / (3 + 3), True),
        ("f1", "cat", "dog", 0, True),
        ("f1", "the", "...", 1, True),
        ("f1", "cat", "the", 0, True),
        ("f1", '["dog", "big cat"]', "cat", 2 / 3, True),
        ("f1", "cat", "", 0, False),
        ("rouge", "the cat sat", "a cat sat", 2 / 3, True),
        ("rouge", '["dog", "the cat sat"]', "the cat sat", 1, True),
        ("rouge:rouge1", "a b c d", "d c b a", 1, True),
        ("rouge:rouge2", "a b c d", "d c b a", 0, True),
        ("rouge", "cat", "", 0, False),
        ("bleu", "the cat sat on the mat", "the cat sat on the mat", 1, True),
        ("bleu", "one two three four five", "one two three four six", 0.668740304976422, True),
        ("bleu:none", "one two three", "one two four", 0, True),
        ("bleu", "cat", "", 0, False),
    ],
)  # fmt: skip
def test_scores(name: str, target: str, reply: str, value: float, is_parsed: bool) -> None:
    assert scored(name, target, reply) == (value, is_parsed)


def test_figures_are_those_of_the_libraries() -> None:
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu import sentence_bleu

    target, reply = "The quick brown fox jumps over the dog.", "A quick fox jumped over the lazy dog."
    for variant in ("rouge1", "rouge3", "rougeL", "rougeLsum"):
        expected = RougeScorer([variant]).score(target, reply)[variant].fmeasure
        assert scored(f"rouge:{variant}", target, reply) == (expected, True)
    for smoothing in ("exp", "floor", "add-k", "none"):
        expected = sentence_bleu(reply, [target], smooth_method=smoothing).score / 100
        assert scored(f"bleu:{smoothing}", target, reply) == (expected, True)
    assert scored("bleu", target, reply) == scored("bleu:exp", target, reply)
    assert scored("rouge", target, reply) == scored("rouge:rougeL", target, reply)


def test_squad_takes_case_articles_and_punctuation_out() -> None:
    assert words_of("  The Fox's a-b, AN end. theatre") == ["foxs", "ab", "end", "theatre"]
    assert f1("x y", "x z") == 0.5


@pytest.mark.parametrize(
    ("name", "target", "reply", "feedback"),
    [
        ("regex", "yes|no", "maybe", "expected an answer that matches the pattern 'yes|no', got 'maybe'"),
        ("contains", '["red", "blue"]', "green", "missing in the reply: one of 'red', 'blue'"),
        ("contains:all", '["red", "blue", "x"]', "all red", "missing in the reply: 'blue', 'x'"),
        ("f1", "a red cat", "cat x", "expected 'a red cat', got 'cat x'; words missing: red; words too many: x"),
        ("rouge", '["x", "b"]', "c", "expected one of 'x', 'b', got 'c'; words missing: x; words too many: c"),
        ("bleu", "cat", "", "no answer found in the reply; expected 'cat'"),
    ],
)  # fmt: skip
def test_feedback(name: str, target: str, reply: str, feedback: str) -> None:
    assert metrics.load(name, [target]).score(reply, example(target)).feedback == feedback


@given(
    st.text(),
    st.sampled_from(["regex", "regex:search", "contains", "contains:all", *GRADED]),
    st.sampled_from(["ab 1", '["a","b"]', "[1e999]", '["\\ud800"]']),
)
def test_no_reply_makes_a_metric_raise(reply: str, name: str, target: str) -> None:
    score = metrics.load(name, [target]).score(reply, example(target))
    assert 0 <= score.value <= 1
    assert score.is_parsed or score.value == 0


@pytest.mark.parametrize("name", GRADED)
def test_equal_texts_score_one_and_strange_ones_zero(name: str) -> None:
    assert scored(name, "one two three four five six", "one two three four five six")[0] == 1
    assert scored(name, "one two three four five six", "seven")[0] == pytest.approx(0, abs=0.01)


def test_a_pattern_that_needs_ages_ends_the_run_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pattern, "TIMEOUT_S", 0.05)
    metric = metrics.load("regex", [SLOW])
    with pytest.raises(TaskError, match=r"takes over 0\.05 s on a text of 4000 characters; repeats within"):
        metric.score("a" * 4000, example(SLOW))
    looking = metrics.load("exact", ["x"], answer_pattern=SLOW)
    with pytest.raises(TaskError, match="write it simpler"):
        looking.score("a" * 4000, example("x"))


@pytest.mark.parametrize(
    ("name", "targets", "said"),
    [
        ("regex", ["a", "(b"], r"target '\(b' does not fit it \('\(b' is no regular expression \(missing \)"),
        ("regex", ["(" * 3000 + ")" * 3000], "is no regular expression"),
        ("regex", [None], "no row has a target"),
        ("regex:whole", ["a"], "regex has no 'whole'; valid: search"),
        ("contains:x", ["a"], "contains has no 'x'; valid: all"),
        ("f1:", ["a"], "f1 takes nothing after a colon"),
        ("rouge:rouge-l", ["a"], "rouge has no 'rouge-l'; did you mean 'rougeLsum'|did you mean 'rougeL'"),
        ("rouge", ["a", "привет"], "target 'привет' does not fit it .*no word of a-z or digits"),
        ("bleu:add", ["a"], "bleu has no 'add'; did you mean 'add-k'"),
        ("bleu:", ["a"], "bleu has no ''"),
    ],
)
def test_wrong_use(name: str, targets: list[str | None], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        metrics.load(name, targets)


@pytest.mark.parametrize(
    ("name", "module"), [("rouge", "rouge_score.rouge_scorer"), ("bleu", "sacrebleu.metrics.bleu")]
)
def test_absent_packages_are_named(monkeypatch: pytest.MonkeyPatch, name: str, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"metric '{name}' needs .*pip install 'promptopt-suite\[metrics\]'"):
        metrics.load(name, ["x"])


# The answer's place --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "target", "reply", "answer_pattern", "value", "is_parsed"),
    [
        ("exact", "b", "=> a\n=> b", r"=> (\w)", 1, True),
        ("exact", "b", "<answer>b</answer>", r"=> (\w)", 0, False),
        ("exact", "b", "b", r"=> (\w)", 0, False),
        ("exact", "b", "=> a, b", r"(?P<answer>\w)(,)?", 1, True),
        ("exact", "b", '=> "b"', "=> (.+)", 1, True),
        ("exact", "b", "=> ", r"=> (\w)?", 0, False),
        ("label", "b", "=> c", r"=> (\w)", 0, False),
        ("label", "b", "=> B", r"=> (\w)", 1, True),
        ("choice", "(B)", "A => (B) Answer: C", r"=> (\S+)", 1, True),
        ("number", "7", "=> 7 of 9", r"=> (\d)", 1, True),
        ("json", '{"a": 1}', '{"a": 2} => {"a": 1}; {"a": 3}', r"=> (.+);", 1, True),
        ("json", '{"a": 1}', '{"a": 1}', r"=> (.+);", 0, False),
        ("regex", "b+", "c => bb", r"=> (\w+)", 1, True),
        ("contains", "b", "b => c", r"=> (\w+)", 0, True),
        ("contains", "b", "b", r"=> (\w+)", 0, False),
        ("f1", "b", "x => b", r"=> (\w+)", 1, True),
        ("rouge", "b", "x => b", r"=> (\w+)", 1, True),
        ("bleu", "b", "x => b", r"=> (\w+)", 1, True),
    ],
)  # fmt: skip
def test_a_pattern_replaces_the_places_of_the_answer(
    name: str, target: str, reply: str, answer_pattern: str, value: float, is_parsed: bool
) -> None:
    assert scored(name, target, reply, answer_pattern) == (value, is_parsed)


@pytest.mark.parametrize(
    ("name", "answer_pattern", "said"),
    [
        ("exact", "(", r"--answer-pattern: '\(' is no regular expression"),
        ("exact", "x", "has 0 groups; put one pair of parentheses around the answer"),
        ("exact", "(a)(b)", "has 2 groups"),
        ("none", "(a)", "the metric 'none' looks for no answer"),
        ("json:loads", "(a)", "--answer-pattern: '|json takes nothing"),
        ("email.mime:x", "(a)", "the metric 'email.mime:x' looks for no answer"),
    ],
)
def test_wrong_patterns(name: str, answer_pattern: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        metrics.load(name, ["{}"], answer_pattern=answer_pattern)
