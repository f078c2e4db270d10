"""Several right answers for a row, and several columns as one target."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from commandline import Runner, optimize

from promptopt import data
from promptopt.config import load_task
from promptopt.errors import ConfigError
from promptopt.evaluation import judge_reply
from promptopt.gate import Gate
from promptopt.plan import _data_digest
from promptopt.task import Task
from promptopt.tasks.metrics import FunctionMetric, Unscored, load
from promptopt.types import Example, Metric, Prompt, Score


def task_of(metric: Metric, *targets: str) -> Task:
    first = Example("1", {"input": "a"}, targets[0], targets[1:])
    return Task("t", metric, (first,), (replace(first, id="2"),))


@pytest.mark.parametrize(
    ("name", "targets", "right", "wrong"),
    [
        ("exact", ("car", "auto mobile"), "auto  mobile", "bus"),
        ("label", ("car", "auto"), "Auto.", "bus"),
        ("choice", ("A", "(B)"), "(B)", "C"),
        ("number", ("3", "4"), "It is 4", "5"),
        ("json", ('{"a": 1}', '{"a": 2}'), '{"a": 2}', '{"a": 3}'),
    ],
)
def test_any_right_answer_is_right(name: str, targets: tuple[str, ...], right: str, wrong: str) -> None:
    task = task_of(load(name, targets), *targets)
    for reply in (right, targets[0], targets[1]):
        assert judge_reply(task, reply, task.dev[0]).value == 1
    missed = judge_reply(task, wrong, task.dev[0])
    assert missed.value == 0
    assert f"(any of these is right: {', '.join(targets)})" in str(missed.feedback)
    assert judge_reply(task, right, replace(task.dev[0], also_right=())).value == 0


def test_the_best_of_partly_right_answers_counts() -> None:
    targets = ('{"a": 1, "b": 1}', '{"a": 2, "b": 2}')
    task = task_of(load("json", targets), *targets)
    assert judge_reply(task, '{"a": 2, "b": 1}', task.dev[0]).value == 0.5
    assert judge_reply(task, '{"a": 2, "b": 2}', task.dev[0]).value == 1


def test_a_metric_of_the_user_sees_all_targets_at_once() -> None:
    seen: list[tuple[str, ...]] = []

    def function(reply: str, example: Example) -> float:
        seen.append(example.targets)
        return 0.5

    task = task_of(FunctionMetric("own.py:f", function, ""), "x", "y")
    assert judge_reply(task, "x", task.dev[0]) == Score(0.5)
    assert seen == [("x", "y")]
    unscored = task_of(Unscored(), "x", "y")
    assert np.isnan(judge_reply(unscored, "x", unscored.dev[0]).value)


def test_a_list_of_scalars_is_alternatives(tmp_path: Path) -> None:
    cells: list[Any] = [["x", " ", None, "x", 2.0], ["y"], "z", {"k": ["v"]}, [["u"]], []]
    rows = [{"input": str(i), "target": cell} for i, cell in enumerate(cells)]
    loaded = data.load({"train": rows[:2], "dev": rows[2:4], "test": rows[4:5]}, seed=0)
    found = [e.targets for e in (*loaded.train, *loaded.dev, *loaded.test)]
    assert found == [("x", "2"), ("y",), ("z",), ('{"k": ["v"]}',), ('[["u"]]',)]
    as_text = data.load(rows[:3], seed=0, has_alternatives=False)
    texts = {e.targets for e in (*as_text.train, *as_text.dev, *as_text.test)}
    assert texts == {('["x", " ", null, "x", 2.0]',), ('["y"]',), ("z",)}
    with pytest.raises(ConfigError, match="data: row 6: target 'target' is empty"):
        data.load(rows, seed=0)


def test_labels_and_metric_derive_from_all_targets() -> None:
    rows = [{"input": f"thing {i}", "target": [["red", "crimson"], ["blue"]][i % 2]} for i in range(60)]
    task, notes = load_task(pd.DataFrame(rows))
    assert task.metric.name == "label"
    assert task.labels == ("blue", "crimson", "red")
    assert "3 distinct targets" in notes[-1]
    assert task.without_targets().train[0].targets == ()


def test_every_right_answer_counts_for_the_data_and_the_gate() -> None:
    sentence = "one two three four five six seven eight"
    task = task_of(load("exact", ["x"]), "x", sentence)
    alone = replace(task, train=(replace(task.train[0], also_right=()),))
    assert _data_digest(task) != _data_digest(alone)
    assert "copied from a train example" in (Gate(task, 1000).refusal(Prompt(f"Say {sentence}")) or "")
    assert Gate(alone, 1000).refusal(Prompt(f"Say {sentence}")) is None


# Lists in every format ----------------------------------------------------------------------------

ROWS = [{"input": str(i), "target": ["red cat", "zebra"]} for i in range(3)]


def write(folder: Path, form: str) -> Path | pd.DataFrame:
    """Return data whose targets are a list, or in CSV and `text` the same list as JSON text."""
    as_text = [{**row, "target": json.dumps(row["target"])} for row in ROWS]
    frames = {"frame": pd.DataFrame(ROWS), "text": pd.DataFrame(as_text)}
    if form in frames:
        return frames[form]
    path = folder / f"d.{form}"
    if form == "jsonl":
        path.write_text("\n".join(map(json.dumps, ROWS)))
    elif form == "json":
        path.write_text(json.dumps(ROWS))
    else:
        frames["text"].to_csv(path, index=False, sep="\t" if form == "tsv" else ",")
    return path


@pytest.mark.parametrize("form", ["jsonl", "json", "csv", "tsv", "frame", "text"])
@pytest.mark.parametrize(
    ("metric", "targets", "values"),
    [
        ("contains", ("red cat", "zebra"), (1, 1, 0)),
        ("contains:all", ('["red cat", "zebra"]',), (0, 1, 0)),
        ("f1", ("red cat", "zebra"), (1, 0.8, 0)),
        ("rouge", ("red cat", "zebra"), (1, 0.8, 0)),
    ],
)
def test_lists_mean_the_same_in_every_format(
    tmp_path: Path, form: str, metric: str, targets: tuple[str, ...], values: tuple[float, ...]
) -> None:
    task, _ = load_task(write(tmp_path, form), metric=metric)
    example = task.train[0]
    assert example.targets == targets
    for reply, value in zip(("red cat", "zebra, red cat", "blue"), values, strict=True):
        assert judge_reply(task, reply, example).value == pytest.approx(value)


@pytest.mark.parametrize("is_text", [False, True])
def test_bleu_has_all_right_texts_as_references(is_text: bool) -> None:
    from sacrebleu import sentence_bleu

    right = ["the red cat sat on it", "a cat sat on the mat"]
    rows = [{"input": str(i), "target": json.dumps(right) if is_text else right} for i in range(3)]
    reply = "the red cat sat on the mat"
    task, _ = load_task(rows, metric="bleu")
    value = judge_reply(task, reply, task.train[0]).value
    assert value == pytest.approx(sentence_bleu(reply, right).score / 100)
    assert value > max(sentence_bleu(reply, [one]).score / 100 for one in right)


@pytest.mark.parametrize("metric", ["exact", "json", "auto"])
def test_a_list_as_text_stays_text_for_other_metrics(metric: str) -> None:
    text = '["a", "b"]' if metric != "json" else '{"a": ["b"]}'
    task, _ = load_task([{"input": str(i), "target": text} for i in range(3)], metric=metric)
    assert task.train[0].targets == (text,)


# Several columns ----------------------------------------------------------------------------------


def test_several_columns_are_one_object(tmp_path: Path) -> None:
    lines = ["text,who,amount,code,paid", "a,Ann,41,007,true", "b,Bob,,1e3,false", "c,,2.50,12,"]
    (tmp_path / "d.csv").write_text("\n".join(lines))
    task, _ = load_task(tmp_path / "d.csv", target="who, amount,code,paid")
    assert task.columns == ("text",)
    found = {e.inputs["text"]: e.target for e in (*task.train, *task.dev, *task.test)}
    assert found == {
        "a": '{"amount": 41, "code": "007", "paid": true, "who": "Ann"}',
        "b": '{"amount": null, "code": "1e3", "paid": false, "who": "Bob"}',
        "c": '{"amount": 2.5, "code": 12, "paid": null, "who": null}',
    }
    assert task.metric.name == "json"
    frame = pd.DataFrame({"text": ["a", "b", "c"], "n": [1, None, 3], "s": ["1", "2", "3"], "list": [["u"]] * 3})
    task, _ = load_task(frame, target="n,s,list")
    assert {e.target for e in (*task.train, *task.dev, *task.test)} == {
        '{"list": ["u"], "n": 1, "s": "1"}',
        '{"list": ["u"], "n": null, "s": "2"}',
        '{"list": ["u"], "n": 3, "s": "3"}',
    }


def test_a_column_whose_name_has_a_comma_is_one_column() -> None:
    task, _ = load_task([{"input": str(i), "a,b": "x"} for i in range(3)], target="a,b")
    assert task.train[0].target == "x"


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("who,amuont", "data: no target column 'amuont' (columns: text, who, amount); name the right one"),
        ("who,", "--target who,: name each column once"),
        ("who,who", "--target who,who: name each column once"),
        ("who,amount,text", "data: row 1: no input column beside 'who', 'amount', 'text'; add one"),
    ],
)
def test_wrong_target_columns_are_refused(target: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_task([{"text": str(i), "who": "A", "amount": i} for i in range(3)], target=target)
    assert str(caught.value).startswith(said)


def test_a_row_without_any_of_the_targets_is_named() -> None:
    rows: list[dict[str, object]] = [{"text": str(i), "who": "A", "amount": i} for i in range(3)]
    with pytest.raises(ConfigError, match="data: row 4: target 'who,amount' is empty"):
        load_task([*rows, {"text": "x", "who": None, "amount": None}], target="who,amount", metric="json")


def test_both_run_from_the_command_line(run: Runner, tmp_path: Path) -> None:
    rows = [{"item": f"thing {i}", "target": [["red", "crimson"], ["blue", "azure"]][i % 2]} for i in range(60)]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "prompt.md").write_text("Name the colour of {{item}}.")
    done = run(*optimize("--budget-calls", 300, prompt="prompt.md", data="d.jsonl"))
    assert done.status == 0, done.err
    assert "target:  red or crimson" in done.out or "target:  blue or azure" in done.out
    (tmp_path / "d.csv").write_text("item,a,b\n" + "".join(f"thing {i},{i % 3},x\n" for i in range(60)))
    done = run(*optimize("--budget-calls", 300, "--target", "a,b", "--json", prompt="prompt.md", data="d.csv"))
    assert done.status == 0, done.err
    assert json.loads(done.out)["task"]["metric"] == "json"
