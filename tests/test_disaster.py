"""What may befall a run's folder: a full disk, a cut log or file, a rival, clocks that jump, no leave to write."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from commandline import SUPPORT, Runner, optimize, run  # noqa: F401  # a fixture
from counting import counted
from scripted import Scripted, make_run, model
from served import COMMAND
from test_crash import examples, program, start

from promptopt.config import Settings
from promptopt.errors import ConfigError, JournalError
from promptopt.journal import Journal
from promptopt.testing import answered, outcome
from promptopt.types import Budget, Request

SETTINGS = Settings(model="sim", budget=Budget(calls=200), optimizer="capo", seed=3)
PAGE, LOG_HEADER, FRAME_HEADER = 4096, 32, 24  # bytes, of SQLite's file format

LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)
from promptopt.cli import main
main()
"""

UNPRIVILEGED = """
import os, sys
from pathlib import Path
from promptopt import cli
sys.argv[1:], folder = sys.argv[2:], sys.argv[1]
def go(out):
    try:
        sys.argv[-1] = out
        cli.main()
    except SystemExit as ended:
        return ended.code
go(folder + "/warm")  # imports all that is needed, which the other user may not read
os.setgid(65534), os.setuid(65534)
sys.stderr.write("now\\n")
sys.exit(go(folder + "/locked/run"))
"""


def execute(folder: Path, transport: Scripted | None = None, settings: Settings = SETTINGS) -> Scripted:
    """Run, or go on with what stands in `folder`; return what played the model."""
    transport = transport or Scripted(model)
    asyncio.run(make_run(folder, transport, settings=settings).execute())
    return transport


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="files cannot be limited on this system")
@pytest.mark.parametrize("n_bytes", [8_000, 100_000, 260_000])
def test_a_full_disk_ends_a_run_with_one_error_and_loses_nothing(tmp_path: Path, n_bytes: int) -> None:
    words = [str(word) for word in optimize("--budget-calls", 300, "--quiet", "--out", tmp_path / "run")]
    full = subprocess.run(
        [sys.executable, "-c", LIMITED, str(n_bytes), *words], capture_output=True, text=True, timeout=120
    )
    assert full.returncode in (1, 2), full.stderr
    assert full.stderr.startswith("error: ")
    assert full.stderr.count("\n") == 1
    assert "journal.db" in full.stderr or "cannot be written" in full.stderr
    assert not list((tmp_path / "run").glob(".*.part")), "no half-written file"
    assert not (tmp_path / "run" / "result.json").exists()
    kept = answered(tmp_path / "run") if n_bytes > PAGE * 3 else set()
    for folder in ("run", "whole"):
        again = subprocess.run([COMMAND, *words[:-1], tmp_path / folder], capture_output=True, timeout=120)
        assert again.returncode == 0, again.stderr
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")
    assert kept <= answered(tmp_path / "run")


def logged(folder: Path) -> Path:
    """Return a run folder as a kill near the end leaves it: all rows are in the write-ahead log still."""
    transport = Scripted(model)

    def copy(_: Request) -> None:
        if len(transport.requests) == 170:
            shutil.copytree(folder / "run", folder / "killed")

    transport.on_request = copy
    execute(folder / "run", transport)
    (folder / "killed" / "journal.db-shm").unlink()
    return folder / "killed"


def cut(folder: Path, n_bytes: int, to: Path) -> Path:
    """Return a copy of a run folder whose write-ahead log is cut at so many bytes."""
    shutil.copytree(folder, to)
    os.truncate(to / "journal.db-wal", n_bytes)
    return to


def test_a_log_cut_at_any_byte_loses_its_tail_alone(tmp_path: Path) -> None:
    killed = logged(tmp_path)
    size = (killed / "journal.db-wal").stat().st_size
    n_frames = (size - LOG_HEADER) // (PAGE + FRAME_HEADER)
    assert n_frames > 30
    edges = [LOG_HEADER + i * (PAGE + FRAME_HEADER) for i in range(0, n_frames + 1, max(1, n_frames // 30))]
    draw = random.Random(0)
    places = sorted({*edges, *(edge + 1 for edge in edges), *(draw.randrange(size) for _ in range(60)), 0, size})
    before: set[str] = set()
    for i, n_bytes in enumerate(place for place in places if place <= size):
        folder = cut(killed, n_bytes, tmp_path / f"cut-{n_bytes}")
        with Journal(folder / "journal.db"):
            pass
        kept = answered(folder)
        assert kept >= before, f"cut at {n_bytes}, an answer is lost that a shorter log has"
        before = kept
        if i % 12 == 0:
            shutil.copytree(folder, tmp_path / "again", dirs_exist_ok=True)
            resumed = execute(tmp_path / "again")
            assert outcome(tmp_path / "again") == outcome(tmp_path / "run")
            assert not {request.digest for request in resumed.requests} & kept, "nothing kept is asked again"
            shutil.rmtree(tmp_path / "again")
        shutil.rmtree(folder)
    assert len(before) >= 150


def test_a_cut_main_file_is_refused_with_a_remedy_or_right(tmp_path: Path, run: Runner) -> None:  # noqa: F811
    words = optimize("--budget-calls", 160, "--quiet")
    assert run(*words, "--out", "whole").status == 0
    expected, whole = outcome(tmp_path / "whole"), (tmp_path / "whole" / "journal.db").read_bytes()
    places = [0, 1, 99, 100, 101, 512, PAGE - 1, PAGE, PAGE + 1, *range(2 * PAGE, len(whole), len(whole) // 25)]
    for n_bytes in (*places, len(whole) - PAGE, len(whole) - 1):
        folder = tmp_path / f"cut-{n_bytes}"
        shutil.copytree(tmp_path / "whole", folder)
        (folder / "journal.db").write_bytes(whole[:n_bytes])
        done = run(*words, "--out", folder)
        assert (done.status, done.out) == (2, ""), f"cut at {n_bytes}: {done}"
        assert "choose another --out" in done.err
        assert done.err.count("\n") == 1
        assert n_bytes == 0 or (folder / "journal.db").read_bytes() == whole[:n_bytes], "left as it was"
        assert outcome(folder) == expected
        shutil.rmtree(folder)


def test_a_damaged_page_is_never_a_traceback(tmp_path: Path) -> None:
    execute(tmp_path / "run")
    whole, expected = (tmp_path / "run" / "journal.db").read_bytes(), outcome(tmp_path / "run")
    draw = random.Random(1)
    n_other, said = 0, []
    for i in range(30):
        folder = tmp_path / str(i)
        shutil.copytree(tmp_path / "run", folder)
        place = draw.randrange(100, len(whole) - 64)
        (folder / "journal.db").write_bytes(whole[:place] + draw.randbytes(64) + whole[place + 64 :])
        try:
            execute(folder)
            n_other += outcome(folder) != expected
        except (ConfigError, JournalError) as error:
            said.append(str(error))
        shutil.rmtree(folder)
    assert len(said) >= 3
    assert all("choose another --out" in message for message in said)
    assert n_other <= 6, "a changed text is an answer like another: nothing can tell it"


def test_a_second_process_is_refused_and_the_lock_dies_with_the_first(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with counted(examples(), latency_ms=250) as service:
        words = program(folder, service, "random")
        first = start(words)
        try:
            deadline = time.monotonic() + 60
            while service.n_asked < 5:
                assert first.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.002)
            n_before = service.n_asked
            command = [COMMAND, *map(str, optimize("--budget-calls", 300, "--out", folder))]
            second = subprocess.run(command, capture_output=True, text=True, timeout=60)
            assert first.poll() is None, "the first goes on"
            assert second.returncode == 2
            assert second.stderr.splitlines()[-1].startswith(f"error: {folder} is in use by another process")
            assert service.n_asked > n_before
        finally:
            first.kill()
            first.communicate(timeout=20)
        third = start(words)
        assert third.communicate(timeout=90)[1] == ""
        assert third.returncode == 0


def test_clocks_that_jump_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(model="sim", budget=Budget(calls=200, seconds=3600), optimizer="capo", seed=3)
    execute(tmp_path / "whole", settings=settings)
    draw, real = random.Random(0), time.time

    def jumping() -> float:
        return real() + draw.choice((-1e7, -3600.0, 0.0, 3600.0, 1e8))

    monkeypatch.setattr(time, "time", jumping)
    execute(tmp_path / "jumped", settings=settings)
    assert outcome(tmp_path / "jumped") == outcome(tmp_path / "whole")
    with closing(sqlite3.connect(tmp_path / "jumped" / "journal.db")) as db:
        (elapsed_s,) = db.execute("SELECT SUM(elapsed_s) FROM sessions").fetchone()
    assert 0 < elapsed_s < 600, "durations hang on no clock that can jump"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root, to become somebody else")
def test_a_read_only_folder_is_refused_before_anything_is_spent(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == 0 and folder.stat().st_mode & 0o005 != 0o005 and "pytest" in folder.name:
            folder.chmod(0o755)
    words = list(map(str, optimize("--budget-calls", 160, "--quiet", "--out", "here")))
    done = subprocess.run(
        [sys.executable, "-c", UNPRIVILEGED, str(tmp_path), *words], capture_output=True, text=True, timeout=120
    )
    said = done.stderr.partition("now\n")[2]
    if "Permission denied" in said and str(SUPPORT.parent) in said:
        pytest.skip("the project's own files may not be read by another user here")
    assert done.returncode == 2, done.stderr
    assert said == f"error: {locked}/run cannot be written (Permission denied); choose another --out\n"
    assert list(locked.iterdir()) == []


@pytest.mark.parametrize("name", ["result.json", "best.md", "config.toml"])
def test_a_file_that_cannot_be_written_costs_nothing(tmp_path: Path, name: str) -> None:
    execute(tmp_path / "whole")
    folder = tmp_path / "run"
    (folder / name).mkdir(parents=True)
    (folder / "journal.db").touch()  # or it would be the folder of somebody else
    if name == "result.json":
        shutil.rmtree(folder / name)
        transport = Scripted(model)
        transport.on_request = lambda _: (folder / name).mkdir(exist_ok=True)
    else:
        transport = Scripted(model)
    with pytest.raises(JournalError, match=rf"{name} cannot be written: Is a directory; the journal holds all"):
        execute(folder, transport)
    assert not list(folder.glob(".*.part"))
    (folder / name).rmdir()
    kept = answered(folder)
    again = execute(folder)
    assert not {request.digest for request in again.requests} & kept
    assert outcome(folder) == outcome(tmp_path / "whole")
