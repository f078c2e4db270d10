"""Every malformed or hostile input ends in one clear error or a right result: no traceback, no hang, no rest."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from commandline import Runner
from corpus import options, parts, prompts, tables
from corpus.case import PROMPT, Case, Content, rows

from promptopt import cli

CASES = [*prompts.CASES, *tables.CASES, *options.CASES, *parts.CASES]
MOST_S = 20.0  # a bound on hanging, generous since other programs may be busy


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """End what takes longer than so many seconds."""

    def fail(*_: object) -> None:
        raise AssertionError(f"still running after {seconds} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    started = time.monotonic()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - started < seconds


def lay_down(path: Path, content: Content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if callable(content):
        content(path)
    else:
        path.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)


def seen(folder: Path) -> dict[str, tuple[int, int]]:
    """Return what lies in a folder, with its sizes and times."""
    found = sorted(path for path in folder.rglob("*") if path.name != ".lock")
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in found}


def command_of(case: Case) -> list[object]:
    if case.command:
        return list(case.command)
    words = list(case.words)
    where = words.index("PROMPT") if "PROMPT" in words else -1
    prompt_file = words[where + 1] if where >= 0 else "prompt.md"
    words = [*words[:where], *words[where + 2 :]] if where >= 0 else words
    usual = {"--data": "data.csv", "--model": "sim", "--out": "here"}
    for flag, value in usual.items():
        words += [] if flag in words else [flag, value]
    limits = [] if any(str(word).startswith(("--budget", "--auto")) for word in words) else ["--budget-calls", 300]
    return ["optimize", prompt_file, *words, *limits, *([] if case.says else ["--dry-run"])]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_hostile_input(case: Case, run: Runner, tmp_path: Path) -> None:
    for path, content in {"prompt.md": PROMPT, "data.csv": rows(), **case.files}.items():
        lay_down(tmp_path / path, content)
    before = seen(tmp_path)
    with bounded(MOST_S):
        done = run(*command_of(case))
    assert "Traceback" not in done.err
    if case.says:
        assert (done.status, done.out) == (cli.EXIT_WRONG_USE, ""), done.err
        said = done.err.removeprefix("options from promptopt.toml\n")
        assert re.search(case.says, said), said
        if not said.startswith("Usage:"):
            assert said.startswith("error: ")
            assert said.count("\n") == 1, said
        assert len(said) < 2100
    else:
        assert done.status == cli.EXIT_DONE, done.err
        assert re.search(case.shows, done.out + done.err), done.out + done.err
    assert seen(tmp_path) == before, "something was left or changed"


def test_the_corpus_is_large_and_its_names_differ() -> None:
    assert len(CASES) >= 150
    assert len({case.name for case in CASES}) == len(CASES)
