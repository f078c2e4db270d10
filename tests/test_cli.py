"""The command line as a user meets it: outcomes, wrong input, interruption, resuming."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
import tomllib
from contextlib import closing
from pathlib import Path

import pytest
from commandline import SUPPORT, Outcome, Runner, Wrong, check_refused, optimize, rows
from filelock import FileLock

from promptopt import cli
from promptopt.promptfile import read

COMMAND = Path(sys.executable).parent / "promptopt"


def prompt_file(folder: Path, text: str = "Name the colour of {{item}}.") -> Path:
    path = folder / "prompt.md"
    path.write_text(text, encoding="utf-8")
    return path


def csv_file(folder: Path, n: int = 90, name: str = "data.csv") -> Path:
    path = folder / name
    rows = [f"thing {i},{('red', 'green', 'blue')[i % 3]}" for i in range(n)]
    path.write_text("\n".join(["item,target", *rows]) + "\n", encoding="utf-8")
    return path


# Outcomes -----------------------------------------------------------------------------------------


def test_shows_the_whole_outcome(run: Runner, tmp_path: Path) -> None:
    done = run(*optimize("--budget-calls", 1500, "--out", "here"))
    assert done.status == 0
    assert "SIMULATED" in done.err
    assert "up to 16 calls at once" in done.err
    assert "the smallest gain that 120 test examples can prove is, at best, 5.0 points" in done.err
    assert done.out.startswith("SIMULATED MODEL")
    for part in (
        "test score",
        "p-value",
        "saved by racing",
        "$",
        "{+",
        "fixed",
        "broken",
        "target:",
        "Everything",
    ):
        assert part in done.out
    config = tomllib.loads((tmp_path / "here/config.toml").read_text(encoding="utf-8"))
    assert config["budget-calls"] == 1500
    assert (tmp_path / "here/initial.md").read_text(encoding="utf-8") == SUPPORT.read_text(encoding="utf-8")
    again = run(*shlex.split(config["run"]["command"])[1:], "--out", "there", "--json")
    first = json.loads((tmp_path / "here/result.json").read_text(encoding="utf-8"))
    assert {**json.loads(again.out), "duration_s": 0} == {**first, "duration_s": 0}


def test_json_prints_the_file_and_nothing_else(run: Runner, tmp_path: Path) -> None:
    done = run(*optimize("--budget-calls", 200, "--out", "here", "--json"))
    assert done == Outcome(0, (tmp_path / "here/result.json").read_text(encoding="utf-8"), "")


def test_quiet_says_only_the_outcome(run: Runner) -> None:
    done = run(*optimize("--budget-calls", 200, "--quiet"))
    assert done.status == 0
    assert done.err == ""
    assert "test score" in done.out
    assert "runs/support-reflect-" in done.out


def test_dry_run_spends_nothing(run: Runner, tmp_path: Path) -> None:
    done = run(*optimize("--dry-run", "--budget-usd", 2))
    assert done.status == 0
    assert "forecast: about" in done.out
    assert "$2.00 at worst" in done.out
    assert list(tmp_path.iterdir()) == []


def test_best_prompt_can_be_fed_back_in(run: Runner, tmp_path: Path) -> None:
    run(*optimize("--budget-calls", 400, "--out", "a", "--quiet"))
    best = tmp_path / "a/best.md"
    result = json.loads((tmp_path / "a/result.json").read_text(encoding="utf-8"))
    assert best.read_text(encoding="utf-8") == result["best"]["prompt"]
    done = run(*optimize("--budget-calls", 400, "--out", "b", "--json", prompt=best))
    initial = json.loads(done.out)["initial"]["prompt"]
    (tmp_path / "again.md").write_text(initial, encoding="utf-8")
    assert read(tmp_path / "again.md").prompt.id == read(best).prompt.id


def test_finished_run_is_repeated_for_nothing(run: Runner, tmp_path: Path) -> None:
    command = optimize("--budget-calls", 200, "--out", "here")
    first, n_first = run(*command), n_answers(tmp_path / "here")
    again = run(*command)
    assert again.status == 0
    assert "going on with the run in here: its" in again.err
    assert n_answers(tmp_path / "here") == n_first
    assert [line for line in again.out.splitlines() if "after" not in line] == [
        line for line in first.out.splitlines() if "after" not in line
    ]


def test_raised_budget_goes_on_also_where_the_proof_grows(run: Runner) -> None:
    run(*optimize("--budget-calls", 200, "--out", "here"))
    done = run(*optimize("--budget-calls", 300, "--out", "here", "--json"))
    assert done.status == 0
    assert json.loads(done.out)["spend"]["by_phase"]["proof"]["calls"] >= 90


def test_version(run: Runner) -> None:
    done = run("--version")
    assert (done.status, done.err) == (0, "")
    assert re.fullmatch(r"promptopt \d+\.\d+\.\d+\n", done.out)


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("promptopt optimize --optimizer prompt", {"promptagent", "promptquine"}),
        ("promptopt optimize --auto l", {"light"}),
        ("promptopt evaluate --split t", {"train", "test"}),
        ("promptopt evaluate --metric json", {"json"}),
    ],
)
def test_completion_knows_values(typed: str, offered: set[str]) -> None:
    environment = {**os.environ, "_PROMPTOPT_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": "3"}
    named = "import sys; sys.argv = ['promptopt']; from promptopt.cli import main; main()"
    command = [sys.executable, "-c", named]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert set(done.stdout.split()) == offered


def test_lists(run: Runner) -> None:
    shown = run("optimizers").out
    assert "reflect (what auto picks):" in shown
    assert "promptopt optimizers NAME: its options" in shown
    assert "  population_size=None\n" in run("optimizers", "capo").out
    assert run("optimizers", "cappo").status == 2
    assert "support: Sort the message" in run("tasks").out
    metrics = run("metrics").out
    assert metrics.count("path.py:function") == 1
    for name in ("auto", "exact", "label", "choice", "number", "json"):
        assert f"\n{name}: " in f"\n{metrics}"


def test_time_that_ends_without_an_answer_is_a_failure(run: Runner) -> None:
    dead = (
        "--model",
        "m",
        "--api-base",
        "http://127.0.0.1:9/v1",
        "--budget-seconds",
        8,  # litellm's first call takes its time on a busy machine
        "--confirm-above",
        "none",
    )
    done = run("optimize", SUPPORT, "--data", "support", *dead, "--out", "here")
    assert done.status == 1
    assert re.search(r"the time is over; the last attempt failed: .*[Cc]onnection", done.err)
    assert json.loads(Path("here/result.json").read_text())["status"] == "failed"


def test_failed_run_says_why(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def score(reply, example):\n    raise ValueError('[red]no\\x1b[31m')\n")
    done = run(*optimize("--metric", "own.py:score", "--budget-calls", 200, "--out", "here"))
    assert done.status == 1
    assert "raised ValueError: [red]no" in done.err
    assert "\x1b" not in done.out + done.err
    assert json.loads((tmp_path / "here/result.json").read_text())["status"] == "failed"


def test_data_cannot_steer_the_terminal(run: Runner, tmp_path: Path) -> None:
    rows = [{"item": f"[red]x\u202e\x1b]0;t\x07 {i}", "target": ("a[bold]", "b\x9b31m")[i % 2]} for i in range(90)]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = optimize(prompt=prompt_file(tmp_path), data="d.jsonl")
    done = run(*command, "--budget-calls", 600, "--out", "[red]")
    assert done.status == 0
    as_json = run(*command, "--budget-calls", 600, "--out", "[red]", "--json")
    for text in (done.out + done.err, as_json.out):
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(text)
    assert "Everything lies in [red]" in done.out


def test_runs_on_an_openai_compatible_server(run: Runner, endpoint: tuple[str, list[str]]) -> None:
    address, requests = endpoint
    done = run(
        *optimize("--api-base", address, "--budget-calls", 200, "--out", "here", "--json", model="local"),
        *("--price-in", "0.15", "--price-out", "0.6"),
    )
    result = json.loads(done.out)
    assert done.status == 0
    assert result["models"]["task"] == {"name": "local", "is_simulated": False}
    assert len(requests) == result["spend"]["attempts"] == result["spend"]["calls"] <= 200
    assert result["spend"]["cost_usd"] == pytest.approx(len(requests) * (20 * 0.15 + 5 * 0.6) / 1e6)


# Interruption -------------------------------------------------------------------------------------


def start(*arguments: object) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if not key.endswith("_API_KEY")}
    return subprocess.Popen(
        [COMMAND, *map(str, arguments)],
        # A background job of a shell inherits SIGINT as ignored; a user's terminal does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def n_answers(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "journal.db")) as db:
        return int(db.execute("SELECT COUNT(*) FROM answers").fetchone()[0])


def wait_for(requests: list[str], n: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while len(requests) < n:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_interrupted_run_is_kept_and_goes_on(tmp_path: Path, endpoint: tuple[str, list[str]]) -> None:
    address, requests = endpoint
    out = tmp_path / "here"
    command = optimize(
        *("--api-base", address, "--budget-calls", 240, "--concurrency", 2, "--out", out), model="local"
    )
    process = start(*command)
    wait_for(requests, 40, process)
    process.send_signal(signal.SIGINT)
    shown, said = process.communicate(timeout=60)
    assert process.returncode == cli.EXIT_INTERRUPTED
    assert said.count("stopping:") == 1
    assert "Traceback" not in said
    assert f"To go on, run the same command with --out {out}" in shown
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    assert result["status"] == "interrupted"
    assert (out / "best.md").exists()
    assert result["spend"]["calls"] == len(requests) == n_answers(out) < 240
    again = start(*command, "--json")
    shown, said = again.communicate(timeout=120)
    assert (again.returncode, said) == (0, "")
    whole = json.loads(shown)
    assert whole["spend"]["calls"] == len(requests) <= 240
    assert whole["improvement"] is not None


def test_second_interrupt_leaves_at_once(tmp_path: Path, endpoint: tuple[str, list[str]]) -> None:
    address, requests = endpoint
    out = tmp_path / "here"
    process = start(*optimize("--api-base", address, "--budget-calls", 3000, "--out", out, model="local"))
    wait_for(requests, 30, process)
    process.send_signal(signal.SIGINT)
    while process.poll() is None:
        time.sleep(0.001)
        process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == cli.EXIT_INTERRUPTED
    assert "Traceback" not in said
    assert n_answers(out) > 0


# Wrong input --------------------------------------------------------------------------------------

WRONG = [
    Wrong("missing prompt", r"gone\.md: no such file", prompt_path="gone.md"),
    Wrong("prompt is a folder", r"\.: is a folder", prompt_path="."),
    Wrong("empty prompt", r"prompt\.md: is empty", prompt=" \n"),
    Wrong("binary prompt", r"prompt\.md:1: holds NUL bytes", prompt=b"a\x00b"),
    Wrong("prompt not UTF-8", r"prompt\.md:2: byte 0xff", prompt=b"a\n\xff"),
    Wrong("bad front matter", r"prompt\.md:2: front matter is not YAML", prompt="---\na: [\n---\nx {{item}}"),
    Wrong("open front matter", r"prompt\.md:1: front matter .* never ends", prompt="---\nmetric: label\nx"),
    Wrong("unknown key", r"prompt\.md:2: .*'metrik'.*'metric'", prompt="---\nmetrik: label\n---\nx {{item}}"),
    Wrong("Jinja tag", r"prompt\.md:2: template tag", prompt="x {{item}}\n{% if x %}"),
    Wrong("open keep mark", r"prompt\.md:2: keep marks are unbalanced", prompt="x {{item}}\n<!-- keep -->y"),
    Wrong("part twice", r"prompt\.md:3: parts system, system", prompt="system:\nx {{item}}\nsystem:\ny"),
    Wrong("no column", r"prompt\.md:4: placeholder \{\{itm\}\}", prompt="---\nmetric: label\n---\nx {{itm}}"),
    Wrong("lost data", r"'gone\.csv': no such file or folder", data_path="gone.csv"),
    Wrong("mistyped task", r"'suport': .*did you mean 'support'", data_path="suport"),
    Wrong("no data named", r"--data '': no such file", data_path=""),
    Wrong("ragged row", r"data\.csv:62: 3 cells, but the header has 2", data=rows("a,b,c")),
    Wrong("open quote", r"data\.csv:62: a quote is opened", data=rows('"a,red')),
    Wrong("binary data", r"data\.csv:1: holds NUL bytes", data=b"item,target\x00"),
    Wrong("broken JSON", r"data\.jsonl:2:\d+: not JSON", data_path="data.jsonl", data='{"item": "a"}\n{"item"'),
    Wrong("other format", r"data\.xlsx: files in '\.xlsx'", data_path="data.xlsx", data="x"),
    Wrong("empty data", r"data\.csv: holds no rows", data="item,target\n"),
    Wrong("too few rows", r"data\.csv: 2 different row\(s\)", data=rows(n=2)),
    Wrong("empty target", r"data\.csv:62: target 'target' is empty", data=rows("a,")),
    Wrong("no target column", r"no target column 'label'.*--target", "--target label"),
    Wrong("no input column", r"no input column 'itm'.*'item'", "--input itm"),
    Wrong(
        "targets do not fit",
        r"data\.csv: metric 'number': target 'red' of row 'train-.*' does not fit",
        "--metric number",
    ),
    Wrong("unknown metric", r"unknown metric 'labell'.*'label'", "--metric labell"),
    Wrong("metric in the file", r"prompt\.md:2: unknown metric 'lab'", prompt="---\nmetric: lab\n---\nx {{item}}"),
    Wrong("target in the file", r"prompt\.md:2: .*no target column 'y'", prompt="---\ntarget: y\n---\nx {{item}}"),
    Wrong("no metric file", r"there is no file gone\.py", "--metric gone.py:score"),
    Wrong("unknown strategy", r"optimizer 'cappo' is unknown: did you mean 'capo'", "--optimizer cappo"),
    Wrong("no strategy file", r"there is no file gone\.py", "--optimizer gone.py:Own"),
    Wrong(
        "unknown option of it", r"no option 'populaton'.*'population_size'", "--optimizer capo --set populaton=3"
    ),
    Wrong("bad --set", r"--set size: write it as name=value", "--set size"),
    Wrong("--set twice", r"--set max_shots stands twice", "--set max_shots=1 --set max-shots=2"),
    Wrong("no number", r"max_shots=many; it must be a whole number", "--optimizer capo --set max_shots=many"),
    Wrong("no finite number", r"z=nan; it must be a finite number", "--set z=nan"),
    Wrong("no such choice", r"capo\.race=fast: .*predictive", "--optimizer capo --set race=fast"),
    Wrong(
        "size cannot work", r"population_size=1; it must be at least 2", "--optimizer capo --set population_size=1"
    ),
    Wrong("chance above 1", r"alpha=7.0; it must be above 0 and below 0.5", "--optimizer capo --set alpha=7"),
    Wrong("negative gap", r"eps=-3.0; it must be at least 0 and below 1", "--optimizer capo --set eps=-3"),
    Wrong("unknown preset", r"no preset 'papr': did you mean 'paper'", "--optimizer capo --set preset=papr"),
    Wrong("unknown landscape", r"landscape 'nonsense' does not exist", model="sim:nonsense"),
    Wrong("unknown writer", r"landscape 'nonsense' does not exist", "--optimizer-model sim:nonsense"),
    Wrong("empty model", r"--model is empty", model=""),
    Wrong("unknown model", r"model 'gpt-nonsense-9' is unknown", model="gpt-nonsense-9"),
    Wrong("no key", r"needs a key: set OPENAI_API_KEY", model="gpt-4o-mini"),
    Wrong("no price", r"no known price.*--price-in", "--api-base ENDPOINT --budget-usd 1", model="local"),
    Wrong("one price", r"both --price-in and --price-out", "--price-in 1"),
    Wrong("negative price", r"--price-in is -1", "--price-in=-1 --price-out 1"),
    Wrong("endless price", r"--price-out is 'inf'|--price-out is inf", "--price-in 1 --price-out inf"),
    Wrong(
        "no address", r"--api-base is 'localhost:1'; write it like http", "--api-base localhost:1", model="local"
    ),
    Wrong("no port", r"--api-base is .*:99999/v1'; write", "--api-base http://127.0.0.1:99999/v1", model="local"),
    Wrong(
        "whole path",
        r"/chat/completions is added .*: write http://127\.0\.0\.1:1/v1$",
        "--api-base http://127.0.0.1:1/v1/chat/completions",
        model="local",
    ),
    Wrong(
        "too few calls",
        r"budget is too small.*at least 107.*--budget-calls \d+",
        "--optimizer capo --budget-calls 20",
    ),
    Wrong("too few calls by default", r"at least 62.*--budget-calls 88, or", "--budget-calls 20"),
    Wrong("too few dollars", r"budget is too small.*--budget-usd 0\.0", "--budget-usd 0.0001"),
    Wrong("too few tokens", r"budget is too small.*--budget-tokens \d+", "--budget-tokens 900"),
    Wrong("dollars negative", r"--budget-usd is -2; it must be above 0", "--budget-usd=-2"),
    Wrong("dollars no number", r"--budget-usd is 'two'; write a number", "--budget-usd two"),
    Wrong("dollars NaN", r"--budget-usd is nan; write a finite", "--budget-usd nan"),
    Wrong("dollars endless", r"--budget-usd is inf; write a finite", "--budget-usd inf"),
    Wrong("no calls", r"--budget-calls is 0; it must be above 0", "--budget-calls 0"),
    Wrong("half a call", r"--budget-calls is '1\.5'; write a whole number", "--budget-calls 1.5"),
    Wrong("tokens negative", r"--budget-tokens is -5", "--budget-tokens=-5"),
    Wrong("seconds endless", r"--budget-seconds is inf; write a finite", "--budget-seconds inf"),
    Wrong("seconds NaN", r"--budget-seconds is nan; write a finite", "--budget-seconds nan"),
    Wrong("no concurrency", r"--concurrency is 0; it must be above 0", "--concurrency 0"),
    Wrong("negative seed", r"--seed is -1; it must be at least 0", "--seed=-1"),
    Wrong("negative proof", r"--proof-examples is -1; it must be at least 0", "--proof-examples=-1"),
    Wrong("no output", r"--max-tokens is 0; it must be above 0", "--max-tokens 0"),
    Wrong("prompt too long", r"the prompt has about 7 tokens; raise --max-prompt-tokens", "--max-prompt-tokens 3"),
    Wrong("unknown flag", r"No such option: --budget-dollars", "--budget-dollars 2"),
    Wrong("dry run as JSON", r"leave --json out", "--dry-run --json"),
    Wrong("out is a file", r"prompt\.md is a file, not a folder", "--out prompt.md"),
    Wrong("out below a file", r"prompt\.md/x cannot be written", "--out prompt.md/x"),
]


@pytest.mark.parametrize("case", WRONG, ids=lambda case: case.name.replace(" ", "-"))
def test_wrong_input(case: Wrong, run: Runner, tmp_path: Path, endpoint: tuple[str, list[str]]) -> None:
    check_refused(case, run, tmp_path, endpoint)


def test_wrong_metric_file(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def score(reply):\n    return 1\n\ndef broken(:\n")
    assert "own.py:4 cannot be imported (SyntaxError" in run(*optimize("--metric", "own.py:score")).err
    (tmp_path / "own.py").write_text("def score(reply):\n    return 1\n")
    done = run(*optimize("--metric", "own.py:score"))
    assert done.status == cli.EXIT_WRONG_USE
    assert "write def score(reply, example)" in done.err


def test_least_budget_that_is_named_works(run: Runner) -> None:
    for flag, too_small in (("--budget-calls", "20"), ("--budget-usd", "0.0001"), ("--budget-tokens", "900")):
        said = run(*optimize(flag, too_small)).err
        least = re.search(rf"give at least {flag} ([0-9.]+)[, \n]", said)
        assert least, said
        assert run(*optimize(flag, least.group(1), "--dry-run")).status == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--seed 1", "seed: 0 there, 1 now"),
        ("--set max_demos=2", "options max_demos: '8' there, '2' now"),
        ("--optimizer random", "optimizer: 'reflect' there, 'random' now"),
        ("--model sim:null", "models task name: 'sim' there, 'sim:null' now"),
        ("--max-tokens 99", "models task max_tokens: 1024 there, 99 now"),
        ("--description other", "description: "),
        ("--metric exact", "metric: 'label' there, 'exact' now"),
        ("--budget-calls 150 --proof-examples 5", "proof_examples: None there, 5 now"),
        ("--budget-calls 190", "a budget may be raised, not lowered"),
    ],
)
def test_another_configuration_on_a_folder(run: Runner, tmp_path: Path, words: str, says: str) -> None:
    run(*optimize("--budget-calls", 200, "--out", "here"))
    before = n_answers(tmp_path / "here")
    model = words.split()[1] if words.startswith("--model") else "sim"
    others = words.split() if model == "sim" else []
    budget = [] if "--budget-calls" in others else ["--budget-calls", 200]
    done = run(*optimize(*budget, "--out", "here", *others, model=model))
    assert (done.status, done.out) == (cli.EXIT_WRONG_USE, "")
    assert says in done.err
    assert done.err.count("\n") == 1
    assert n_answers(tmp_path / "here") == before


def test_changed_files_are_noticed_on_a_folder(run: Runner, tmp_path: Path) -> None:
    metric, data = tmp_path / "own.py", csv_file(tmp_path)
    metric.write_text("def score(reply, example):\n    return reply == example.target\n")
    words = ("--metric", "own.py:score", "--budget-calls", 200, "--out", "here")
    command = optimize(*words, prompt=prompt_file(tmp_path), data=data)
    assert run(*command).status == 0
    metric.write_text("def score(reply, example):\n    return reply != example.target\n")
    assert "(metric file: its content differs)" in run(*command).err
    metric.write_text("def score(reply, example):\n    return reply == example.target\n")
    csv_file(tmp_path, n=93)
    assert "(data: its content differs)" in run(*command).err
    csv_file(tmp_path)
    prompt_file(tmp_path, "Say the colour of {{item}}.")
    assert "(prompt: its content differs)" in run(*command).err
    prompt_file(tmp_path)
    assert run(*command).status == 0


def test_folder_in_use(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    with FileLock(tmp_path / "here/.lock"):
        done = run(*optimize("--out", "here"))
    assert (done.status, done.out) == (cli.EXIT_WRONG_USE, "")
    assert "here is in use by another process" in done.err


def test_foreign_database(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    with closing(sqlite3.connect(tmp_path / "here/journal.db")) as db:
        db.execute("CREATE TABLE theirs (x)")
    done = run(*optimize("--out", "here"))
    assert (done.status, done.out) == (cli.EXIT_WRONG_USE, "")
    assert "is a database of another program" in done.err


def test_real_process_refuses_wrong_use() -> None:
    process = start(*optimize(data="nowhere.csv"))
    out, said = process.communicate(timeout=60)
    assert (process.returncode, out) == (cli.EXIT_WRONG_USE, "")
    assert said.startswith("error: --data 'nowhere.csv': no such file")


def test_reader_that_leaves_is_no_traceback() -> None:
    done = subprocess.run(
        ["bash", "-c", f"{shlex.quote(str(COMMAND))} optimizers | head -n 1; exit ${{PIPESTATUS[1]}}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("capo")
    assert done.stderr == ""
