"""`promptopt compare` as it is typed: figures, files, wrong use, hostile names, Ctrl-C."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import jsonschema
import pytest
from commandline import SUPPORT, Runner, rows
from compared import BROKEN
from served import COMMAND

from promptopt import api
from promptopt.errors import ConfigError
from promptopt.result import Spent
from promptopt.types import Budget

ROOT = Path(__file__).parent.parent
SCHEMA = json.loads((ROOT / "docs" / "compare.schema.json").read_text(encoding="utf-8"))
QUICK = ("--model", "sim", "--seeds", 2, "--budget-calls", 160, "--concurrency", 4)


def words(*extra: object, data: tuple[object, ...] = ("support",), optimizers: str = "random,spo") -> list[object]:
    named = [word for name in data for word in ("--data", name)]
    return ["compare", SUPPORT, *named, "--optimizers", optimizers, *QUICK, *extra]


def found_in(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "compare.json").read_text(encoding="utf-8"))
    jsonschema.validate(found, SCHEMA)
    return found


def test_compares_and_leaves_files(run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    done = run(*words("--out", "grid"))
    assert done.status == 0, done.err
    lines = done.out.splitlines()
    assert lines[0] == "SIMULATED MODEL: these figures say nothing about a real one."
    assert lines[1] == "completed: every run has ended"
    assert (
        "Test scores, mean over 1 data set and 2 seeds, with 95% intervals (n: scores of single examples):"
        in lines
    )
    assert re.search(r"^random +\d+\.\d% \(\d+\.\d-\d+\.\d\) +\d+ ", done.out, re.MULTILINE)
    assert re.search(r"charged as if each ran alone: (\d+) calls, \$\d.*; paid: (\d+) calls", done.out)
    assert "[4/4] support/spo/seed-1:" in done.err
    assert "2 blocks (data sets x seeds) cannot prove any difference between 2 strategies" in done.err
    found = found_in(tmp_path / "grid")
    assert found["is_simulated"] is True
    with (tmp_path / "grid" / "compare.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 4
    assert {row["simulated_roles"] for row in table} == {"task optimizer judge"}
    for row, cell in zip(table, found["cells"], strict=True):  # type: ignore[call-overload]
        assert float(row["best_test"]) == cell["best"]["test"]["score"]
        assert int(row["charged_calls"]) == cell["charged"]["calls"]
        assert int(row["paid_calls"]) == cell["paid"]["calls"]
    again = run(*words("--out", "grid", "--json"))
    assert again.status == 0
    assert again.err == ""
    assert json.loads(again.out)["cells"] == found["cells"]
    replayed = run("replay", "grid/cells/support/random/seed-1")
    assert (replayed.status, replayed.out.split(":")[0]) == (0, "identical")
    assert run("replay", "grid").status == 2


def test_dry_run_shows_the_whole_grid_and_makes_nothing(run: Runner, tmp_path: Path) -> None:
    done = run(*words("--out", "grid", "--dry-run", data=("support", ROOT / "tasks" / "support" / "train.jsonl")))
    assert done.status == 0
    assert "forecast of 8 runs: about " in done.out
    assert re.search(r"^all +8 +[\d,]+ +\$\d", done.out, re.MULTILINE)
    assert re.search(r"^train +spo +2 ", done.out, re.MULTILINE)
    assert list(tmp_path.iterdir()) == []


def test_options_and_prompts_of_their_own(run: Runner, tmp_path: Path) -> None:
    sums = ROOT / "tasks" / "sums" / "prompt.md"
    options = ("--prompt", f"sums={sums}", "--set", "random.n_dev=12", "--seed", 7, "--blocks", "data")
    done = run(*words("--out", "grid", *options, "--proof-examples", 8, data=("support", "sums")))
    assert done.status == 0, done.err
    found = found_in(tmp_path / "grid")
    assert found["seeds"] == [7, 8]
    assert found["blocks"] == "data sets"
    assert found["strategies"][0]["options"]["n_dev"] == "12"  # type: ignore[index]
    assert {cell["data"] for cell in found["cells"]} == {"support", "sums"}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (("--data", "nonsense"), "no such file or folder"),
        (("--data", "support"), "data set 'support' stands twice"),
        (("--data", "sums"), r"data set sums: .*\{\{message\}\} names no column.*--prompt sums=FILE"),
        (("--prompt", "sums=x.md"), "--prompt sums=x.md: write it as DATA=FILE"),
        (("--prompt", "support=no.md"), "no.md"),
        (("--set", "n_dev=3"), "say whose it is"),
        (("--blocks", "rows"), "--blocks rows"),
        (("--budget-usd", "free"), "--budget-usd is 'free'"),
        (("--dry-run", "--json"), "--dry-run has no result"),
        (("--out", "file"), "is a file, not a folder"),
        (("--out", "full"), "is not empty"),
    ],
)
def test_wrong_use_is_one_message_and_spends_nothing(
    run: Runner, tmp_path: Path, extra: tuple[object, ...], says: str
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    out = () if "--out" in extra else ("--out", "here")
    done = run(*words("--quiet", *out, *extra))
    assert done.status == 2
    assert done.out == ""
    assert re.fullmatch(r"error: [^\n]*\n", done.err), done.err
    assert re.search(says, done.err), done.err
    assert not (tmp_path / "here" / "journal.db").exists()


def test_strategies_of_one_name_and_unequal_budgets_are_refused(run: Runner) -> None:
    assert "'random' stands twice" in run(*words(optimizers="random,random")).err
    assert "a comparison needs two strategies or more" in run(*words(optimizers="random")).err
    assert "picks another strategy" in run(*words(optimizers="random,auto")).err
    assert "No such option: --budget-seconds" in run(*words("--budget-seconds", 5)).err


def test_names_of_strangers_steer_neither_terminal_nor_spreadsheet(run: Runner, tmp_path: Path) -> None:
    names = ("=1+1.csv", "\x1b[31m\u202ered.csv")
    for name in names:
        (tmp_path / name).write_text(rows())
    (tmp_path / "p.md").write_text("Name the colour of {{item}}.")
    options = [word for name in names for word in ("--data", name)]
    plain = ["compare", "p.md", *options, "--optimizers", f"random,{BROKEN}", *QUICK, "--out", "grid"]
    done = run(*plain)
    assert done.status == 1, done.err
    assert "error: 4 of 8 runs have ended; 1+1/compared.py-Broken/seed-0: " in done.err
    text = (tmp_path / "grid" / "compare.csv").read_text(encoding="utf-8")
    for shown in (done.out, done.err, text, (tmp_path / "grid" / "compare.json").read_text(encoding="utf-8")):
        assert "\x1b" not in shown
        assert "\u202e" not in shown
    with (tmp_path / "grid" / "compare.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 8
    assert not [value for row in table for value in row.values() if re.match(r"[=@\t\r\n]", value)]
    assert table[0]["data"] == "'=1+1"
    assert not [v for row in table for k, v in row.items() if v[:1] in "+-" and v and k in ("data", "reason")]
    assert "ZeroDivisionError: division by zero" in done.out
    places = sorted(path.name for path in (tmp_path / "grid" / "cells").iterdir())
    assert places == ["1+1", "31m-red"]
    found_in(tmp_path / "grid")


def test_ctrl_c_ends_it_orderly_and_it_goes_on(tmp_path: Path) -> None:
    command = [str(word) for word in (COMMAND, *words("--out", tmp_path / "grid"))]
    command[command.index("--seeds") + 1] = "6"
    command[command.index("--budget-calls") + 1] = "1000"
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "grid" / "cells" / "support" / "random" / "seed-0" / "result.json").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert re.search(r"interrupted: \d+ of 12 runs have ended; the same command", out)
    statuses = [cell["status"] for cell in found_in(tmp_path / "grid")["cells"]]  # type: ignore[attr-defined]
    assert "not_run" in statuses
    assert re.search(r"^\d+ runs not begun$", out, re.MULTILINE)
    assert statuses[0] in ("completed", "budget_exhausted")


def test_python_gives_the_same(run: Runner, tmp_path: Path) -> None:
    options = {"random": {"n_dev": 12}}
    made = {"model": "sim", "seeds": 1, "budget": Budget(calls=160), "options": options, "out": tmp_path / "grid"}
    found = api.compare(SUPPORT, ["support"], optimizers=["random", "spo"], **made)  # type: ignore[arg-type]
    assert found.status == "completed"
    assert isinstance(found.paid, Spent)
    assert found.out == str(tmp_path / "grid")
    assert "SIMULATED MODEL" in (tmp_path / "grid" / "compare.html").read_text(encoding="utf-8")
    assert json.loads(found.to_json()) == found_in(tmp_path / "grid")
    assert any(note.startswith("one seed:") for note in found.notes)
    with pytest.raises(ConfigError, match="are lists"):
        api.compare(SUPPORT, "support", optimizers=["random", "spo"], model="sim")
    with pytest.raises(ConfigError, match="no setting 'optimiser'"):
        api.compare(SUPPORT, ["support"], optimizers=["random", "spo"], model="sim", optimiser="x")
    with pytest.raises(ConfigError, match="prompts name 'sums'"):
        api.compare(SUPPORT, ["support"], optimizers=["random", "spo"], model="sim", prompts={"sums": "x"})
