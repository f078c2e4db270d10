"""Label log-probabilities and word vectors: what they cost, what they lack, how they repeat."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scripted import LABELS, Scripted, make_task, noise
from started import TASK, Reporting, Tokens, again, calls_of, colours, drive, number, right, start

from promptopt.errors import BudgetExhausted, CallRefused, ContextTooLong, ServerFailed, TaskError
from promptopt.providers import ModelSpec
from promptopt.study import MAX_TEXTS, Study
from promptopt.task import Task
from promptopt.types import Candidate, Request

VECTORS = ModelSpec("sim", is_embedding=True, max_tokens=0)


def sure(request: Request) -> Tokens:
    """Report the labels, the right one first, more surely for some prompts than for others."""
    p = 0.5 + 0.4 * noise(*request.messages)
    others = [label for label in LABELS if label != right(request)]
    return [(f" {right(request)}", math.log(p)), *((label, math.log((1 - p) / 2)) for label in others)]


# Label log-probabilities ----------------------------------------------------------------------------------


def test_log_probabilities_come_from_the_calls_of_an_evaluation() -> None:
    transport = Reporting(right, tokens=sure)
    study, state = start(transport)
    examples = study.task.dev[:4]

    async def work() -> NDArray[np.float64]:
        await study.evaluate(colours(2), examples[:2])
        rows: NDArray[np.float64] = await study.label_logprobs(colours(3), examples)
        await study.evaluate(colours(3), examples)
        return rows

    rows = drive(work())
    assert rows.shape == (3, 4, 3)
    assert len(transport.requests) == calls_of(state, "task") == 12
    assert np.exp(rows).sum(axis=2) == pytest.approx(np.ones((3, 4)))
    assert study.task.labels == tuple(sorted(LABELS))
    gold = np.array([study.task.i_label(example) for example in examples])
    assert (rows.argmax(axis=2) == gold).all()
    table = study.scores(colours(3), examples)
    assert (table.values == 1).all()


def test_verbalizers_are_what_the_model_says() -> None:
    words = {"red": "rot", "green": "grün", "blue": "blau"}

    def german(request: Request) -> Tokens:
        return [(words[right(request)][:3].upper(), -0.1), ("xyz", -3.0)]

    study, _ = start(Reporting(right, tokens=german), task=replace(make_task(), verbalizers=words))
    rows = drive(study.label_logprobs(colours(1), study.task.dev[:3]))
    assert [study.task.labels[i] for i in rows[0].argmax(axis=1)] == [e.target for e in study.task.dev[:3]]


def test_a_row_without_a_label_or_an_answer_is_nan() -> None:
    def refuse(request: Request) -> None:
        if number(request) == 101:
            raise CallRefused("no")
        if number(request) == 102:
            raise ContextTooLong("too long")

    def tokens(request: Request) -> Tokens:
        return {103: [("Sure", -0.1)], 104: [], 105: None}.get(number(request), sure(request))

    transport = Reporting(right, tokens=tokens, on_request=refuse)
    study, _ = start(transport)
    rows = drive(study.label_logprobs(colours(1), study.task.dev[:12]))
    assert np.isnan(rows[0]).all(axis=1).tolist() == [i in (1, 2, 3, 4, 5) for i in range(12)]
    assert np.isfinite(rows[0, 6:]).all()


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (lambda request: None, "sim sent no log-probabilities of its first answer token"),
        (lambda request: [("The", -0.1)], "does not begin its answer with a label: it says 'The'"),
        (lambda request: [("e", -0.1), ("red", -2.0)], "'e' begins several labels .'early red', 'evening red'"),
    ],
)
def test_an_endpoint_that_does_not_tell_the_labels_is_named_with_what_it_lacks(
    tokens: Callable[[Request], Tokens], words: str
) -> None:
    task = replace(make_task(), labels=("early red", "evening red", "red"))
    study, _ = start(Reporting(lambda request: "The red", tokens=tokens), task=task)

    async def work() -> None:
        assert not await study.offers_label_logprobs()
        with pytest.raises(TaskError, match=words):
            await study.label_logprobs(colours(1), study.task.dev[:3])

    drive(work())


@pytest.mark.parametrize(
    ("task", "spec", "words"),
    [
        (
            replace(make_task(), train=make_task().train[:1], dev=make_task().dev[:1], labels=()),
            TASK,
            "closed set",
        ),
        (replace(make_task(), predict=lambda prompt, example, call: "red"), TASK, "predict function"),
        (make_task(), ModelSpec("sim"), "sim is not asked for log-probabilities"),
        (make_task().without_targets(), TASK, "closed set"),
    ],
)
def test_what_no_reply_can_mend_costs_nothing(task: Task, spec: ModelSpec, words: str) -> None:
    transport = Reporting(right, tokens=sure)
    study, _ = start(transport, task=task, model=spec)
    assert drive(study.offers_label_logprobs()) is False
    with pytest.raises(TaskError, match=words):
        drive(study.label_logprobs(colours(1), task.dev))
    assert transport.requests == []


def test_asking_whether_they_are_offered_costs_one_call_that_counts() -> None:
    transport = Reporting(right, tokens=sure)
    study, _ = start(transport)

    async def work() -> None:
        assert await study.offers_label_logprobs()
        assert await study.offers_label_logprobs()
        assert len(transport.requests) == 1
        await study.evaluate([study.initial], study.task.dev[:2])

    drive(work())
    assert len(transport.requests) == 2


def test_once_offered_a_prompt_that_spoils_them_is_no_fault_of_the_endpoint() -> None:
    def tokens(request: Request) -> Tokens:
        return [("Hm", -0.1)] if "colour 0" in request.messages[0].content else sure(request)

    async def branch(study: Study, candidate: Candidate) -> NDArray[np.float64]:
        return await study.label_logprobs([candidate], study.task.dev[:3])

    async def work(study: Study) -> list[NDArray[np.float64]]:
        assert await study.offers_label_logprobs()
        return await study.map(branch, colours(2))

    bad, good = drive(work(start(Reporting(right, tokens=tokens))[0]))
    assert np.isnan(bad).all()
    assert np.isfinite(good).all()


@pytest.mark.parametrize("latency_seed", range(5))
def test_timing_decides_neither_rows_nor_who_is_checked(latency_seed: int) -> None:
    def tokens(request: Request) -> Tokens:
        return [("Hm", -0.1)] if "colour 3" in request.messages[0].content else sure(request)

    async def branch(study: Study, candidate: Candidate) -> NDArray[np.float64]:
        return await study.label_logprobs([candidate], study.task.dev[:3])

    quick, _ = start(Reporting(right, tokens=tokens))
    slow, _ = start(Reporting(right, tokens=tokens, latency_seed=latency_seed))
    second, third = drive(slow.map(branch, colours(3)), slow.map(branch, colours(4)))
    assert np.array_equal(drive(quick.map(branch, colours(3))), second)
    assert np.isnan(third[3]).all()  # not checked, since branches before it were answered well
    later, _ = start(Reporting(right, tokens=tokens, latency_seed=latency_seed))
    with pytest.raises(TaskError, match="it says 'Hm'"):  # whether or not its siblings were answered before
        drive(later.map(branch, colours(4)))


def test_log_probabilities_that_do_not_fit_the_budget_are_not_begun() -> None:
    transport = Reporting(right, tokens=sure)
    study, _ = start(transport, n_calls=5)
    with pytest.raises(BudgetExhausted):
        drive(study.label_logprobs(colours(2), study.task.dev[:3]))
    assert transport.requests == []


def test_a_run_repeats_its_log_probabilities_from_the_journal() -> None:
    fails = [True]

    def fail(request: Request) -> None:
        if fails[0] and number(request) == 101:
            raise ServerFailed("down")

    async def work(study: Study) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        offered = await study.offers_label_logprobs()
        assert offered
        first = await study.label_logprobs(colours(2), study.task.dev[:12])
        fails[0] = False
        return first, await study.label_logprobs(colours(2), study.task.dev[:12])

    transport = Reporting(right, tokens=sure, on_request=fail)
    study, state = start(transport)
    first, second = drive(work(study))
    assert np.isnan(first[:, 1]).all()
    assert np.isfinite(second).all()
    n = len(transport.requests)
    for before, after in zip((first, second), drive(work(again(state, transport))), strict=True):
        assert np.array_equal(before, after, equal_nan=True)  # what it went on without is missing again
    assert len(transport.requests) == n


# Word vectors ---------------------------------------------------------------------------------------------


def vector_of(text: str) -> list[float]:
    return [noise(text, i) for i in range(3)]


def vectors(request: Request) -> str:
    return json.dumps([vector_of(message.content) for message in request.messages])


def test_vectors_come_in_order_from_as_few_calls_as_the_endpoint_allows() -> None:
    transport = Scripted(vectors, latency_seed=1)
    study, state = start(transport, embedding=VECTORS)
    words = [f"word {i}" for i in range(2 * MAX_TEXTS + 1)]
    found = drive(study.embed(words))
    assert found.tolist() == [vector_of(word) for word in words]
    assert sorted(len(request.messages) for request in transport.requests) == [1, MAX_TEXTS, MAX_TEXTS]
    assert all(request.is_embedding for request in transport.requests)
    assert calls_of(state, "embedding") == 3
    assert np.array_equal(drive(again(state, transport).embed(words)), found)
    assert len(transport.requests) == 3


def test_a_refused_batch_of_words_ends_the_run_with_a_remedy() -> None:
    def refuse(request: Request) -> None:
        raise ContextTooLong("too long")

    study, _ = start(Scripted(vectors, on_request=refuse), embedding=VECTORS)
    with pytest.raises(TaskError, match="leave --embedding-model out"):
        drive(study.embed(["word"]))


def test_without_an_endpoint_spelling_makes_vectors_for_nothing() -> None:
    transport = Scripted(right)
    study, _ = start(transport, n_calls=0)
    found = drive(study.embed(["refund", "refunds", "weather"]))
    assert transport.requests == []
    assert np.linalg.norm(found, axis=1) == pytest.approx([1, 1, 1])
    assert found[0] @ found[1] > found[0] @ found[2]
    assert np.array_equal(found, drive(study.embed(["refund", "refunds", "weather"])))
