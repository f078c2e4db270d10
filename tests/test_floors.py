"""The house: imports point down, the package stays light, the public names are the agreed ones."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import promptopt

ROOT = Path(__file__).parent.parent
FLOORS = {
    0: {"errors", "types"},
    1: {
        "template",
        "task",
        "promptfile",
        "chatfile",
        "decoding",
        "image",
        "tables",
        "data",
        "journal",
        "ledger",
        "stats",
        "contrast",
        "address",
        "secret",
        "agreement",
        "option",
        "bound",
        "named_budget",
        "plugin",
        "transcript",
        "progress",
    },
    2: {"providers", "gateway", "pacing", "facts", "reply", "failure", "simulator", "protocol", "tape"},
    3: {
        "gate",
        "front",
        "tokens",
        "label",
        "embedding",
        "judging",
        "rating",
        "asking",
        "evaluation",
        "contest",
        "study",
        "demonstration",
        "reward",
        "pruning",
        "prefix",
        "vocabulary",
    },
    4: {"tasks", "optimizers"},
    5: {
        "registry",
        "config",
        "settings_file",
        "models_file",
        "roles",
        "sizing",
        "plan",
        "result",
        "verdict",
        "wording",
        "result_file",
        "folder",
        "brief",
        "recording",
        "replaying",
        "probe",
        "proof",
        "meter",
        "watching",
        "run",
        "scoring",
        "judge_check",
        "report",
        "api",
        "grid",
        "comparison",
        "cell",
        "summing",
        "comparing",
        "compare_words",
    },
    6: {
        "screen",
        "screen_live",
        "catalogue",
        "fault",
        "server",
        "cli",
        "cli_options",
        "cli_run",
        "cli_evaluate",
        "cli_judge",
        "cli_replay",
        "cli_compare",
        "screen_compare",
        "cli_report",
        "cli_watch",
        "pytest_plugin",
        "command",
        "screen_evaluation",
        "starter",
        "testing",
    },
}
FLOOR_OF = {name: floor for floor, names in FLOORS.items() for name in names}
HEAVY = ("litellm", "aiohttp", "dspy", "sklearn", "pandas", "polars", "pyarrow", "numpy", "scipy", "yaml", "rich")
HEAVY += ("jinja2", "matplotlib")


def modules() -> list[tuple[str, Path]]:
    """Return (module below promptopt, file) of all three folders."""
    found = [(path.stem, path) for path in (ROOT / "promptopt").glob("*.py") if path.stem != "__init__"]
    folders = (
        "promptopt/simulator",
        "promptopt/stats",
        "promptopt/report",
        "promptopt/testing",
        "tasks",
        "optimizers",
    )
    for folder in folders:
        found += [(folder.rpartition("/")[2], path) for path in (ROOT / folder).rglob("*.py")]
    return found


def imported(path: Path) -> set[str]:
    """Return the modules below promptopt that a file imports, type checking aside."""
    names: set[str] = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("promptopt"):
            rest = (node.module or "").split(".")[1:]
            names |= {rest[0]} if rest else {alias.name for alias in node.names}
        if isinstance(node, ast.Import):
            names |= {a.name.split(".")[1] for a in node.names if a.name.startswith("promptopt.")}
    return names


@pytest.mark.parametrize(("name", "path"), modules(), ids=lambda value: str(value).rpartition("/")[2])
def test_imports_point_down(name: str, path: Path) -> None:
    assert name in FLOOR_OF, f"put {name} on a floor"
    for other in imported(path) - {name}:
        assert FLOOR_OF[other] <= FLOOR_OF[name], f"{path.name} (floor {FLOOR_OF[name]}) imports {other}"
        if name in ("tasks", "optimizers"):
            assert other not in ("tasks", "optimizers")


@pytest.mark.parametrize("path", list((ROOT / "optimizers").glob("*.py")), ids=lambda p: p.stem)
def test_strategies_touch_nothing_but_the_study(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    roots = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
    }
    assert not roots & {"asyncio", "random", "time", "os", "sys", "pathlib", "threading"}
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not calls & {"print", "open"}
    caught = {
        ast.unparse(node.type) for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and node.type
    }
    assert not caught


@pytest.mark.parametrize("code", ["import promptopt", "import promptopt.cli"])
def test_stays_light(code: str) -> None:
    probe = f"{code}\nimport sys\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("arguments", [["--help"], ["optimize", "--help"], ["simulate", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    probe = (
        "import sys, promptopt.cli\n"
        f"sys.argv = ['promptopt', *{arguments!r}]\n"
        "try:\n    promptopt.cli.main()\n"
        f"finally:\n    sys.stderr.write(str([name for name in {HEAVY!r} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert "Usage" in done.stdout
    assert done.stderr == "[]"


def test_public_names() -> None:
    assert len(promptopt.__all__) <= 25
    assert sorted(promptopt.__all__) == promptopt.__all__
    for name in promptopt.__all__:
        documented = getattr(promptopt, name)
        assert documented.__doc__, f"{name} needs a docstring"
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = promptopt.nonsense


@pytest.mark.parametrize("folder", ["tasks", "optimizers"])
def test_bare_names_are_refused(folder: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import {folder}"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 1
    assert f"import promptopt.{folder}" in done.stderr
