"""Plug-ins of every kind come from a file, a module or an installed package; what cannot be used is named."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_registry import OWN

from promptopt import plugin, registry
from promptopt.config import load_task
from promptopt.errors import ConfigError
from promptopt.tasks import metrics, plugged
from promptopt.types import Example, Metric, Prompt

CODE = (
    OWN
    + """
from promptopt.tasks.metrics import load
from promptopt.task import Task
from promptopt.types import Example, Prompt

def polite(reply, example):
    return float("please" in reply), "say please"

class Strict:
    name = "strict"
    def score(self, reply, example):
        return 1.0 if reply == example.target else 0.0

strict = Strict()

class Needy:
    def __init__(self, much): ...
    def score(self, reply, example): ...

def colours():
    rows = [Example(f"r{i}", {"item": f"thing {i}"}, ("red", "blue")[i % 2]) for i in range(60)]
    return Task("colours", load("label", ["red", "blue"]), tuple(rows[:15]), tuple(rows[15:35]), tuple(rows[35:]),
                input_column="item", description="Colours of things.")

ready = colours()

def broken():
    return [][1]

def wrong():
    return 3
"""
)
POINTS = """
[promptopt.optimizers]
own = acme.parts:Own

[promptopt.metrics]
polite = acme.parts:polite
strict = acme.parts:Strict

[promptopt.tasks]
colours = acme.parts:colours
"""
Install = Callable[..., None]
KINDS = (plugin.Kind("optimizer", "promptopt.optimizers", ("capo",)), metrics.kind(), plugged.kind())


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Return a function that installs the package acme (or another) in a folder on sys.path."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def installed(points: str = POINTS, package: str = "acme", code: str = CODE) -> None:
        forget(package)
        (tmp_path / package).mkdir(exist_ok=True)
        (tmp_path / package / "__init__.py").write_text("")
        (tmp_path / package / "parts.py").write_text(code)
        info = tmp_path / f"{package}_suite-1.0.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}-suite\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(points)

    yield installed
    forget("acme", "rival")


def forget(*packages: str) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in packages]:
        del sys.modules[name]


def load_metric(name: str) -> Metric:
    return metrics.load(name, ["x"])


def spellings(folder: Path, name: str) -> tuple[str, str]:
    return f"{folder / 'acme' / 'parts.py'}:{name}", f"acme.parts:{name}"


def test_strategies_come_from_everywhere(install: Install, tmp_path: Path) -> None:
    install()
    assert "own" in registry.optimizer_names()
    digests = set()
    for name in ("own", *spellings(tmp_path, "Own")):
        _, optimizer = registry.make_optimizer(name, {"n": "7"})
        assert registry.options_of(optimizer)["n"] == 7
        digests.add(registry.source_digest(name))
    assert len(digests) == 1
    assert digests != {""}


def test_metrics_come_from_everywhere(install: Install, tmp_path: Path) -> None:
    install()
    example = Example("e", {"input": "i"}, "please")
    digests = set()
    for name in ("polite", "strict", *spellings(tmp_path, "polite"), *spellings(tmp_path, "strict")):
        metric = metrics.load(name, [])
        assert metric.name == name
        assert metric.score("please", example).value == 1
        assert metric.score("no", example).value == 0
        assert isinstance(metric, metrics.FunctionMetric)
        digests.add(metric.digest)
    assert len(digests) == 1


def test_tasks_come_from_everywhere(install: Install, tmp_path: Path) -> None:
    install()
    for name in ("colours", *spellings(tmp_path, "colours"), *spellings(tmp_path, "ready")):
        task, notes = load_task(name, columns_of=Prompt("Name it."))
        assert (task.name, len(task.test), task.description, notes) == ("colours", 25, "Colours of things.", ())
        assert load_task(name, description="mine")[0].description == "mine"
        assert plugged.source_digest(name)
    with pytest.raises(ConfigError, match="--metric, --input: only for data; the Task 'colours' has its own"):
        load_task("colours", metric="exact", input="item")


def test_changed_code_has_another_digest(install: Install, tmp_path: Path) -> None:
    install()
    strategies, tasks = ("own", *spellings(tmp_path, "Own")), ("colours", *spellings(tmp_path, "ready"))
    before = [*map(registry.source_digest, strategies), *map(plugged.source_digest, tasks)]
    install(code=CODE + "# other\n")
    after = [*map(registry.source_digest, strategies), *map(plugged.source_digest, tasks)]
    assert not set(before) & set(after)
    assert registry.source_digest("capo") == ""
    assert plugged.source_digest("support") == plugged.source_digest("gone") == ""


def test_a_class_that_a_module_only_passes_on_changes_with_its_own_file(install: Install, tmp_path: Path) -> None:
    install()
    (tmp_path / "acme/__init__.py").write_text("from acme.parts import Own\n")
    before = registry.source_digest("acme:Own")
    install(code=CODE + "# other\n")
    (tmp_path / "acme/__init__.py").write_text("from acme.parts import Own\n")
    assert registry.source_digest("acme:Own") != before


def test_the_digest_of_a_file_does_not_run_it(tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text("1 / 0")
    assert registry.source_digest(f"{tmp_path / 'loud.py'}:Own")


def test_names_and_packages_are_listed(install: Install) -> None:
    install()
    assert plugin.installed(metrics.kind()) == (("polite", "acme-suite"), ("strict", "acme-suite"))
    assert {"polite", "exact", "none"} <= set(plugin.names(metrics.kind()))


@pytest.mark.parametrize(
    ("kind", "group", "name"),
    [(KINDS[0], "optimizers", "capo"), (KINDS[1], "metrics", "exact"), (KINDS[2], "tasks", "support")],
)
def test_a_package_that_takes_a_built_in_name_is_refused(
    install: Install, kind: plugin.Kind, group: str, name: str
) -> None:
    install(f"[promptopt.{group}]\n{name} = acme.parts:Own\n")
    load = {
        "optimizers": registry.optimizer_class,
        "metrics": load_metric,
        "tasks": load_task,
    }
    with pytest.raises(
        ConfigError, match=f"'{name}' is built in, and the package acme-suite lists .*acme.parts:Own"
    ):
        load[group](name)
    registry.optimizer_class("random")


def test_two_packages_of_one_name_are_refused(install: Install) -> None:
    install()
    install("[promptopt.metrics]\npolite = rival.parts:polite\n", "rival")
    said = r"several things \(acme.parts:polite, rival.parts:polite\), listed by acme-suite, rival-suite"
    with pytest.raises(ConfigError, match=said):
        metrics.load("polite", [])
    assert metrics.load("rival.parts:polite", []).name == "rival.parts:polite"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "acme.part:Own",
            r"there is no module 'acme.part'; did you mean 'parts'\? A file is named as path.py:Name",
        ),
        ("acmee.parts:Own", r"there is no module 'acmee'; did you mean 'acme'\?"),
        ("acme.parts:Onw", "module acme.parts has no 'Onw'; did you mean 'Own'"),
        ("acme.parts:Own.nope", "has no 'nope'"),
        ("FOLDER/acme/part.py:Own", r"there is no file .*part.py; did you mean 'parts.py'\?"),
        ("FOLDER/gone/part.py:Own", "there is no folder .*gone either"),
        ("FOLDER/acme.py:Own", "cannot read .*acme.py .*check the path"),
        ("ovn", "'own'"),
    ],
)
def test_what_is_not_there_is_named_with_what_is_near(
    install: Install, tmp_path: Path, name: str, said: str
) -> None:
    install(
        POINTS + "own = acme.parts:ready\n\n[promptopt.metrics]\nown = acme.parts:polite\n".partition("\n\n")[2]
    )
    (tmp_path / "acme.py").mkdir()
    name = name.replace("FOLDER", str(tmp_path))
    for load in (registry.optimizer_class, load_metric):
        with pytest.raises(ConfigError, match=said):
            load(name)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("x = 1\n1 / 0\n", r"parts\.py:2 cannot be imported \(ZeroDivisionError: division by zero\)"),
        ("import json\njson.loads('{')\n", r"parts\.py:2 cannot be imported \(JSONDecodeError"),
        ("def f(:\n", r"parts\.py:1 cannot be imported \(SyntaxError"),
        ("\nimport no_such_thing\n", r"parts\.py:2 cannot be imported \(ModuleNotFoundError"),
        ("import sys\nsys.exit(0)\n", r"parts\.py:2 cannot be imported \(SystemExit: 0\)"),
        ("raise ValueError\n", r"parts\.py:1 cannot be imported \(ValueError"),
    ],
)
def test_code_that_raises_is_one_message_with_its_line(
    install: Install, tmp_path: Path, code: str, said: str
) -> None:
    install(code=code)
    for kind, short in zip(KINDS, ("own", "polite", "colours"), strict=True):
        for name in (short, *spellings(tmp_path, "Own")):
            with pytest.raises(ConfigError, match=said) as caught:
                plugin.find(kind, name)
            assert name in str(caught.value)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("broken", r"parts\.py:\d+ raised IndexError: list index out of range; mend the function"),
        ("wrong", "gives int there; name a promptopt.Task"),
        ("polite", r"parts(\.py)? needs reply, example; name a promptopt.Task, or a function without arguments"),
        ("Half", "gives Half there"),
    ],
)
def test_what_gives_no_task(install: Install, tmp_path: Path, name: str, said: str) -> None:
    install()
    for spelled in spellings(tmp_path, name):
        with pytest.raises(ConfigError, match=said):
            load_task(spelled)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("colours", r"cannot be called with two arguments .*write def colours\(reply, example\)"),
        ("Needy", r"Needy\(\) raised TypeError.*made without arguments"),
        ("Half", "Half is no function"),
        ("ready", "ready is no function"),
    ],
)
def test_what_is_no_metric(install: Install, tmp_path: Path, name: str, said: str) -> None:
    install()
    for spelled in spellings(tmp_path, name):
        with pytest.raises(ConfigError, match=said):
            metrics.load(spelled, [])


def test_installed_strategies_are_checked_too(install: Install) -> None:
    install("[promptopt.optimizers]\nhalf = acme.parts:Half\nfunction = acme.parts:function\n")
    with pytest.raises(ConfigError, match="'half' lacks source, requires"):
        registry.optimizer_class("half")
    with pytest.raises(ConfigError, match="'function' must be a dataclass"):
        registry.optimizer_class("function")
