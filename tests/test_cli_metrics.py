"""Metrics, the answer's place and plug-ins on the command line: what a user sees, and wrong use of each."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from commandline import SUPPORT, Runner, Wrong, check_refused, optimize, rows
from test_plugin import CODE

SCHEMA = '{"type": "object", "required": ["kind"]}'
ANSWER = r"(?is)(?:answer:\s*|^)([a-z]+)\W*$"  # what the simulator's replies end with


@pytest.fixture(autouse=True)
def files(tmp_path: Path) -> None:
    """Write the files that the cases name."""
    (tmp_path / "own.py").write_text(CODE)
    (tmp_path / "bad.py").write_text("x = 1\nimport no_such_thing\n")
    (tmp_path / "exit.py").write_text("\nraise SystemExit(0)\n")
    (tmp_path / "s.json").write_text(SCHEMA)
    (tmp_path / "none.json").write_text('{"type": "objekt"}')
    (tmp_path / "far.json").write_text('{"$ref": "https://example.org/s.json"}')


def data(target: str) -> str:
    """Return data of which one row has another target."""
    return rows(f'one more,"{target}"')


WRONG = [
    Wrong(
        "bad regex", r"data\.csv: .*target 'r\(' of row '\w+-62' .*missing \)", "--metric regex", data=data("r(")
    ),
    Wrong("regex option", r"regex has no 'full'; valid: search", "--metric regex:full"),
    Wrong("useless option", r"f1 takes nothing after a colon; write f1", "--metric f1:macro"),
    Wrong("rouge option", r"rouge has no 'rougeX'; did you mean 'rouge", "--metric rouge:rougeX"),
    Wrong("rouge script", r"'привет' of row .*no word of a-z", "--metric rouge", data=data("привет")),
    Wrong("bleu option", r"bleu has no 'smooth'; valid: add-k, exp, floor, none", "--metric bleu:smooth"),
    Wrong("no schema named", r"metric 'json-schema' needs a file", "--metric json-schema"),
    Wrong("no schema file", r"'json-schema:gone\.json': cannot read gone\.json", "--metric json-schema:gone.json"),
    Wrong("schema no JSON", r"own\.py:2:1: not JSON", "--metric json-schema:own.py"),
    Wrong("no schema", r"none\.json: is no JSON Schema .*'objekt'", "--metric json-schema:none.json"),
    Wrong("schema far away", r"far\.json: it refers to 'https://example.org", "--metric json-schema:far.json"),
    Wrong(
        "schema in the file",
        r"prompt\.md:2: metric 'json-schema:x\.json': cannot read",
        prompt="---\nmetric: json-schema:x.json\n---\nx {{item}}",
    ),
    Wrong("bad answer pattern", r"--answer-pattern: '\(' is no regular expression", "--answer-pattern ("),
    Wrong("no group", r"'answer' has 0 groups; put one pair", "--answer-pattern answer"),
    Wrong("two groups", r"has 2 groups", "--answer-pattern (a)(b)"),
    Wrong("pattern of no use", r"the metric 'none' looks for no answer", "--answer-pattern (a) --metric none"),
    Wrong("pattern for a function", r"looks for no answer", "--answer-pattern (a) --metric own.py:polite"),
    Wrong(
        "pattern in the file",
        r"prompt\.md:3: --answer-pattern: 'x' has 0 groups",
        prompt="---\nmetric: exact\nanswer-pattern: x\n---\nx {{item}}",
    ),
    Wrong("no metric module", r"metric 'acme\.x:f': there is no module 'acme'", "--metric acme.x:f"),
    Wrong("no such function", r"own\.py has no 'polit'; did you mean 'polite'", "--metric own.py:polit"),
    Wrong("no function", r"Half is no function; write def Half", "--metric own.py:Half"),
    Wrong("metric breaks", r"bad\.py:2 cannot be imported \(ModuleNotFoundError", "--metric bad.py:f"),
    Wrong("metric exits", r"exit\.py:2 cannot be imported \(SystemExit: 0\)", "--metric exit.py:f"),
    Wrong("strategy breaks", r"bad\.py:2 cannot be imported \(ModuleNotFoundError", "--optimizer bad.py:F"),
    Wrong("no strategy module", r"optimizer 'acme:Own': there is no module 'acme'", "--optimizer acme:Own"),
    Wrong("no strategy in it", r"'own\.py:colours' must be a dataclass", "--optimizer own.py:colours"),
    Wrong("task breaks", r"bad\.py:2 cannot be imported \(ModuleNotFoundError", data_path="bad.py:f"),
    Wrong("task raises", r"own\.py:\d+ raised IndexError: list index out of range", data_path="own.py:broken"),
    Wrong("no task", r"own\.py gives int there; name a promptopt\.Task", data_path="own.py:wrong"),
    Wrong(
        "no task file",
        r"--data 'ow\.py:colours': there is no file ow\.py; did you mean 'own\.py'",
        data_path="ow.py:colours",
    ),
    Wrong("no task module", r"--data 'acme:colours': there is no module 'acme'", data_path="acme:colours"),
    Wrong(
        "task with options",
        r"--metric: only for data; the Task 'own\.py:colours'",
        "--metric exact",
        data_path="own.py:colours",
    ),
]


@pytest.mark.parametrize("case", WRONG, ids=lambda case: case.name.replace(" ", "-"))
def test_wrong_input(case: Wrong, run: Runner, tmp_path: Path, endpoint: tuple[str, list[str]]) -> None:
    check_refused(case, run, tmp_path, endpoint)


@pytest.mark.parametrize("metric", ["rouge", "bleu"])
def test_an_absent_extra_is_one_message(
    metric: str, run: Runner, tmp_path: Path, endpoint: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("rouge_score.rouge_scorer", "sacrebleu.metrics.bleu"):
        monkeypatch.setitem(sys.modules, module, None)
    case = Wrong(metric, r"is not installed; install it with: pip install", f"--metric {metric}")
    check_refused(case, run, tmp_path, endpoint)


def test_macro_f1_stands_beside_the_score(run: Runner, tmp_path: Path) -> None:
    done = run(*optimize("--budget-calls", 400, "--out", "here"))
    result = json.loads((tmp_path / "here/result.json").read_text())
    values = (result["initial"]["macro_f1"], result["best"]["macro_f1"])
    shown = next(line.split() for line in done.out.splitlines() if line.startswith("test macro-F1"))
    assert shown[2:] == [f"{100 * value:.1f}%" for value in values]
    assert "macro-F1" not in run(*optimize("--budget-calls", 400, "--metric", "f1")).out


@pytest.mark.parametrize(
    "metric", ["f1", "rouge", "bleu", "contains", "contains:all", "regex", "json-schema:s.json"]
)
def test_every_metric_runs(run: Runner, tmp_path: Path, metric: str) -> None:
    done = run(*optimize("--metric", metric, "--budget-calls", 300, "--json"))
    result = json.loads(done.out)
    assert (done.status, result["task"]["metric"]) == (0, metric)
    assert 0 <= result["initial"]["test"]["score"] <= result["best"]["test"]["score"] <= 1


def test_the_answers_place_is_a_users_to_say(run: Runner, tmp_path: Path) -> None:
    plain = json.loads(run(*optimize("--budget-calls", 400, "--json")).out)
    words = ("--answer-pattern", ANSWER, "--budget-calls", 400, "--out", "here")
    given = json.loads(run(*optimize(*words, "--json")).out)
    assert given["initial"]["test"]["score"] == pytest.approx(plain["initial"]["test"]["score"], abs=0.1)
    never = json.loads(run(*optimize("--answer-pattern", "(never said)", "--budget-calls", 400, "--json")).out)
    assert never["best"]["test"]["score"] == 0
    assert never["unparsed"] == never["spend"]["by_role"]["task"]["calls"]
    done = run(*optimize("--budget-calls", 400, "--out", "here"))
    assert done.status == 2
    assert f"answer pattern: {ANSWER!r} there, None now" in done.err
    said = Path("here/config.toml").read_text()
    command = next(line for line in said.splitlines() if line.startswith("command"))
    assert "--answer-pattern" in command
    front = f"---\nmetric: label\nanswer-pattern: {ANSWER}\n---\n"
    (tmp_path / "own.md").write_text(front + SUPPORT.read_text().split("---\n", 2)[-1])
    own = json.loads(run(*optimize("--budget-calls", 400, "--json", prompt="own.md")).out)
    assert own["initial"]["test"] == given["initial"]["test"]


def test_a_task_of_a_file_is_optimized_and_resumed(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "prompt.md").write_text("Name the colour of {{item}}.")
    command = optimize("--budget-calls", 300, "--out", "here", prompt="prompt.md", data="own.py:colours")
    assert run(*command).status == 0
    said = next(line for line in Path("here/config.toml").read_text().splitlines() if line.startswith("command"))
    assert "own.py:colours" in shlex.split(said.partition(" = ")[2].strip('"'))
    assert run(*command).status == 0
    (tmp_path / "own.py").write_text(CODE + "# other\n")
    done = run(*command)
    assert done.status == 2
    assert "task file: its content differs" in done.err


def test_a_run_of_plug_ins_gets_a_folder_of_a_plain_name(run: Runner, tmp_path: Path) -> None:
    done = run(*optimize("--budget-calls", 200, "--quiet", "--optimizer", tmp_path / "own.py:Own"))
    assert done.status == 0
    folders = list((tmp_path / "runs").iterdir())
    assert len(folders) == 1
    assert (folders[0] / "result.json").exists()


def test_installed_plug_ins_are_listed_and_used(tmp_path: Path) -> None:
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme/__init__.py").write_text("")
    (tmp_path / "acme/parts.py").write_text(CODE)
    info = tmp_path / "acme_suite-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-suite\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[promptopt.optimizers]\nown = acme.parts:Own\n[promptopt.metrics]\nstrict = acme.parts:strict\n"
        "[promptopt.tasks]\ncolours = acme.parts:colours\n"
    )
    (tmp_path / "prompt.md").write_text("Name the colour of {{item}}.")

    def say(*words: str) -> str:
        command = [Path(sys.executable).parent / "promptopt", *words]
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        return done.stdout

    assert "\nown: Keeps the prompt as it is." in say("optimizers")
    assert "\nstrict: of the package acme-suite\n" in say("metrics")
    assert "\ncolours: of the package acme-suite\n" in say("tasks")
    words = ("--model", "sim", "--budget-calls", "200", "--optimizer", "own", "--json")
    result = json.loads(say("optimize", "prompt.md", "--data", "colours", *words))
    assert (result["optimizer"], result["task"]["name"]) == ("own", "colours")
    (tmp_path / "d.csv").write_text(rows())
    result = json.loads(say("optimize", "prompt.md", "--data", "d.csv", "--metric", "strict", *words))
    assert result["task"]["metric"] == "strict"
