import json
import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptopt import data
from promptopt.errors import ConfigError, TaskError
from promptopt.tasks import metrics
from promptopt.types import Example, Metric

SHARED = Path(__file__).parent.parent.parent / "shared" / "data"
TASKS = sorted(path.parent for path in SHARED.glob("*/task.json"))
OURS = {"choice_letter": "choice", "label": "label", "numeric": "number"}


def example(target: str | None) -> Example:
    return Example("e1", {"input": "i"}, target)


EXACT = metrics.load("exact", ["x"])
LABEL = metrics.load("label", ["card_lost", "Refund", "card_lost", None, "refund"])
CHOICE = metrics.load("choice", ["(A)", "(B)"])
NUMBER = metrics.load("number", ["1", "$2.50"])
JSON = metrics.load("json", ['{"a": 1}'])
PERSON = '{"name": "Ann Lee", "age": 41, "tags": ["x", 1], "phone": null, "is_new": true}'


@pytest.mark.parametrize(
    ("metric", "target", "reply", "value", "is_parsed"),
    [
        (EXACT, "two  words", "Answer: two words", 1, True),
        (EXACT, '"quoted"', '"quoted"', 1, True),
        (EXACT, "Answer: x", "Answer: x", 1, True),
        (EXACT, "x", "X", 0, True),
        (EXACT, "x", "<answer></answer>", 0, False),
        (LABEL, "card_lost", "<answer>Card  Lost.</answer>", 1, True),
        (LABEL, "card_lost", "**CARD_LOST**", 1, True),
        (LABEL, "card_lost", "refund", 0, True),
        (LABEL, "card_lost", "I think it is card_lost", 0, False),
        (LABEL, "card_lost", "card", 0, False),
        (LABEL, "card_lost", "", 0, False),
        (LABEL, "unseen", "unseen", 1, True),
        (CHOICE, "(B)", "Answer: B) the worker", 1, True),
        (CHOICE, "B", "(B)", 1, True),
        (CHOICE, "(B)", "(A)", 0, True),
        (CHOICE, "(B)", "(A) or (B)", 0, False),
        (CHOICE, "(B)", "the worker", 0, False),
        (NUMBER, "18", "it costs $18.00", 1, True),
        (NUMBER, "1,000", "1000", 1, True),
        (NUMBER, "0.75", "3/4", 1, True),
        (NUMBER, "18", "19", 0, True),
        (NUMBER, "18", "eighteen", 0, False),
        (JSON, PERSON, PERSON, 1, True),
        (JSON, PERSON, f"Answer:\n```json\n{PERSON.replace('41', '41.0').replace('Ann', ' ANN ')}\n```", 1, True),
        (JSON, PERSON, '{"name": "Bo", "more": 1}', 0, True),
        (JSON, PERSON, '{"name": "Ann Lee", "age": "41", "phone": null, "is_new": 1}', 0.4, True),
        (JSON, '{"a": "Answer: 3"}', 'It is {"a": "Answer: 3"}', 1, True),
        (JSON, '{"a": {"b": 1}}', '{"a": {"b": 1, "c": 2}}', 1, True),
        (JSON, "{}", "{}", 1, True),
        (JSON, PERSON, "no object", 0, False),
        (JSON, PERSON, '{"name": "Ann Lee"', 0, False),
    ],
)  # fmt: skip
def test_scores(metric: Metric, target: str, reply: str, value: float, is_parsed: bool) -> None:
    score = metric.score(reply, example(target))
    assert score.value == pytest.approx(value)
    assert score.is_parsed is is_parsed
    assert (score.feedback is None) is (value == 1)


@pytest.mark.parametrize(
    ("metric", "target", "reply", "feedback"),
    [
        (LABEL, "Refund", "card lost", "expected 'Refund', got 'card lost'"),
        (LABEL, "Refund", "dunno", "the answer 'dunno' is none of the labels; expected 'Refund'"),
        (CHOICE, "(B)", "x y", "no option letter found in the reply; expected (B)"),
        (CHOICE, "(B)", "(A), (C)", "several option letters found: (A), (C); expected (B)"),
        (NUMBER, "18", "x", "no number found in the answer; expected '18'"),
        (JSON, '{"a": 1, "b": "x"}', '{"a": 2}', "field 'a': expected '1', got '2'; field 'b': "),
    ],
)
def test_feedback(metric: Metric, target: str, reply: str, feedback: str) -> None:
    assert (metric.score(reply, example(target)).feedback or "").startswith(feedback)


@given(st.text(), st.sampled_from([EXACT, LABEL, CHOICE, NUMBER, JSON]))
def test_no_reply_makes_a_metric_raise(reply: str, metric: Metric) -> None:
    targets = {"label": "Refund", "choice": "(A)", "number": "2", "json": PERSON}
    score = metric.score(reply, example(targets.get(metric.name, "x")))
    assert 0 <= score.value <= 1
    assert score.is_parsed or score.value == 0


def test_metrics_are_listed_and_loaded_by_name() -> None:
    for name in set(metrics.METRICS) - {"path.py:function", "json-schema:FILE.json", "judge:FILE.md"}:
        target = {"json": "{}", "choice": "(A)"}.get(name, "1")
        assert metrics.load(name, [target]).name == name
    assert metrics.load("auto", ["(A)"]).name == "choice"
    assert isinstance(LABEL, metrics.Label)
    assert LABEL.labels == ("Refund", "card_lost")


@pytest.mark.parametrize(
    ("name", "targets", "said"),
    [
        ("lable", ["x"], "unknown metric 'lable' .*did you mean 'label'"),
        ("f2", ["x"], "path.py:function"),
        ("number", ["1", "two"], "metric 'number': target 'two' does not fit .*correct the target, or take"),
        ("choice", ["(A)", "yes"], "target 'yes' does not fit"),
        ("json", ["[1]"], "does not fit"),
        ("label", [None], "no row has a target; name the target column.*or the metric none"),
        ("nome", ["x"], "did you mean 'none'"),
    ],
)
def test_a_metric_that_does_not_exist_or_fit_is_refused(name: str, targets: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        metrics.load(name, targets)


@pytest.mark.parametrize("targets", [[], [None, None]])
def test_without_targets_auto_gives_no_scores(targets: list[str | None]) -> None:
    metric, why = metrics.choose(targets)
    assert metric.name == metrics.load("auto", targets).name == metrics.load("none", ["x"]).name == "none"
    assert why == "no row has a target, so answers get no scores: none"
    score = metric.score("any reply", example(None))
    assert math.isnan(score.value)
    assert score.is_parsed


def test_an_example_without_target_cannot_be_scored() -> None:
    for metric in (EXACT, LABEL, CHOICE, NUMBER, JSON):
        with pytest.raises(TaskError, match="example 'e1' has no target"):
            metric.score("x", example(None))


@pytest.mark.parametrize(
    ("targets", "name", "reason"),
    [
        (["{}", '{"a": 1}'], "json", "all 2 targets are JSON objects: json"),
        (["(A)", "(K)", "(b)"], "choice", "all 3 targets are option letters: choice"),
        (["A", "H"], "choice", "option letters"),
        (["A", "Z"] * 5, "label", "2 distinct targets in 10 rows: label"),
        (["1", "-2.5", "$3", "4%", "1,000", "3/4"], "number", "all 6 targets are numbers: number"),
        (["1", "two"] * 4, "label", "label"),
        (["007-1", "008-2"], "exact", "exact"),
        (["yes", "No", "no", "Yes", None], "label", "2 distinct targets in 4 rows: label"),
        (["yes", "no", "no"], "exact", "2 distinct targets in 3 rows, of no special form: exact"),
        (["a long sentence " * 9] * 10, "exact", "exact"),
        ([f"l{i % 20}" for i in range(40)], "label", "label"),
        ([f"l{i % 21}" for i in range(42)], "exact", "exact"),
        ([f"l{i % 77}" for i in range(200)], "label", "77 distinct targets in 200 rows: label"),
    ],
)
def test_choose(targets: list[str | None], name: str, reason: str) -> None:
    metric, why = metrics.choose(targets)
    assert metric.name == name
    assert reason in why


@pytest.mark.skipif(not TASKS, reason="the shared data sets are not here")
@pytest.mark.parametrize("folder", TASKS, ids=lambda path: str(path.name))
def test_choose_finds_the_metric_of_known_data(folder: Path) -> None:
    task = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    loaded = data.load(folder, seed=0)
    for rows in (loaded.train, (*loaded.train, *loaded.dev)):
        metric, _ = metrics.choose([row.target for row in rows])
        assert metric.name == OURS[task["metric"]]
    for row in loaded.test:
        assert metric.score(f"so\nAnswer: {row.target}", row).value == 1


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "mine.py"


@pytest.mark.parametrize(
    ("result", "value", "feedback"),
    [
        ("len(reply) / 10", 0.3, None),
        ("example.target == reply", 1, None),
        ("(0.5, 'half')", 0.5, "half"),
        ("(0, None)", 0, None),
        ("Score(0.0, 'none', is_parsed=False)", 0, "none"),
        ("__import__('numpy').float32(0.5)", 0.5, None),
        ("__import__('numpy').bool_(True)", 1, None),
        ("__import__('fractions').Fraction(1, 4)", 0.25, None),
    ],
)
def test_own_functions(file: Path, result: str, value: float, feedback: str | None) -> None:
    file.write_text(f"from promptopt.types import Score\n\ndef f(reply, example):\n    return {result}\n")
    metric = metrics.load(f"{file}:f", [])
    assert metric.name == f"{file}:f"
    score = metric.score("abc", example("abc"))
    assert score.value == pytest.approx(value)
    assert score.feedback == feedback


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def g(reply, example):\n    return 1\n", "has no 'f'; valid: g"),
        ("def f(:\n", r"mine\.py:1 cannot be imported \(SyntaxError"),
        ("x = 1\n\n1 / 0\n", r"mine\.py:3 cannot be imported \(ZeroDivisionError.*mend the file"),
        ("import no_such_module_at_all\n", r"mine\.py:1 cannot be imported \(ModuleNotFoundError"),
        ("def f(reply):\n    return 1\n", r"cannot be called with two arguments .*write def f\(reply, example\)"),
        ("f = 3\n", "f is no function"),
    ],
)  # fmt: skip
def test_own_files_that_cannot_be_used(file: Path, source: str, said: str) -> None:
    file.write_text(source)
    with pytest.raises(ConfigError, match=said) as caught:
        metrics.load(f"{file}:f", [])
    assert str(file) in str(caught.value)


def test_a_file_that_is_not_there(file: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(str(file)) + r".*check the path"):
        metrics.load(f"{file}:f", [])


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ("1 / 0", "raised ZeroDivisionError: division by zero; mend the function"),
        ("None", r"returned None; return a number in \[0, 1\]"),
        ("'1'", "returned '1'; return"),
        ("1.5", r"returned 1.5; a score lies in \[0, 1\]"),
        ("float('nan')", "returned nan"),
        ("(1, 2)", r"returned \(1, 2\)"),
        ("(-1, 'x')", "returned -1.0"),
    ],
)
def test_own_functions_that_fail_name_the_example(file: Path, result: str, said: str) -> None:
    file.write_text(f"def f(reply, example):\n    return {result}\n")
    with pytest.raises(TaskError, match=said) as caught:
        metrics.load(f"{file}:f", []).score("abc", example("x"))
    assert "example 'e1'" in str(caught.value)
    assert isinstance(caught.value.__cause__, ZeroDivisionError) is ("1 / 0" in result)


def test_a_changed_file_is_another_metric(file: Path) -> None:
    digests = []
    for value in ("0", "1"):
        file.write_text(f"def f(reply, example):\n    return {value}\n")
        metric = metrics.load(f"{file}:f", [])
        assert isinstance(metric, metrics.FunctionMetric)
        assert metric.score("", example("x")).value == float(value)
        digests.append(metric.digest)
    assert digests[0] != digests[1]


def test_every_metric_is_documented() -> None:
    page = (Path(__file__).parent.parent / "docs" / "data-and-metrics.md").read_text(encoding="utf-8")
    for name in metrics.METRICS:
        assert f"\n| `{name}` |" in page, name
