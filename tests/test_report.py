"""The report: what it reads in a run folder, what its page shows, what it refuses."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import reported
from commandline import Runner
from hypothesis import given
from hypothesis import strategies as st

import promptopt
from promptopt.errors import ConfigError, JournalError
from promptopt.report import write_report
from promptopt.report.difference import pieces
from promptopt.report.front import comparable, pareto_front
from promptopt.report.reading import read_story
from promptopt.report.record import Entry
from promptopt.report.view import page_of
from promptopt.result import Result
from promptopt.result_file import read_result
from promptopt.types import Budget, Candidate, Prompt

TAGS = set(
    re.findall(
        r"\w+",
        "html head meta title style body header nav main footer section script h1 h2 h3 p a b span strong code "
        "pre div ins del br details summary table thead tbody tr th td figure figcaption "
        "svg g path use image defs clippath rect text tspan",
    )
)


@pytest.fixture(scope="module")
def capo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reported.simulated(tmp_path_factory.mktemp("runs") / "capo", "capo", 400)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reported.hostile(tmp_path_factory.mktemp("runs") / "hostile")


@pytest.fixture
def copy(capo: Path, tmp_path: Path) -> Path:
    """Return a copy of a run folder, to be damaged."""
    return shutil.copytree(capo, tmp_path / "copy")


def result_of(folder: Path) -> Result:
    found = read_result(folder)
    assert found is not None
    return found


def select(folder: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(folder / "journal.db")) as db:
        return db.execute(sql).fetchall()


def change(folder: Path, sql: str) -> None:
    with closing(sqlite3.connect(folder / "journal.db")) as db, db:
        assert db.execute(sql).rowcount > 0


class Page(HTMLParser):
    """The elements of a page, and the text that is not style or script."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._inside = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside not in ("style", "script"):
            self.text += data


# What is read -----------------------------------------------------------------------------------------


def test_all_prompts_of_the_run_are_there(capo: Path) -> None:
    story, result = read_story(capo), result_of(capo)
    assert len(story.entries) == select(capo, "SELECT COUNT(*) FROM candidates")[0][0]
    assert story.entries[0].candidate.prompt.instruction in result.initial.prompt
    assert story.best > 0
    best = story.entries[story.best]
    assert best.candidate.prompt.instruction in result.best.prompt
    assert (best.tokens, best.is_accepted) == (result.best.prompt_tokens, True)
    assert result.best.dev is not None
    assert (best.dev, best.n_dev) == (pytest.approx(result.best.dev.score), result.best.dev.n)
    assert sum(entry.n_dev > 0 for entry in story.entries) == result.proposals["tried"] + 1


def test_spend_adds_up_to_the_result(capo: Path) -> None:
    story, result = read_story(capo), result_of(capo)
    for name, known in (("role", result.spend.by_role), ("phase", result.spend.by_phase)):
        for group, spent in known.items():
            rows = [row for row in story.spending if getattr(row, name) == group]
            assert sum(row.calls for row in rows) == spent.calls
            assert sum((row.usd or Decimal(0) for row in rows), Decimal(0)) == spent.cost_usd
            assert sum(row.input_tokens for row in rows) == spent.input_tokens
            assert sum(row.output_tokens for row in rows) == spent.output_tokens
    assert sum(story.attempts.values()) == result.spend.attempts


def test_prompts_are_placed_where_they_were_first_scored(capo: Path) -> None:
    story = read_story(capo)
    n_search = sum(row.calls for row in story.spending if row.phase == "search")
    places = [entry.calls for entry in story.entries if entry.n_dev]
    assert all(place is not None and 0 < place <= n_search for place in places)
    by_birth = [entry.calls for entry in story.entries if entry.calls is not None and entry.parents]
    assert by_birth == sorted(by_birth)
    assert all(entry.usd is not None and entry.usd > 0 for entry in story.entries if entry.n_dev)


def test_races_tell_who_left_when(capo: Path) -> None:
    story = read_story(capo)
    assert len(story.heats) > 1
    n_out = sum(arm.is_out for heat in story.heats for arm in heat.arms)
    assert n_out == select(capo, "SELECT COUNT(*) FROM events WHERE kind = 'elimination'")[0][0]
    for heat in story.heats:
        assert list(heat.looks) == sorted(set(heat.looks))
        assert heat.looks[-1] <= heat.n_pool
        assert sum(not arm.is_out for arm in heat.arms) >= heat.keep
        for arm in heat.arms:
            assert arm.n_seen in heat.looks
            assert (arm.reason in ("beaten", "curtailed")) == arm.is_out
            assert (arm.killer is not None) == arm.is_out


def test_the_lineage_leads_from_the_initial_prompt_with_what_was_written(capo: Path) -> None:
    story = read_story(capo)
    numbers = [step.entry.number for step in story.lineage]
    assert numbers[-1] == story.best
    assert numbers == sorted(numbers)
    assert story.n_ancestors == len(numbers)
    assert all(set(step.entry.parents) <= set(numbers) for step in story.lineage)
    written = [step for step in story.lineage if step.said]
    assert written
    for step in written:
        squeezed = " ".join(step.said[-1].reply.split())
        assert " ".join(step.entry.candidate.prompt.instruction.split()) in squeezed
        assert step.said[-1].asked


def test_changed_examples_have_both_replies(capo: Path) -> None:
    story, result = read_story(capo), result_of(capo)
    proof = result.improvement
    assert proof is not None
    assert [c.example_id for c in story.changes if c.is_fixed] == list(proof.fixed)
    assert [c.example_id for c in story.changes if not c.is_fixed] == list(proof.broken)
    assert story.changes
    texts = {text for (text,) in select(capo, "SELECT text FROM answers")}
    for found in story.changes:
        assert {found.before, found.after} <= texts
        before, after = found.scores
        assert before is not None
        assert after is not None
        assert (after > before) == found.is_fixed
        assert found.example is not None
        assert found.example.id == found.example_id


def test_the_cost_of_using_a_prompt_is_that_of_its_answers_on_test(capo: Path) -> None:
    story, result = read_story(capo), result_of(capo)
    assert story.uses is not None
    assert story.uses_split == "test"
    assert result.best.test is not None
    for use, number in zip(story.uses, (0, story.best), strict=True):
        name = story.entries[number].candidate.id
        sql = (
            "SELECT cost_usd, input_tokens FROM evaluations JOIN answers USING (key) "
            f"WHERE candidate_id = '{name}' AND example_id LIKE 'support-test%'"
        )
        rows = select(capo, sql)
        assert use.n == len(rows) == result.best.test.n
        assert use.usd_per_1000 == 1000 * sum(Decimal(cost) for cost, _ in rows) / len(rows)
        assert use.input_tokens == sum(n for _, n in rows) / len(rows)


def test_a_tree_has_its_nodes_and_their_feedback(tmp_path: Path) -> None:
    story = read_story(reported.simulated(tmp_path / "run", "promptagent", 250))
    assert len(story.twigs) == select(tmp_path / "run", "SELECT COUNT(*) FROM events WHERE kind = 'node'")[0][0]
    depth = {twig.number: twig.depth for twig in story.twigs}
    assert all(twig.parent is None or depth[twig.parent] == twig.depth - 1 for twig in story.twigs)
    assert story.best > 0
    assert all(step.feedback for step in story.lineage[1:])
    page = page_of(story)
    assert "The search tree" in page
    assert page.count("feedback on #") == len(story.lineage) - 1


def test_without_labels_rounds_and_a_win_rate_stand_in_for_scores(tmp_path: Path) -> None:
    folder = reported.simulated(tmp_path / "run", "spo", 300, metric="none")
    story, result = read_story(folder), result_of(folder)
    assert not story.is_scored
    assert all(entry.dev is None for entry in story.entries)
    assert len(story.rounds) == select(folder, "SELECT COUNT(*) FROM events WHERE kind = 'round'")[0][0] > 0
    page = page_of(story)
    assert "dev score" not in Page(page).text
    assert result.improvement is not None
    assert result.improvement.judged is not None
    if result.improvement.judged.win_rate is not None:
        assert "win rate by the judge" in page
    assert "no ground truth" in page


def test_reading_changes_nothing_in_the_folder(copy: Path) -> None:
    def content() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in copy.iterdir()}

    before = content()
    write_report(copy)
    after = content()
    assert after.keys() - before.keys() == {"report.html"}
    assert {name: after[name] for name in before} == before


# The page ---------------------------------------------------------------------------------------------


def test_the_page_stands_alone_and_is_the_same_each_time(capo: Path) -> None:
    text = page_of(read_story(capo))
    assert text == page_of(read_story(capo))
    page = Page(text)
    for tag, attributes in page.tags:
        assert tag in TAGS, tag
        for key, value in attributes.items():
            assert not key.startswith("on")
            assert key != "style"
            if key in ("href", "xlink:href", "src", "action"):
                assert value is not None
                assert value.startswith(("#", "data:image/png;base64,"))
    assert "http://" not in re.sub(r'xmlns(:\w+)?="[^"]+"', "", text)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    goals = {value[1:] for _, attributes in page.tags if (value := attributes.get("href") or "").startswith("#")}
    assert goals <= set(ids)


def test_the_policy_lets_this_style_and_script_alone(capo: Path) -> None:
    text = page_of(read_story(capo))
    policy = next(a["content"] for tag, a in Page(text).tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    for tag in ("style", "script"):
        found = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert len(found) == 1
        digest = base64.b64encode(hashlib.sha256(found[0].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert text.index("Content-Security-Policy") < text.index("<style>")


def test_hostile_text_stays_text(hostile: Path) -> None:
    story = read_story(hostile)
    assert story.best > 0
    assert len(story.lineage) > 2
    assert story.changes
    page = Page(page_of(story))
    tags = [tag for tag, _ in page.tags]
    assert set(tags) <= TAGS
    assert (tags.count("script"), tags.count("style")) == (1, 1)
    for _, attributes in page.tags:
        assert not any(key.startswith("on") for key in attributes)
        assert "javascript:" not in str(attributes.get("href"))
    for payload in reported.PAYLOADS:
        assert payload in page.text
    assert "7777777" not in page.text


def test_what_steers_the_eye_is_shown_as_such(copy: Path) -> None:
    change(copy, "UPDATE candidates SET note = 'safe\u202etxt.exe\u0007' WHERE operator != 'initial'")
    text = page_of(read_story(copy))
    assert "safe\ufffdtxt.exe\ufffd" in text
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x08]", text)


def test_the_headline_and_the_optimism_are_said(capo: Path) -> None:
    text, result = Page(page_of(read_story(capo))).text, result_of(capo)
    assert "SIMULATED MODEL" in text
    assert "dev minus test" in text
    assert result.improvement is not None
    assert result.improvement.smallest_provable is not None
    least = 100 * result.improvement.smallest_provable
    assert f"could have proved is {least:.1f} points" in text
    assert f"n = {result.best.test.n if result.best.test else 0})" in text
    for part in ("per 1,000 uses", "calls saved by racing", "cache", "promptopt replay"):
        assert part in text


def test_no_significant_gain_is_said_plainly(tmp_path: Path) -> None:
    folder = reported.simulated(tmp_path / "run", "random", 150, model="sim:null")
    result = result_of(folder)
    assert result.improvement is not None
    assert result.improvement.verdict == "not_proven"
    text = Page(page_of(read_story(folder))).text
    assert "No significant improvement" in text
    assert "There is no significant improvement on" in text
    assert "could have proved" in text


def test_an_unfinished_run_has_no_proof_yet(copy: Path) -> None:
    (copy / "result.json").unlink()
    (copy / "best.md").unlink()
    story = read_story(copy)
    assert story.result is None
    assert story.best == story.proposals[-1]
    text = Page(page_of(story)).text
    assert "No proof yet" in text
    assert "the run has not ended" in text
    assert "Proven" not in text


def test_a_run_that_never_asked_anything_has_a_page(copy: Path) -> None:
    for name in ("answers", "uses", "evaluations", "candidates", "steps", "attempts", "sessions"):
        change(copy, f"DELETE FROM {name}")
    change(copy, "DELETE FROM events WHERE kind NOT IN ('brief', 'settings')")
    (copy / "result.json").unlink()
    story = read_story(copy)
    assert (len(story.entries), story.best) == (1, 0)
    assert "No proof yet" in page_of(story)


def test_without_matplotlib_all_but_the_plots_is_there(capo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    story = read_story(capo)
    drawn = Page(page_of(story))
    monkeypatch.setattr("promptopt.report.drawing.can_draw", lambda: False)
    bare = Page(page_of(story))
    assert not any(tag == "svg" for tag, _ in bare.tags)
    assert "pip install 'promptopt-suite[report]'" in bare.text
    rows = [sum(tag == "tr" for tag, _ in page.tags) for page in (drawn, bare)]
    assert rows[0] == rows[1] > 20


def test_thousands_of_prompts_make_a_small_page(tmp_path: Path) -> None:
    folder = reported.simulated(tmp_path / "run", "random", 120)
    reported.grow(folder, 1200, n_dev=3)
    story = read_story(folder)
    assert len(story.entries) > 1200
    text = page_of(story)
    assert len(text) < 1_500_000
    page = Page(text)
    assert sum(tag == "image" for tag, _ in page.tags) == 3
    table = [a for tag, a in page.tags if tag == "tr" and str(a.get("id")).startswith("c")]
    assert len(table) == 500
    on_front = len(pareto_front(story.entries))
    accepted = {0, *story.proposals, story.best}
    titles = sum(tag == "title" for tag, _ in page.tags) - 1
    assert 2 * len(accepted) + on_front <= titles <= 2 * len(accepted) + on_front + 2


# Parts ------------------------------------------------------------------------------------------------

SCORES = st.lists(st.tuples(st.integers(0, 20), st.integers(1, 9), st.integers(0, 4)), min_size=1, max_size=30)


def entry(number: int, dev: int, tokens: int, n_dev: int) -> Entry:
    made = Candidate(Prompt(f"prompt {number}"))
    return Entry(number, made, (), dev / 20 if n_dev else None, n_dev, tokens, None, None, False)


@given(SCORES)
def test_nothing_comparable_beats_the_front(rows: list[tuple[int, int, int]]) -> None:
    entries = [entry(i, *row) for i, row in enumerate(rows)]
    front = pareto_front(entries)
    assert [e.tokens for e in front] == sorted({e.tokens for e in front})
    assert [e.dev for e in front] == sorted({e.dev for e in front if e.dev is not None})
    for other in comparable(entries):
        assert other.dev is not None
        assert any(e.tokens <= other.tokens and (e.dev or 0) >= other.dev for e in front)


@given(st.text(alphabet="ab \n", max_size=60), st.text(alphabet="ab \n", max_size=60))
def test_the_difference_holds_both_texts(before: str, after: str) -> None:
    found = pieces(before, after)
    assert "".join(p.text for p in found if p.kind != "added") == before
    assert "".join(p.text for p in found if p.kind != "removed") == after


def test_the_difference_of_long_texts_holds_both(  # where the matcher would take minutes
) -> None:
    before, after = "a b " * 40_000, "a b " * 100 + "c " + "b a " * 40_000
    found = pieces(before, after)
    assert "".join(p.text for p in found if p.kind != "added") == before
    assert "".join(p.text for p in found if p.kind != "removed") == after


# What is refused --------------------------------------------------------------------------------------

DAMAGES = {
    "score that is a text": "UPDATE evaluations SET value = 'high'",
    "score above 1": "UPDATE evaluations SET value = 7",
    "event that is no JSON": "UPDATE events SET payload = '{' WHERE kind = 'proposal'",
    "event that is a list": "UPDATE events SET payload = '[1]' WHERE kind = 'proposal'",
    "brief without rows": "UPDATE events SET payload = '{}' WHERE kind = 'brief'",
    "hold-out above all": "UPDATE events SET payload = '{\"held_out\": 10000000}' WHERE kind = 'size'",
    "no brief": "DELETE FROM events WHERE kind = 'brief'",
    "configuration that is a list": "UPDATE runs SET config = '[]'",
    "no run": "DELETE FROM runs",
    "cost that is no number": "UPDATE answers SET cost_usd = 'much'",
    "endless cost": "UPDATE answers SET cost_usd = 'Infinity'",
    "demonstrations that are a number": "UPDATE candidates SET demos = '3'",
    "text that is none": "UPDATE candidates SET instruction = x'ff00'",
    "answer that is none": "UPDATE answers SET text = x'ff00'",
    "no table": "ALTER TABLE evaluations RENAME TO others",
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_journal_is_one_error(name: str, copy: Path, run: Runner) -> None:
    with closing(sqlite3.connect(copy / "journal.db")) as db, db:
        db.execute(DAMAGES[name])
    done = run("report", copy)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert not (copy / "report.html").exists()


ODD_EVENTS = (
    {"kind": "race", "payload": {"candidates": "x", "blocks": 3}},
    {"kind": "race", "payload": {"candidates": ["unknown", 3], "blocks": [None], "keep": -1}},
    {"kind": "block", "payload": {"n": "many", "gone": 3}},
    {"kind": "node", "payload": {"candidate": 3, "depth": -1, "reward": "x"}},
    {"kind": "round", "payload": {"round": "x", "wins": [], "candidate": {}}},
    {"kind": "elimination", "payload": {"candidate": [], "n": {}}},
    {"kind": "candidate refused", "payload": {"reason": ["x"]}},
    {"kind": "proposal", "payload": {"candidate": ["x"]}},
)


def test_odd_events_of_a_strategy_are_skipped(copy: Path) -> None:
    before = read_story(copy)
    with closing(sqlite3.connect(copy / "journal.db")) as db, db:
        for i, event in enumerate(ODD_EVENTS):
            row = (1, "77", 900 + i, event["kind"], json.dumps(event["payload"]))
            db.execute("INSERT INTO events VALUES (?,?,?,?,?)", row)
    after = read_story(copy)
    assert (after.heats, after.twigs, after.proposals) == (before.heats, before.twigs, before.proposals)
    page_of(after)


RESULTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "a list": lambda fields: [],
    "a number": lambda fields: 3,
    "no prompts": lambda fields: {**fields, "best": None},
    "a score that is a text": lambda fields: {**fields, "improvement": {**fields["improvement"], "delta": "x"}},
    "an unknown status": lambda fields: {**fields, "status": "<script>"},
    "a field less": lambda fields: {key: value for key, value in fields.items() if key != "spend"},
}


@pytest.mark.parametrize("name", RESULTS)
def test_a_damaged_result_is_one_error(name: str, copy: Path, run: Runner) -> None:
    fields = json.loads((copy / "result.json").read_text(encoding="utf-8"))
    (copy / "result.json").write_text(json.dumps(RESULTS[name](fields)), encoding="utf-8")
    done = run("report", copy)
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert "result.json" in done.err


@pytest.mark.parametrize("text", ["", "{", '{"status": NaN}', "[" * 100_000, "\x00"])
def test_a_result_that_is_no_json_is_one_error(text: str, copy: Path) -> None:
    (copy / "result.json").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"result\.json"):
        read_story(copy)


def test_a_folder_without_a_run_is_one_error(tmp_path: Path, run: Runner) -> None:
    (tmp_path / "foreign").mkdir()
    with closing(sqlite3.connect(tmp_path / "foreign/journal.db")) as db, db:
        db.execute("CREATE TABLE runs (x)")
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut/journal.db").write_bytes(b"SQLite format 3\x00" + b"\x00" * 9)
    for name in ("nowhere", ".", "foreign", "cut"):
        done = run("report", tmp_path / name)
        assert (done.status, done.err.count("\n")) == (2, 1), done.err
        assert not list(tmp_path.rglob("report.html"))


def test_the_result_comes_back_as_it_was_written(capo: Path, hostile: Path) -> None:
    for folder in (capo, hostile):
        assert result_of(folder).to_json() == (folder / "result.json").read_text(encoding="utf-8")


# Commands, Python and notebooks -----------------------------------------------------------------------


def test_optimize_leaves_the_page_and_report_writes_it_again(run: Runner, tmp_path: Path) -> None:
    options = ("--data", "support", "--model", "sim", "--optimizer", "random", "--budget-calls", "120")
    done = run("optimize", reported.SUPPORT, *options, "--out", "x")
    assert done.status == 0
    assert "x/report.html" in done.out
    first = (tmp_path / "x/report.html").read_bytes()
    again = run("report", "x", "--out", "deep/page.html")
    assert (again.status, again.out) == (0, "wrote deep/page.html\n")
    assert (tmp_path / "deep/page.html").read_bytes() == first
    blocked = run("report", "x", "--out", "x/journal.db/page.html")
    assert (blocked.status, blocked.err.count("\n")) == (1, 1)


def test_a_page_that_fails_never_loses_the_result(
    run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> str:
        raise ZeroDivisionError("a plot stumbled")

    monkeypatch.setattr("promptopt.report.view.page_of", fail)
    options = ("--data", "support", "--model", "sim", "--optimizer", "random", "--budget-calls", "120")
    done = run("optimize", reported.SUPPORT, *options, "--out", "x", "--json")
    assert done.status == 0
    assert json.loads(done.out) == json.loads((tmp_path / "x/result.json").read_text(encoding="utf-8"))
    assert "the report was not written (ZeroDivisionError: a plot stumbled)" in done.err
    with pytest.warns(RuntimeWarning, match="the report was not written"):
        found = promptopt.optimize(
            reported.SUPPORT, "support", model="sim", optimizer="random", budget=Budget(calls=120), out="y"
        )
    assert found.status in ("completed", "budget_exhausted")
    assert not list(tmp_path.rglob("report.html"))


def test_python_may_go_without_a_page(tmp_path: Path) -> None:
    assert not (reported.simulated(tmp_path / "run", "random", 100) / "report.html").exists()


def test_a_result_shows_itself_in_notebooks(capo: Path, hostile: Path) -> None:
    html = result_of(capo)._repr_html_()
    assert "SIMULATED MODEL" in html
    assert "points on" in html
    assert "<ins>" in html
    page = Page(result_of(hostile)._repr_html_())
    assert {tag for tag, _ in page.tags} <= TAGS - {"script", "style", "svg"}
    assert reported.PAYLOADS[0] in page.text


def test_a_result_becomes_a_table_of_its_prompts(capo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result, story = result_of(capo), read_story(capo)
    frame = result.to_dataframe()
    assert frame["number"].tolist() == list(range(len(story.entries)))
    best = frame[frame["is_best"]]
    assert best["prompt"].tolist() == [result.best.prompt]
    assert result.best.dev is not None
    assert best["dev_score"].tolist() == [pytest.approx(result.best.dev.score)]
    assert int(frame["n_dev"].max()) <= result.task["dev"]
    monkeypatch.setattr("promptopt.report.notebook.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install pandas"):
        result.to_dataframe()


def test_a_page_that_cannot_be_written_says_so(capo: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match="choose another place"):
        write_report(capo, tmp_path / "file" / "page.html")
    (tmp_path / "folder").mkdir()
    with pytest.raises(JournalError):
        write_report(capo, tmp_path / "folder")
