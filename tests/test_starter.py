"""`promptopt init`: files that run as they stand."""

from __future__ import annotations

import json
from pathlib import Path

from commandline import Runner


def test_the_starter_runs_as_it_stands(run: Runner, tmp_path: Path) -> None:
    done = run("init")
    assert done.status == 0
    assert {path.name for path in tmp_path.iterdir()} == {"prompt.md", "data.jsonl", "promptopt.toml"}
    result = run("optimize", "--json", "--budget-calls", 300)
    assert result.status == 0
    assert json.loads(result.out)["status"] in ("completed", "budget_exhausted")
    assert "<!-- keep -->" in json.loads(result.out)["best"]["prompt"]
    assert run("evaluate", "--quiet").status == 0


def test_the_starter_in_a_new_folder(run: Runner) -> None:
    done = run("init", "new/deep")
    assert "next: cd new/deep && promptopt optimize" in done.out
    assert run("optimize", "--config", "new/deep/promptopt.toml", "--dry-run").status == 0


def test_nothing_is_overwritten(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text("mine")
    done = run("init")
    assert done.status == 2
    assert "data.jsonl is there already" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["data.jsonl"]
    (tmp_path / "file").write_text("")
    assert run("init", "file").status == 2
