"""Every strategy, while a fifth of the calls fails: the very result that it reaches without; or one clear end.

On a clock that jumps, with the errors that the transport raises for each kind of fault (see test_faults_http.py).
"""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from faults import LASTING, MOST_ATTEMPTS, PASSING, STRATEGIES, Faulty, execute, plan_of

from promptopt.gateway import MAX_REFUSED_AT_FIRST
from promptopt.journal import Journal
from promptopt.result import Result
from promptopt.testing.trial import answered, outcome
from promptopt.types import Response

FEW, MANY = 320, 1100  # calls of a run
ALL = (*PASSING, "refused", "drip")
USUAL = {"500": ("500",), "429": ("429", "429-bare"), "all": ALL}  # each kind is tried at length


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("flawless")


@functools.cache
def flawless(folder: Path, optimizer: str, calls: int) -> dict[str, Any]:
    """Return what a run ends with that meets no fault, and what it sent."""
    transport = Faulty()
    result = execute(plan_of(optimizer, folder / f"{optimizer}-{calls}", calls), transport)
    assert result.status in ("completed", "budget_exhausted")
    assert result.spend.attempts == result.spend.calls == transport.n_sent
    return outcome(folder / f"{optimizer}-{calls}")


def check_same(folders: Path, folder: Path, optimizer: str, kinds: tuple[str, ...], calls: int) -> Result:
    """Require the result of a run without faults, and no attempt but those that faults made necessary."""
    transport = Faulty(kinds)
    result = execute(plan_of(optimizer, folder, calls), transport)
    assert outcome(folder) == flawless(folders, optimizer, calls)
    n_failed = transport.failed.total() - transport.failed["drip"]
    assert n_failed > 0.1 * result.spend.calls
    assert result.spend.attempts == transport.n_sent == result.spend.calls + n_failed
    return result


# What passes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kinds", USUAL.values(), ids=list(USUAL))
@pytest.mark.parametrize("optimizer", STRATEGIES)
def test_a_fifth_of_the_calls_that_fail_changes_no_result(
    folders: Path, tmp_path: Path, optimizer: str, kinds: tuple[str, ...]
) -> None:
    check_same(folders, tmp_path, optimizer, kinds, FEW)


@pytest.mark.soak
@pytest.mark.parametrize("optimizer", STRATEGIES)
def test_faults_of_all_kinds_at_once_change_no_result_of_a_long_run(
    folders: Path, tmp_path: Path, optimizer: str
) -> None:
    result = check_same(folders, tmp_path, optimizer, ALL, MANY)
    assert result.spend.attempts <= MOST_ATTEMPTS * result.spend.calls


@pytest.mark.soak
@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("optimizer", STRATEGIES)
def test_no_kind_of_fault_changes_the_result_of_a_long_run(
    folders: Path, tmp_path: Path, optimizer: str, kind: str
) -> None:
    if kind == "drip":  # is slow, and no failure
        execute(plan_of(optimizer, tmp_path, MANY), Faulty((kind,)))
        assert outcome(tmp_path) == flawless(folders, optimizer, MANY)
        return
    result = check_same(folders, tmp_path, optimizer, (kind,), MANY)
    assert result.spend.attempts <= MOST_ATTEMPTS * result.spend.calls


# What lasts ----------------------------------------------------------------------------------------


def check_mends(folders: Path, folder: Path, optimizer: str, kind: str, n_good: int, n_more: int) -> None:
    """Require an early end in one message that keeps what was paid, and the usual result once all is mended."""
    broken = Faulty((kind,), share=1.0, n_good=n_good)
    result = execute(plan_of(optimizer, folder, FEW), broken)
    assert result.status == "failed"
    assert result.reason.count("simulated fault") == 1
    assert "\n" not in result.reason
    assert broken.n_sent <= n_good + n_more, "calls that cannot succeed were sent"
    paid = answered(folder)
    assert len(paid) == result.spend.calls == broken.n_sent - broken.failed[kind]
    mended = Faulty()
    execute(plan_of(optimizer, folder, FEW), mended)
    assert not paid & mended.attempts.keys()
    assert outcome(folder) == flawless(folders, optimizer, FEW)


@pytest.mark.parametrize("optimizer", STRATEGIES)
def test_model_that_refuses_every_prompt_ends_a_run_at_once(folders: Path, tmp_path: Path, optimizer: str) -> None:
    """Of what may be a prompt's own fault, 20 refusals of the first 20 calls tell that it is not."""
    check_mends(folders, tmp_path, optimizer, "too-long", 0, MAX_REFUSED_AT_FIRST + 16)


@pytest.mark.parametrize("optimizer", STRATEGIES)
def test_endpoint_that_takes_no_call_any_more_ends_a_run_at_once(
    folders: Path, tmp_path: Path, optimizer: str
) -> None:
    check_mends(folders, tmp_path, optimizer, "quota", 150, 16)


@pytest.mark.soak
@pytest.mark.parametrize("kind", LASTING)
@pytest.mark.parametrize("optimizer", STRATEGIES)
def test_no_lasting_fault_costs_what_was_paid(folders: Path, tmp_path: Path, optimizer: str, kind: str) -> None:
    check_mends(folders, tmp_path / "first", optimizer, kind, 0, MAX_REFUSED_AT_FIRST + 16)
    if kind in ("401", "403", "404", "quota"):  # others may be the prompt's own fault once a call was answered
        for n_good in (1, 40, 100, 200):
            check_mends(folders, tmp_path / str(n_good), optimizer, kind, n_good, 16)


# What is an answer, and no text --------------------------------------------------------------------


def emptied(response: Response) -> Response:
    return replace(response, text="")


def filtered(response: Response) -> Response:
    return replace(response, text="", finish_reason="content_filter")


@pytest.mark.parametrize("odd", [emptied, filtered], ids=["null content", "content filter"])
@pytest.mark.parametrize("optimizer", STRATEGIES)
def test_paid_answers_without_text_are_kept_and_never_paid_for_twice(
    tmp_path: Path, optimizer: str, odd: Any
) -> None:
    transport = Faulty(odd=odd)
    plan = plan_of(optimizer, tmp_path, FEW)
    result = execute(plan, transport)
    assert result.status in ("completed", "budget_exhausted")
    assert result.spend.attempts == result.spend.calls == transport.n_sent == len(transport.attempts) <= FEW
    assert len(answered(tmp_path)) == transport.n_sent
    expected, again = outcome(tmp_path), Faulty()
    execute(plan, again)
    assert again.n_sent == 0
    assert outcome(tmp_path) == expected
    with Journal(tmp_path / "journal.db") as journal:
        rows = journal._db.execute("SELECT value, cause FROM evaluations WHERE cause IS NOT NULL").fetchall()
    assert bool(rows) == (odd is filtered)
    assert {value for value, _ in rows} <= {0.0, None}
    assert json.loads((tmp_path / "result.json").read_text())["unparsed"] == result.unparsed > 0
