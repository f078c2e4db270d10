"""The words that prompts are built of."""

from __future__ import annotations

from dataclasses import replace

from scripted import make_task

from promptopt import vocabulary
from promptopt.promptfile import parse
from promptopt.providers import ModelSpec
from promptopt.types import Example
from promptopt.vocabulary import COMMON, task_words, word_list


def test_a_task_gives_its_own_words_once_each() -> None:
    task = replace(
        make_task(),
        description="Colours of things.",
        verbalizers={"red": "crimson"},
        labels=("red", "green", "blue"),
    )
    found = task_words(task)
    assert len(found) == len(set(found))
    assert {"name", "the", "colour", "colours", "of", "things", "red", "green", "crimson", "item"} <= set(found)
    assert all(word.isalpha() and word == word.lower() for word in found)


def test_words_of_more_train_inputs_come_first_and_dev_gives_none() -> None:
    task = make_task(n_train=3, n_dev=20)
    rows = [("rare common", "one"), ("common", "two"), ("often common often", "three")]
    train = tuple(Example(i, {"input": text}, "red") for text, i in rows)
    dev = (replace(task.dev[0], inputs={"input": "secret"}), *task.dev[1:])
    found = task_words(replace(task, train=train, dev=dev))
    assert found.index("common") < found.index("rare")
    assert found.index("common") < found.index("often")
    assert "secret" not in found


def test_braces_marks_and_headings_give_no_signs() -> None:
    prompt = parse("system:\nKeep <!-- keep -->this<!-- /keep -->: {{input}}\n\nuser:\n{{input}}").prompt
    found = task_words(replace(make_task(), initial=prompt))
    assert all(word.isalpha() for word in found)
    assert "this" in found


def test_the_common_words_are_many_distinct_and_plain() -> None:
    words = COMMON.split()
    assert len(words) == len(set(words)) > 1000
    assert all(word.isalpha() and word.isascii() and word.islower() for word in words)


def test_a_model_of_unknown_tokenizer_gets_the_common_words() -> None:
    assert word_list(ModelSpec("sim")) == tuple(COMMON.split())
    assert word_list(ModelSpec("openai/local", api_base="http://127.0.0.1:1/v1")) == tuple(COMMON.split())


def test_a_known_tokenizer_gives_its_own_starts_of_words() -> None:
    found = word_list(ModelSpec("openai/gpt-4o-mini"))
    assert len(found) == len(set(found)) > 2000
    assert {"the", "answer", "because"} <= set(found)
    assert found.index("the") < found.index("answer")
    assert all(word.isalpha() and word == word.lower() for word in found)
    assert len(found) < vocabulary._N_ENTRIES
