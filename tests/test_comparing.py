"""A grid with one journal: paid once, charged as if alone, resumed anywhere, and a failing run loses no other."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import climb
import jsonschema
import pytest
from compared import BROKEN, SETTINGS, TASKS, asked_of, comparing, execute, lasting
from filelock import FileLock
from scripted import Scripted, make_run, model

from promptopt.api import ReadTask
from promptopt.comparing import Comparing
from promptopt.errors import ConfigError, ConnectionLost, RunRefused
from promptopt.grid import Asked
from promptopt.journal import Journal
from promptopt.result import lasting as lasting_result
from promptopt.testing import Snapshots
from promptopt.types import Budget, Request

SCHEMA = json.loads((Path(__file__).parent.parent / "docs" / "compare.schema.json").read_text(encoding="utf-8"))
GRID = [(name, seed) for seed in (0, 1) for name in ("capo", "random")]


def alone(folder: Path, name: str, seed: int, data: str = "colours") -> tuple[dict[str, object], list[str]]:
    """Return what the same run gives by itself, and the requests that it sends."""
    transport = Scripted(model)
    settings = replace(SETTINGS, optimizer=name, seed=seed)
    task = replace(TASKS[data], name=data)
    result = asyncio.run(make_run(folder, transport, task=task, settings=settings).execute())
    return lasting_result(json.loads(result.to_json())), asked_of(transport)


def cell_result(folder: Path, cell: str) -> dict[str, object]:
    text = (folder / "cells" / cell / "result.json").read_text(encoding="utf-8")
    return lasting_result(json.loads(text))


def test_a_call_is_paid_once_and_charged_to_every_run_that_uses_it(tmp_path: Path) -> None:
    transport = Scripted(model)
    found = execute(tmp_path / "grid", transport)
    runs = [alone(tmp_path / f"{name}{seed}", name, seed) for name, seed in GRID]
    sent = asked_of(transport)
    union = {digest for _, asked in runs for digest in asked}
    assert len(sent) == len(set(sent)) == len(union)
    assert set(sent) == union
    assert found.paid.calls == len(union)
    assert found.charged.calls == sum(len(asked) for _, asked in runs) > 600
    assert found.charged.calls - found.paid.calls > 40
    assert float(found.paid.cost_usd or 0) == pytest.approx(len(union) / 1000)
    assert float(found.charged.cost_usd or 0) == pytest.approx(found.charged.calls / 1000)
    assert [cell.charged and cell.charged.calls for cell in found.cells] == [len(asked) for _, asked in runs]
    assert found.cells[0].paid == found.cells[0].charged, "nothing was there before the first run"
    assert [row.paid.calls for row in found.strategies] == [
        sum(cell.paid.calls for cell in found.cells if cell.optimizer == name) for name in ("capo", "random")
    ]


@pytest.mark.parametrize("optimizers", [("capo", "random"), ("random", "capo")])
def test_a_run_ends_as_it_would_alone_whatever_ran_before_it(tmp_path: Path, optimizers: tuple[str, str]) -> None:
    execute(tmp_path / "grid", None, optimizers)
    for name, seed in GRID:
        expected, _ = alone(tmp_path / f"{name}{seed}", name, seed)
        cell = tmp_path / "grid" / "cells" / "colours" / name / f"seed-{seed}"
        assert cell_result(tmp_path / "grid", f"colours/{name}/seed-{seed}") == expected
        assert (cell / "best.md").read_bytes() == (tmp_path / f"{name}{seed}" / "best.md").read_bytes()


def test_figures_are_those_of_the_runs(tmp_path: Path) -> None:
    found = execute(tmp_path, None, data=("colours", "shades"))
    assert found.status == "completed"
    assert [cell.cell for cell in found.cells][:3] == [
        "colours/capo/seed-0",
        "colours/random/seed-0",
        "colours/capo/seed-1",
    ]
    for cell in found.cells:
        result = json.loads((tmp_path / "cells" / cell.cell / "result.json").read_text())
        assert cell.best is not None
        assert cell.gain is not None
        assert cell.best.test is not None
        assert cell.best.test.score == result["best"]["test"]["score"]
        assert cell.gain.delta == result["improvement"]["delta"]
        assert cell.curve[-1].dev == result["best"]["dev"]["score"]
        assert [step.calls for step in cell.curve] == sorted(step.calls for step in cell.curve)
        assert cell.curve[-1].calls <= 170
    whole = next(row for row in found.strategies if row.optimizer == "capo")
    assert whole.test is not None
    scores = {cell.cell: cell.best.test for cell in found.cells if cell.best and cell.optimizer == "capo"}
    assert whole.test.n_answers == sum(score.n for score in scores.values() if score)
    by_hand = sum(score.score for score in scores.values() if score) / 4
    assert whole.test.value == pytest.approx(by_hand)
    assert found.ranks is not None
    assert found.ranks.n_blocks == 4
    assert found.pairs[0].n_blocks == 4
    assert {(curve.data, curve.optimizer, curve.n_seeds) for curve in found.curves} == {
        (data, name, 2) for data in ("colours", "shades") for name in ("capo", "random")
    }
    assert any("cannot prove any difference" in note for note in found.notes)
    assert any(note.startswith("simulated models") for note in found.notes)


def test_ended_runs_are_not_run_again_and_more_may_be_added(tmp_path: Path) -> None:
    first = execute(tmp_path / "grid")
    silent = Scripted(model)
    again = execute(tmp_path / "grid", silent)
    assert not silent.requests
    assert again.cells == first.cells
    more = Scripted(model)
    wider = execute(tmp_path / "grid", more, ("capo", "random"), ("colours", "shades"), (0, 1, 2))
    assert [cell for cell in wider.cells if cell in first.cells] == list(first.cells)
    assert len(wider.cells) == 12
    assert wider.paid.calls == first.paid.calls + len(more.requests)
    assert not set(asked_of(more)) & {key.hex() for key in _keys(tmp_path / "grid", "colours/capo/seed-0")}


def _keys(folder: Path, run: str) -> list[bytes]:
    with Journal(folder / "journal.db", run) as journal:
        return [row[0] for row in journal._select("SELECT key FROM attempts WHERE run_id = ?", journal.run_id)]


def test_goes_on_from_every_commit_to_the_same_end(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path / "kills", at_most=6)
    with snapshots.watching():
        whole = Scripted(model)
        execute(tmp_path / "whole", whole)
    expected = lasting(tmp_path / "whole")
    assert len(snapshots.folders) >= 3
    for folder in snapshots.folders[-4:]:
        with Journal(folder / "journal.db") as journal:
            kept = {row[0].hex() for row in journal._select("SELECT key FROM answers")}
            journal._db.execute("DELETE FROM runs WHERE name = 'run'")  # which this look has made
        resumed = Scripted(model)
        execute(folder, resumed)
        assert lasting(folder) == expected
        assert set(asked_of(resumed)) == set(asked_of(whole)) - kept
        shutil.rmtree(folder)


KILLED = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from compared import comparing
from scripted import Scripted, model

class Slow(Scripted):
    async def send(self, request, timeout_s):
        await asyncio.sleep(0.004)
        with open(sys.argv[1] + ".calls", "a") as calls:
            calls.write(request.digest + "\\n")
        return await super().send(request, timeout_s)

asyncio.run(comparing(Path(sys.argv[1]), Slow(model)).execute())
"""


def test_goes_on_after_sigkill(tmp_path: Path) -> None:
    execute(tmp_path / "whole")
    folder, log = tmp_path / "killed", tmp_path / "killed.calls"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(folder), str(Path(__file__).parent)])
    try:
        deadline = time.monotonic() + 60
        while not (log.exists() and len(log.read_text().splitlines()) >= 250):
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    sent = log.read_text().splitlines()
    resumed = Scripted(model)
    found = execute(folder, resumed)
    assert lasting(folder) == lasting(tmp_path / "whole")
    n_twice = len(set(asked_of(resumed)) & set(sent))
    assert n_twice <= sum(cell.lost_in_flight for cell in found.cells) <= 16


def test_a_stop_ends_it_orderly_and_it_goes_on(tmp_path: Path) -> None:
    execute(tmp_path / "whole")
    transport = Scripted(model)
    made = comparing(tmp_path / "cut", transport)
    transport.on_request = lambda _: made.stop.set() if len(transport.requests) >= 200 else None
    found = asyncio.run(made.execute())
    assert found.status == "interrupted"
    assert [cell.status for cell in found.cells] == ["budget_exhausted", "interrupted", "not_run", "not_run"]
    assert found.paid.calls == len(transport.answers)
    assert [row.ended for row in found.strategies] == [1, 0]
    resumed = Scripted(model)
    execute(tmp_path / "cut", resumed)
    assert lasting(tmp_path / "cut") == lasting(tmp_path / "whole")
    assert not set(asked_of(resumed)) & {request.digest for request, _ in transport.answers}


def test_a_run_that_fails_loses_no_other_and_goes_on_later(tmp_path: Path) -> None:
    def refuse(request: Request) -> None:
        if "</prompt>" in request.messages[-1].content and made.run and made.run.plan.optimizer_name == "capo":
            raise RunRefused("the quota is used up")

    transport = Scripted(model)
    made: Comparing = comparing(tmp_path / "grid", transport)
    transport.on_request = refuse
    found = asyncio.run(made.execute())
    assert [cell.status for cell in found.cells] == ["failed", "budget_exhausted"] * 2
    assert found.status == "incomplete"
    assert "the quota is used up" in found.cells[0].reason
    assert found.strategies[0].test is None
    assert found.strategies[1].test is not None
    assert found.ranks is None
    assert any(note.startswith("runs without a test score: capo 2 of 2; ") for note in found.notes)
    execute(tmp_path / "grid")
    execute(tmp_path / "whole")
    mended, whole = lasting(tmp_path / "grid"), lasting(tmp_path / "whole")
    assert mended["strategies"][0]["test"] == whole["strategies"][0]["test"]
    assert mended["charged"] == whole["charged"]
    assert mended["paid"] == whole["paid"]


def test_without_scores_each_run_has_its_win_rate_and_nothing_is_ranked(tmp_path: Path) -> None:
    def reader(source: str, seed: int, needs_labels: bool | None) -> ReadTask:
        return ReadTask(replace(climb.unlabelled(), name=source), (), "", {})

    asked = Asked(("mood",), ("spo", climb.CLIMB), (0, 1), replace(SETTINGS, budget=Budget(calls=200)))
    made = Comparing(asked, reader, out=tmp_path, transports={"": climb.transport()})
    found = asyncio.run(made.execute())
    assert found.status == "completed", found.reason
    rates = [cell.gain.win_rate for cell in found.cells if cell.gain is not None]
    assert len(rates) == 4
    assert any(rate is not None and rate > 0.5 for rate in rates)
    assert all(cell.gain and cell.gain.delta is None for cell in found.cells)
    assert (found.ranks, found.pairs, found.curves) == (None, (), ())
    assert [row.test for row in found.strategies] == [None, None]
    assert "mood: without scores; its runs have win rates of their own, and are not ranked" in found.notes
    assert not any("runs without a test score" in note for note in found.notes)
    jsonschema.validate(json.loads(found.to_json()), SCHEMA)


def test_it_ends_where_nobody_answers_and_goes_on_later(tmp_path: Path) -> None:
    def refuse(_: Request) -> None:
        raise ConnectionLost("no route")

    transport = Scripted(model)
    transport.on_request = refuse
    found = execute(tmp_path, transport, seeds=(0, 1, 2))
    assert [cell.status for cell in found.cells] == ["failed"] * 3 + ["not_run"] * 3
    assert found.status == "incomplete"
    assert found.cells[-1].reason.startswith("not begun: the last 3 runs got no answer (")
    assert found.charged.calls == found.paid.calls == 0
    assert execute(tmp_path, None, seeds=(0, 1, 2)).status == "completed"


def test_a_fault_of_a_strategy_is_its_own(tmp_path: Path) -> None:
    found = execute(tmp_path, None, (BROKEN, "random"))
    broken = [cell for cell in found.cells if cell.optimizer == "compared.py:Broken"]
    assert [cell.status for cell in broken] == ["failed", "failed"]
    assert "ZeroDivisionError: division by zero" in broken[0].reason
    assert broken[0].charged is None
    assert sum(cell.attempts for cell in broken) == 3, "the second and the others found its answers there"
    assert sum(cell.paid.calls for cell in found.cells) == found.paid.calls
    assert found.status == "incomplete"
    assert [row.ended for row in found.strategies] == [0, 2]


def test_a_strategy_that_cannot_run_is_said_before_and_the_others_run(tmp_path: Path) -> None:
    small = replace(SETTINGS, budget=Budget(calls=120))
    made = comparing(tmp_path, Scripted(model), ("random", "capo"), settings=small)
    cannot = [cell for cell in made.grid.cells if cell.plan is None]
    assert [cell.optimizer for cell in cannot] == ["capo"] * 2
    assert any("capo cannot run: the budget is too small" in note for note in made.grid.notes)
    found = asyncio.run(made.execute())
    assert [cell.status for cell in found.cells] == ["budget_exhausted", "failed"] * 2
    assert found.cells[1].metric == ""
    assert not (tmp_path / "cells" / "colours" / "capo").exists()


def test_a_strategy_that_cannot_run_everywhere_costs_the_others_no_rank(tmp_path: Path) -> None:
    def reader(source: str, seed: int, needs_labels: bool | None) -> ReadTask:
        if source == "sparse" and needs_labels:
            raise ConfigError("some rows have no label")
        return ReadTask(replace(TASKS["colours"], name=source), (), "", {})

    asked = Asked(("colours", "sparse"), ("spo", climb.CLIMB, "capo"), (0, 1), SETTINGS)
    found = asyncio.run(Comparing(asked, reader, out=tmp_path, transports={"": climb.transport()}).execute())
    assert {cell.data for cell in found.cells if cell.status == "failed"} == {"sparse"}
    assert found.ranks is not None
    assert (sorted(found.ranks.average), found.ranks.n_blocks) == (["climb.py:Climb", "spo"], 4)
    assert [row.average_rank is None for row in found.strategies] == [False, False, True]
    assert [pair.n_blocks for pair in found.pairs] == [4, 2, 2]
    assert any(note.startswith("capo: cannot run on every data set") for note in found.notes)


def test_data_without_labels_leaves_out_what_needs_them() -> None:
    made = comparing(None, Scripted(model), ("capo", "spo"), ("colours", "shades-bare"))
    assert [(cell.data, cell.optimizer) for cell in made.grid.cells if cell.plan is None] == [
        ("shades-bare", "capo"),
        ("shades-bare", "capo"),
    ]
    with pytest.raises(ConfigError, match="data set shades-bare: optimizer 'capo' needs labels"):
        comparing(None, Scripted(model), ("capo", "random"), ("shades-bare",))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"settings": replace(SETTINGS, budget=Budget(calls=200))},
            "budget of each run calls: '170' there, '200' now",
        ),
        (
            {"settings": replace(SETTINGS, budget=Budget(calls=160))},
            "budget of each run calls: '170' there, '160' now",
        ),
        ({"settings": replace(SETTINGS, model="sim:null")}, "model: 'sim' there, 'sim:null' now"),
        ({"settings": replace(SETTINGS, max_tokens=99)}, "max_tokens: None there, 99 now"),
        ({"options": {"capo.max_shots": "1"}}, "options max_shots: '5' there, '1' now"),
    ],
)
def test_another_comparison_is_refused_before_anything_is_asked(
    tmp_path: Path, changes: dict[str, object], says: str
) -> None:
    execute(tmp_path)
    before = (tmp_path / "compare.json").read_bytes()
    transport = Scripted(model)
    with pytest.raises(ConfigError, match=says) as refused:
        execute(tmp_path, transport, **changes)
    assert "choose another --out" in str(refused.value)
    assert not transport.requests
    assert (tmp_path / "compare.json").read_bytes() == before


def test_other_data_or_prompt_under_the_same_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(tmp_path)
    monkeypatch.setitem(TASKS, "colours", replace(TASKS["colours"], dev=TASKS["colours"].dev[1:]))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="data sets colours data: its content differs"):
        execute(tmp_path)


def test_a_second_process_and_other_folders_are_refused(tmp_path: Path) -> None:
    execute(tmp_path / "grid")
    with FileLock(tmp_path / "grid" / ".lock"), pytest.raises(ConfigError, match="in use by another process"):
        execute(tmp_path / "grid")
    with pytest.raises(ConfigError, match="holds a comparison, no run"):
        asyncio.run(make_run(tmp_path / "grid", Scripted(model)).execute())
    execute(tmp_path / "grid")  # the refusal has left nothing that stands in the way
    asyncio.run(make_run(tmp_path / "run", Scripted(model)).execute())
    with pytest.raises(ConfigError, match="holds a run, no comparison"):
        execute(tmp_path / "run")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty"):
        execute(tmp_path / "full")


def test_a_damaged_result_is_made_anew_from_the_journal(tmp_path: Path) -> None:
    first = execute(tmp_path)
    place = tmp_path / "cells" / "colours" / "capo" / "seed-0" / "result.json"
    for damaged in ("{", "[]", '{"status": "completed"}'):
        place.write_text(damaged)
        silent = Scripted(model)
        assert execute(tmp_path, silent).cells == first.cells
        assert not silent.requests
    shutil.rmtree(tmp_path / "cells")
    silent = Scripted(model)
    assert execute(tmp_path, silent).cells == first.cells
    assert not silent.requests


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"optimizers": ("capo",)}, "two strategies or more"),
        ({"optimizers": ("capo", "capo")}, "'capo' stands twice"),
        ({"optimizers": ("capo", "auto")}, "auto' picks another"),
        ({"optimizers": ("capo", "nonsense")}, "'nonsense' is unknown"),
        ({"data": ("colours", "colours")}, "data set 'colours' stands twice"),
        ({"seeds": (1, 1)}, "seed 1 stands twice"),
        ({"options": {"max_demos": "2"}}, "say whose it is, such as capo.max_demos=2"),
        ({"options": {"spo.rounds": "2"}}, "no strategy 'spo' here"),
        ({"options": {"capo.nonsense": "2"}}, "has no option 'nonsense'"),
        ({"blocks": "row"}, "--blocks row"),
        ({"settings": replace(SETTINGS, proof_examples=0)}, "no test score to compare"),
        ({"settings": replace(SETTINGS, budget=Budget(seconds=5))}, "no equal budget"),
        ({"settings": replace(SETTINGS, budget=Budget(calls=2))}, "the budget is too small"),
        ({"seeds": range(20_000)}, "at most 10,000"),
    ],
)
def test_grids_that_make_no_sense_are_refused(asked: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        comparing(None, Scripted(model), **asked)  # type: ignore[arg-type]
