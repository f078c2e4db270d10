"""The page of a comparison: every figure with its unit and number, and nothing that runs or loads."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from commandline import SUPPORT, Runner
from compared import BROKEN, execute

from promptopt.comparison import CompareResult
from promptopt.contrast import Ranks
from promptopt.report import compare_figures, drawing
from promptopt.report.compare_view import page_of

HOSTILE = "</script><script>alert(1)</script>$\\frac$\x1b[31m\u202e"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> CompareResult:
    return execute(tmp_path_factory.mktemp("page"), None, ("capo", "random", BROKEN), ("colours", "shades"))


class Reader(HTMLParser):
    """Reads a page's text, and counts what might run or load."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.scripts, self.links = "", 0, list[str]()
        self.ids: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.ids += [value or "" for key, value in attrs if key == "id"]
        self.links += [value or "" for key, value in attrs if key in ("src", "href", "action") and value]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_shows_every_figure_with_its_number(found: CompareResult) -> None:
    page = Reader(page_of(found))
    text = " ".join(page.text.split())
    assert "SIMULATED MODEL: these figures say nothing about a real one." in text
    assert "SIMULATED:" in text[:200]
    for cell in found.cells:
        assert cell.cell in text
        if cell.best is not None and cell.best.test is not None:
            assert f"{100 * cell.best.test.score:.1f}% (" in text
            assert f"n = {cell.best.test.n})" in text
    for note in found.notes:
        assert note in text
    assert "ZeroDivisionError" in text
    assert f"{found.charged.calls:,}" in text
    assert f"{found.paid.calls:,}" in text
    assert {"strategies", "pairs", "curves", "runs", "spend", "settings"} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert all(link.startswith("#") for link in page.links)
    assert page.scripts == 1
    assert len(re.findall(r"<svg ", page_of(found))) == 4


def test_hostile_text_stays_text(found: CompareResult) -> None:
    row = replace(found.strategies[0], optimizer=HOSTILE, source=HOSTILE, options={HOSTILE: HOSTILE})
    cell = replace(found.cells[0], cell=HOSTILE, status="failed", reason=HOSTILE)
    data = {HOSTILE: {"metric": HOSTILE, "train": 1, "dev": 1, "test": 1}}
    curve = replace(found.curves[0], data=HOSTILE, optimizer=HOSTILE)
    ranks = Ranks({HOSTILE: 1.2, "b": 1.8}, 5, None, None, 0.9, ((HOSTILE, "b"),))
    hostile = replace(
        found,
        reason=HOSTILE,
        strategies=(row, *found.strategies[1:]),
        cells=(cell,),
        data=data,
        curves=(curve,),
        ranks=ranks,
        notes=(HOSTILE,),
    )
    page = page_of(hostile)
    assert Reader(page).scripts == 1
    assert "\x1b" not in page
    assert "\u202e" not in page
    for drawn in re.findall(r"<svg .*?</svg>", page, re.DOTALL):
        assert "alert(1)" not in drawn


def test_stands_without_plots_and_without_scores(found: CompareResult, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "can_draw", lambda: False)
    page = page_of(found)
    assert "<svg" not in page
    assert "once matplotlib is installed" in page
    monkeypatch.undo()
    bare: dict[str, Any] = {"strategies": (), "ranks": None, "pairs": (), "cells": (), "curves": ()}
    empty = Reader(page_of(replace(found, **bare)))
    assert "No test scores" in empty.text
    assert "No ranks: fewer than two strategies have test scores." in empty.text


@pytest.mark.parametrize("n", [2, 3, 8])
def test_critical_difference_is_drawn_for_any_number(n: int) -> None:
    average = {f"strategy-{i}": 1 + i * (n - 1) / max(1, n - 1) for i in range(n)}
    groups = (tuple(average),)
    for distance in (0.7, 99.0, None):
        drawn = compare_figures.critical_difference(Ranks(average, 6, None, None, distance, groups))
        assert all(f"strategy-{i}" in drawn for i in range(n))
        assert bool(re.search(r"critical difference \d", drawn)) == (distance is not None)


def test_the_command_writes_it(run: Runner, tmp_path: Path) -> None:
    words = ("--optimizers", "random,spo", "--model", "sim", "--seeds", 1, "--budget-calls", 160, "--out", "grid")
    done = run("compare", SUPPORT, "--data", "support", *words)
    assert done.status == 0, done.err
    page = (tmp_path / "grid" / "compare.html").read_text(encoding="utf-8")
    assert "SIMULATED MODEL" in page
    assert "compare.html" in done.out


def test_is_written_anew_from_the_folder(found: CompareResult, run: Runner) -> None:
    assert found.out is not None
    place = Path(found.out)
    done = run("report", place)
    assert done.status == 0, done.err
    assert (place / "compare.html").read_text(encoding="utf-8") == page_of(found)
    cell = place / "cells" / found.cells[0].cell
    assert run("report", cell).status == 0
    assert found.cells[0].optimizer in (cell / "report.html").read_text(encoding="utf-8")
    whole = (place / "compare.json").read_text(encoding="utf-8")
    lacking, wrong = whole.replace('"pairs"', '"pears"'), whole.replace('"n_blocks": ', '"n_blocks": NaN, "x": ')
    for damaged in ("{", "[]", lacking, wrong):
        (place / "compare.json").write_text(damaged, encoding="utf-8")
        refused = run("report", place)
        assert (refused.status, refused.out) == (2, "")
        assert re.fullmatch(r"error: [^\n]*compare.json [^\n]*\n", refused.err), refused.err
    (place / "compare.json").write_text(whole, encoding="utf-8")
